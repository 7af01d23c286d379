"""score: is this row normal?"""

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from thalweg.data.rows import Rows
from thalweg.energy.base import AbstractEnergy
from thalweg.energy.capabilities import AbstractScored, AbstractSmoothed
from thalweg.energy.spaces import Record
from thalweg.errors import DataWarning, NotAnswered, SettingsError
from thalweg.evaluate.calibration import conformal_p_values
from thalweg.questions.batches import by_row, in_batches

#: Patterns of missing cells that are each calibrated by themselves.
PATTERNS = 32


def method(kind: type[AbstractEnergy]) -> str | None:
    if issubclass(kind, AbstractScored):
        return None
    if issubclass(kind, AbstractSmoothed):
        return "exact: F and the smoother energy beside it, and a split conformal p-value"
    return "exact: F, and a split conformal p-value"


def surprises(
    F: AbstractEnergy, energies: np.ndarray, rows: Rows, usual: Float[np.ndarray, "2 2"]
) -> Float[np.ndarray, "n"]:
    r"""How odd each row is: \(F\), given as `energies`; or \(\max_j (F_j - m_j)/s_j\) of F and the smoother energy, and
    of images the latter alone.

    A likelihood is the sum of what many columns say, and a row may have a high one because it is simple and not
    because it is usual (Nalisnick, Matsukawa, Teh, Gorur & Lakshminarayanan 2019; Serrà et al. 2020); a smooth
    density does not see that a relation is exact, as pixels have none. `usual` holds m and s, one line an energy.
    """
    if not isinstance(F, AbstractSmoothed):
        return energies
    standing = (np.stack([energies, _smooth(F, rows)]) - usual[:, :1]) / usual[:, 1:]
    is_image = isinstance(F.space, Record) and any(column.pixel for column in F.space.columns)
    return standing[1] if is_image else np.max(standing, axis=0)


def usual_energies(F: AbstractEnergy, energies: np.ndarray, rows: Rows) -> Float[np.ndarray, "2 2"]:
    """The median of F and of the smoother energy among rows, and how far their upper tenth lies above it."""
    if not isinstance(F, AbstractSmoothed) or not len(rows):
        return np.array([[0.0, 1.0], [0.0, 1.0]])
    both = np.stack([energies, _smooth(F, rows)])
    middle, high = np.quantile(both, (0.5, 0.9), axis=1)
    return np.stack([middle, np.maximum(high - middle, 1e-6 * (1 + np.abs(middle)))], axis=1)


def _smooth(F: AbstractSmoothed, rows: Rows) -> Float[np.ndarray, "n"]:
    out = np.empty(len(rows), np.float64)
    whole = rows.complete
    if whole.any():
        out[whole] = in_batches(_of_whole, F, rows.values[whole])
    if not whole.all():
        out[~whole] = in_batches(_of_parts, F, rows.values[~whole], rows.observed[~whole])
    return out


@eqx.filter_jit
def _of_whole(F, y):
    """What depends on which cells are known is then the same for all rows, and computed once."""
    return by_row(lambda y: F.smooth(y, jnp.ones(y.shape, bool)), y)


@eqx.filter_jit
def _of_parts(F, y, observed):
    return by_row(F.smooth, y, observed)


class Calibration(Protocol):
    """Rows that training never saw, and how odd they are."""

    @property
    def rows(self) -> Rows: ...

    @property
    def surprises(self) -> np.ndarray: ...


def judge(
    own: Float[np.ndarray, "n"],
    rows: Rows,
    surprise: Callable[[Rows], np.ndarray],
    calibration: Calibration,
    alpha: float,
) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
    """The conformal p-value of each row, and how odd it may be before that is at most `alpha`.

    `own` is how odd each row is, `surprise` says that of any rows.

    A row with missing cells is compared with the calibration rows as they look with the same cells missing; so it
    stays valid for a column that is absent altogether. Beyond the `PATTERNS` most frequent patterns, rows are
    compared with the calibration rows as they are.
    """
    p_values = conformal_p_values(own, calibration.surprises)
    limits = np.full(len(rows), threshold(calibration.surprises, alpha))
    if rows.complete.all():
        return p_values, limits
    known = calibration.rows
    patterns, which, counts = np.unique(rows.observed, axis=0, return_inverse=True, return_counts=True)
    for number in np.argsort(-counts)[:PATTERNS]:
        mask, here = patterns[number], which.reshape(-1) == number
        if not mask.all():
            hidden = replace(known, observed=known.observed & mask)
            usual = surprise(hidden)
            p_values[here] = conformal_p_values(own[here], usual)
            limits[here] = threshold(usual, alpha)
    return p_values, limits


def threshold(usual: Float[np.ndarray, "m"], alpha: float) -> float:
    r"""The surprise above which \(p \le \alpha\): the \(\lfloor \alpha(m+1) \rfloor\)-th largest of usual rows."""
    # A little more, so that 1/(m+1) asks for the largest however it was rounded.
    rank = int(alpha * (len(usual) + 1) * (1 + 1e-12))
    return float(np.sort(usual)[-rank]) if rank else np.inf


def least_p_value(calibration: int) -> float:
    r"""\(1/(m + 1)\), the p-value of a row that is odder than all m calibration rows."""
    return 1 / (calibration + 1)


def check_alpha(alpha: float, calibration: int) -> None:
    """Raises `SettingsError` for an alpha outside (0, 1), `NotAnswered` without calibration rows; warns where no row
    could be flagged at it."""
    if not calibration:
        raise NotAnswered(
            "the model was fitted with calibrate=False, so there are no rows that say what is usual: fit it again "
            "without that"
        )
    if not 0 < alpha < 1:
        raise SettingsError(f"alpha is a false-alarm rate between 0 and 1, not {alpha}")
    if alpha < least_p_value(calibration):
        warnings.warn(
            f"nothing can be flagged at alpha {alpha:g}, for with {calibration} held-out rows no p-value is below "
            f"{least_p_value(calibration):.3g}: take an alpha of at least that, or fit more rows",
            DataWarning,
            stacklevel=3,
        )
