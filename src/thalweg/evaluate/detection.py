"""How well a score separates anomalies from the rest."""

import numpy as np
from scipy.stats import rankdata


def auroc(scores: np.ndarray, anomalous: np.ndarray) -> float:
    """The probability that an anomaly scores higher than a normal row, ties counting one half.

    The Mann–Whitney statistic; nan where one of the two kinds is absent.
    """
    anomalous = np.asarray(anomalous, bool)
    positives, negatives = int(anomalous.sum()), int((~anomalous).sum())
    if positives == 0 or negatives == 0:
        return float("nan")
    ranks = rankdata(np.asarray(scores, np.float64))
    return float((ranks[anomalous].sum() - positives * (positives + 1) / 2) / (positives * negatives))
