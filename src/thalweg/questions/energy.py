"""energy: how well does each row fit?"""

from collections.abc import Callable

import equinox as eqx
import numpy as np

from thalweg.data.rows import Rows
from thalweg.energy.base import AbstractEnergy
from thalweg.energy.capabilities import AbstractMarginal, AbstractSequential
from thalweg.questions import sequences
from thalweg.questions.batches import by_row, in_batches
from thalweg.questions.complete import least


def method(kind: type[AbstractEnergy]) -> str:
    if issubclass(kind, AbstractSequential):
        return "exact: −log p of each row's answer, given the inputs of its sequence"
    if issubclass(kind, AbstractMarginal):
        return "exact: F, and the marginal of the observed part where cells are missing"
    return "exact: F; generic where cells are missing: min over them"


def energies(
    F: AbstractEnergy, rows: Rows, candidates: Callable[[int], np.ndarray], start: np.ndarray
) -> np.ndarray:
    """F of each row in codes, float64 (n,): of its observed part where cells are missing."""
    if isinstance(F, AbstractSequential):
        return sequences.row_energies(F, rows)
    out = np.empty(len(rows), np.float64)
    whole = rows.complete
    if whole.any():
        out[whole] = in_batches(_of_points, F, rows.values[whole])
    if not whole.all():
        part = rows[~whole]
        if isinstance(F, AbstractMarginal):
            out[~whole] = in_batches(_of_parts, F, part.values, part.observed)
        else:
            filled = least(F, part, candidates, start)
            out[~whole] = in_batches(_of_points, F, filled)
    return out


@eqx.filter_jit
def _of_points(F, y):
    return by_row(F, y)


@eqx.filter_jit
def _of_parts(F, y, observed):
    return by_row(F.marginal, y, observed)
