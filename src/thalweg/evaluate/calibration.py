r"""Split conformal calibration: from an energy to a p-value with a guaranteed false-alarm rate.

Vovk, Gammerman & Shafer (2005), *Algorithmic learning in a random world*; Bates, Candès, Lei, Romano & Sesia
(2023), *Testing for outliers with conformal p-values*.
"""

import numpy as np


def conformal_p_values(energies: np.ndarray, calibration: np.ndarray) -> np.ndarray:
    r"""\(p = \frac{1 + \#\{j : F(y_j) \ge F(y)\}}{m + 1}\) for each energy.

    `calibration` (m,) are energies of rows that training never saw. For a fresh row of the same source
    \(P(p \le \alpha) \le \alpha\), whatever the energy is; the smallest p-value there can be is 1/(m+1).
    """
    ordered = np.sort(np.asarray(calibration, np.float64))
    at_least = len(ordered) - np.searchsorted(ordered, np.asarray(energies, np.float64), side="left")
    return (1.0 + at_least) / (len(ordered) + 1.0)


def calibration_curve(p_values: np.ndarray, alphas: np.ndarray) -> np.ndarray:
    r"""The share of rows with \(p \le \alpha\), for each \(\alpha\): the diagonal, where calibrated."""
    return (np.asarray(p_values)[:, None] <= np.asarray(alphas)[None, :]).mean(axis=0)
