"""score: is this row normal?"""

import warnings
from collections.abc import Callable

import numpy as np

from thalweg.data.rows import Rows
from thalweg.energy.base import AbstractEnergy
from thalweg.errors import DataWarning, SettingsError
from thalweg.evaluate.calibration import conformal_p_values

#: Patterns of missing cells that are each calibrated by themselves.
PATTERNS = 32


def method(kind: type[AbstractEnergy]) -> str:
    return "exact: F, and a split conformal p-value"


def p_values(
    energies: Callable[[Rows], np.ndarray], rows: Rows, calibration: Rows, known: np.ndarray
) -> np.ndarray:
    """The conformal p-value of each row; `known` are the energies of the calibration rows.

    A row with missing cells is compared with the calibration rows as they look with the same cells missing; so it
    stays valid for a column that is absent altogether. Beyond the `PATTERNS` most frequent patterns, rows are
    compared with the calibration rows as they are.
    """
    own = energies(rows)
    out = conformal_p_values(own, known)
    if rows.complete.all():
        return out
    patterns, which, counts = np.unique(rows.observed, axis=0, return_inverse=True, return_counts=True)
    for number in np.argsort(-counts)[:PATTERNS]:
        mask, here = patterns[number], which.reshape(-1) == number
        if not mask.all():
            hidden = Rows(calibration.values, calibration.observed & mask, calibration.unseen)
            out[here] = conformal_p_values(own[here], energies(hidden))
    return out


def check_alpha(alpha: float, calibration: int) -> None:
    """Raises `SettingsError` for an alpha outside (0, 1); warns where no row could be flagged at it."""
    if not 0 < alpha < 1:
        raise SettingsError(f"alpha is a false-alarm rate between 0 and 1, not {alpha}")
    if alpha < 1 / (calibration + 1):
        warnings.warn(
            f"nothing can be flagged at alpha={alpha:g} with {calibration} calibration rows: "
            f"the smallest p-value is {1 / (calibration + 1):.3g}; use a larger alpha or more rows",
            DataWarning,
            stacklevel=3,
        )
