r"""predict, all answers: every minimum of the energy along the target, with its probability.

Along one column the conditional of `predict` is looked at on a finer grid: each of its values drains downhill to a
minimum, whose probability is \(\sum e^{-F}\) over what drains to it. Several columns that are answered together are
searched by `thalweg.inference.modes`.
"""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
from scipy.special import logsumexp

from thalweg.data.rows import Rows
from thalweg.data.schema import Schema
from thalweg.energy.base import AbstractEnergy
from thalweg.energy.capabilities import AbstractJointAnswers
from thalweg.inference.basins import basins
from thalweg.inference.modes import modes as all_minima
from thalweg.questions import chains
from thalweg.questions.predict import Context, in_context, unread
from thalweg.questions.records import Modes

#: Values of a number that are looked at, beside the candidates of `predict`.
FINE = 513
#: By how many nats a minimum must lie below the pass to a lower one, and the least probability that is reported.
BARRIER, LEAST = 0.2, 0.002


def modes(
    F: AbstractEnergy,
    rows: Rows,
    index: int,
    schema: Schema,
    candidates: Callable[[int], np.ndarray],
    walker: chains.Walker,
    energies_of: Callable[[Rows], np.ndarray],
    steps: int | None = None,
) -> Modes:
    """All answers of each row: of the column at `index`, or of all that the energy answers together.

    `energies_of` gives the energies of whole rows, in the user's units.
    """
    if isinstance(F, AbstractJointAnswers) and len(F.answers) > 1:
        return _joint(F, rows, schema, energies_of)
    return _along(F, unread(F, rows, index, walker, steps), index, schema, candidates)


def _along(
    F: AbstractEnergy, context: Context, index: int, schema: Schema, candidates: Callable[[int], np.ndarray]
) -> Modes:
    column = schema.space.columns[index]
    values, every_value = _grid(np.asarray(candidates(index), np.float64), column.kind, column.size)
    weights = np.ones(len(values)) if every_value else np.gradient(values)
    tried = np.broadcast_to(values.astype(np.float32), (len(context.rows), len(values)))
    energies = in_context(F, context, index, tried, weights)
    # As -log p, in the user's units.
    energies = energies + logsumexp(np.log(weights) - energies, axis=1, keepdims=True)
    if column.kind == "real":
        energies = energies + np.log(column.unit)
    found = [_of_row(row, weights, apart=column.kind == "categorical") for row in energies]
    row = np.repeat(np.arange(len(found)), [len(cells) for cells, _ in found])
    cells = np.concatenate([cells for cells, _ in found])
    lowest, codes = energies[row, cells], values[cells]
    if column.kind == "real" and context.drawn is None:
        codes, fall = _refined(F, context, index, row, cells, values)
        lowest = lowest - fall
    answers = pa.table({column.name: schema.decode_column(index, codes)})
    return Modes(row, answers, lowest, np.concatenate([shares for _, shares in found]))


def _grid(candidates: np.ndarray, kind: str, size: int) -> tuple[np.ndarray, bool]:
    """The values to look at, and whether these are all."""
    if kind == "categorical" or len(candidates) == size:
        return candidates, True
    even = np.linspace(candidates[0], candidates[-1], FINE)
    return np.unique(np.concatenate([candidates, even if kind == "real" else np.rint(even)])), False


def _of_row(energies: np.ndarray, weights: np.ndarray, *, apart: bool) -> tuple[np.ndarray, np.ndarray]:
    """The minima among values in a row, or, `apart`, all of them; lowest first, with their probabilities."""
    if apart:
        cells = np.argsort(energies, kind="stable")
        shares = np.exp(-energies[cells])
    else:
        cells, _, shares = basins(energies, BARRIER, np.log(weights))
    kept = shares >= min(LEAST, shares.max())
    return cells[kept], shares[kept]


def _refined(
    F: AbstractEnergy, context: Context, index: int, row: np.ndarray, cells: np.ndarray, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Each minimum between its neighbours on the grid, 16 times finer, and how much lower it is than on the grid."""
    low, high = values[np.maximum(cells - 1, 0)], values[np.minimum(cells + 1, len(values) - 1)]
    finer = low[:, None] + (high - low)[:, None] * np.linspace(0, 1, 33)
    tried = np.concatenate([values[cells][:, None], finer], axis=1).astype(np.float32)
    again = Context(context.rows[row], context.partial[row])
    energies = in_context(F, again, index, tried, np.ones(tried.shape[1]))
    best = np.argmin(energies, axis=1)
    every = np.arange(len(row))
    return tried[every, best].astype(np.float64), energies[every, 0] - energies[every, best]


def _joint(
    F: AbstractJointAnswers, rows: Rows, schema: Schema, energies_of: Callable[[Rows], np.ndarray]
) -> Modes:
    answers = list(F.answers)
    known = rows.observed.copy()
    known[:, answers] = False
    found = [
        all_minima(F.of_answers(y, seen), barrier=BARRIER) for y, seen in zip(rows.values, known, strict=True)
    ]
    kept = [mode.probabilities >= min(LEAST, mode.probabilities.max()) for mode in found]
    row = np.repeat(np.arange(len(found)), [keep.sum() for keep in kept])
    values = np.concatenate([mode.values[keep] for mode, keep in zip(found, kept, strict=True)])
    filled, seen = rows.values[row].copy(), known[row]
    filled[:, answers], seen[:, answers] = values, True
    table = pa.table(
        {schema.space.names[i]: schema.decode_column(i, values[:, j]) for j, i in enumerate(answers)}
    )
    probabilities = np.concatenate([mode.probabilities[keep] for mode, keep in zip(found, kept, strict=True)])
    return Modes(row, table, energies_of(Rows(filled, seen, rows.unseen[row])), probabilities)
