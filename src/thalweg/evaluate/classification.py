"""How good the probabilities of classes are."""

import numpy as np
from jaxtyping import Float, Int

from thalweg.errors import SettingsError


def accuracy(probabilities: Float[np.ndarray, "n k"], labels: Int[np.ndarray, "n"]) -> float:
    """The share of rows whose most probable class is the right one."""
    return float(np.mean(np.argmax(probabilities, axis=1) == labels))


def reliability(
    probabilities: Float[np.ndarray, "n k"], labels: Int[np.ndarray, "n"], bins: int = 15
) -> tuple[Float[np.ndarray, "b"], Float[np.ndarray, "b"], Int[np.ndarray, "b"]]:
    """By even bins of the largest probability: its mean, the share of rows that it was right about, and how many rows
    there are; of the bins that have any.

    DeGroot & Fienberg (1983), *The comparison and evaluation of forecasters*.
    """
    if bins < 1:
        raise SettingsError(f"there is at least one bin, not {bins}")
    sure = np.max(probabilities, axis=1)
    right = np.argmax(probabilities, axis=1) == labels
    place = np.clip(np.ceil(sure * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    some = counts > 0
    means = [np.bincount(place, values, bins)[some] / counts[some] for values in (sure, right.astype(float))]
    return means[0], means[1], counts[some]


def calibration_error(
    probabilities: Float[np.ndarray, "n k"], labels: Int[np.ndarray, "n"], bins: int = 15
) -> float:
    r"""The expected calibration error: \(\sum_b \frac{n_b}{n} |\text{accuracy}_b - \text{confidence}_b|\).

    Naeini, Cooper & Hauskrecht (2015), *Obtaining well calibrated probabilities using Bayesian binning*. It is never 0
    for few rows, however good the probabilities are.
    """
    sure, right, counts = reliability(probabilities, labels, bins)
    return float(np.sum(counts * np.abs(right - sure)) / np.sum(counts))


def brier_score(probabilities: Float[np.ndarray, "n k"], labels: Int[np.ndarray, "n"]) -> float:
    r"""\(\frac1n \sum_i \sum_k (p_{ik} - [y_i = k])^2\), from 0 to 2.

    Brier (1950), *Verification of forecasts expressed in terms of probability*.
    """
    truth = np.eye(probabilities.shape[1])[labels]
    return float(np.mean(np.sum((probabilities - truth) ** 2, axis=1)))
