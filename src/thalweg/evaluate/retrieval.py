"""How well distances find what belongs together: recall of the nearest, and the equal error rate of verification."""

import numpy as np
from jaxtyping import Bool, Float, Int


def recall_at(found: Int[np.ndarray, "n k"], right: Int[np.ndarray, "n"], k: int) -> float:
    """The share of rows whose right answer is among the first `k` that were found."""
    return float(np.mean(np.any(np.asarray(found)[:, :k] == np.asarray(right)[:, None], axis=1)))


def equal_error_rate(distances: Float[np.ndarray, "n"], same: Bool[np.ndarray, "n"]) -> float:
    """The error at the threshold where as many pairs of two kinds are accepted as pairs of one kind are refused.

    A pair is accepted at a distance up to the threshold; between two thresholds both rates are taken as straight
    lines. nan where one of the two kinds of pairs is absent.
    """
    distances, same = np.asarray(distances, np.float64), np.asarray(same, bool)
    if same.all() or not same.any():
        return float("nan")
    thresholds = np.unique(distances)
    refused = 1 - np.searchsorted(np.sort(distances[same]), thresholds, side="right") / same.sum()
    accepted = np.searchsorted(np.sort(distances[~same]), thresholds, side="right") / (~same).sum()
    # Below every distance all are refused.
    refused, accepted = np.append(1.0, refused), np.append(0.0, accepted)
    after = int(np.argmax(accepted >= refused))
    gap = refused - accepted
    share = gap[after - 1] / (gap[after - 1] - gap[after])
    return float(accepted[after - 1] + share * (accepted[after] - accepted[after - 1]))
