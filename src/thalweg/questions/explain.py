r"""explain: which cell is wrong, and what should it be?

A cell's release is \(F(y) - \min_v F(y_d = v, y_{rest})\): the energy that the row would lose if this one cell were
inferred again from all others.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.data.rows import Rows
from thalweg.data.schema import Schema
from thalweg.energy.base import AbstractEnergy
from thalweg.energy.capabilities import (
    AbstractColumnConditional,
    AbstractConditional,
    AbstractMarginal,
    AbstractSequential,
)
from thalweg.inference import profile
from thalweg.questions import sequences
from thalweg.questions.batches import by_row, in_batches
from thalweg.questions.complete import least
from thalweg.questions.grids import candidate_grid
from thalweg.questions.predict import along
from thalweg.questions.records import Explanation, str_or_none

#: Cells of each row whose pairs are looked at, and values of each that are tried together.
PAIR_CELLS, PAIR_VALUES = 8, 24


def method(kind: type[AbstractEnergy]) -> str:
    if issubclass(kind, AbstractSequential):
        return "exact: the marginal of its target, given the inputs of its sequence"
    if issubclass(kind, AbstractColumnConditional):
        return "exact: the network's conditional of each cell"
    return (
        "exact: the energy along each cell"
        if issubclass(kind, AbstractMarginal)
        else "generic: the energy along each cell"
    )


def explain(
    F: AbstractEnergy,
    rows: Rows,
    energies: np.ndarray,
    schema: Schema,
    candidates: Callable[[int], np.ndarray],
    start: np.ndarray,
    pairs: bool,
) -> Explanation:
    """The release and the proposal of every cell that is `judged`."""
    if isinstance(F, AbstractSequential):
        return _of_labels(F, rows, energies, schema)
    known = rows
    if not isinstance(F, AbstractMarginal | AbstractColumnConditional):
        known = Rows(least(F, rows, candidates, start), np.ones_like(rows.observed), rows.unseen)
    grid = candidate_grid(F.space, candidates)
    looked_at = judged(F, schema)
    release = np.zeros(rows.values.shape)
    proposal = rows.values.copy()
    for d in looked_at:
        values = np.concatenate(
            [rows.values[:, d : d + 1], np.broadcast_to(grid[d], (len(rows), grid.shape[1]))], 1
        )
        energy = along(F, known, d, values)
        best = np.argmin(energy, axis=1)
        release[:, d] = np.where(rows.observed[:, d], energy[:, 0] - energy.min(axis=1), 0.0)
        proposal[:, d] = values[np.arange(len(rows)), best]
    found = _told(rows, energies, release, proposal, looked_at, schema)
    if not pairs:
        return found
    return replace(found, pairs=_pairs(F, known, rows.observed, release, grid, schema, looked_at))


def judged(F: AbstractEnergy, schema: Schema) -> Sequence[int]:
    """The columns whose cells are inferred again: of an energy of some columns given the others these alone, for it
    says nothing about what it is given."""
    return F.answers if isinstance(F, AbstractConditional) else range(len(schema.space.names))


def _told(
    rows: Rows,
    energies: np.ndarray,
    release: np.ndarray,
    proposal: np.ndarray,
    columns: Sequence[int],
    schema: Schema,
) -> Explanation:
    """What there is to say of these columns; a cell that is missing stays so."""
    return Explanation(
        energy=energies,
        release=release[:, list(columns)],
        columns=tuple(schema.space.names[d] for d in columns),
        value=schema.decode(np.where(rows.observed, rows.values, np.nan)),
        proposal=schema.decode(np.where(rows.observed, proposal, np.nan)),
    )


def _of_labels(F: AbstractSequential, rows: Rows, energies: np.ndarray, schema: Schema) -> Explanation:
    """The release and the proposal of each row's label among its neighbours."""
    (target,) = F.answers
    _, log_shares = sequences.labelled(F, sequences.without(rows, F.answers))
    known = rows.observed[:, target]
    release, proposal = np.zeros(rows.values.shape), rows.values.copy()
    release[:, target] = np.where(known, energies + log_shares.max(axis=1), 0.0)
    proposal[:, target] = log_shares.argmax(axis=1)
    return _told(rows, energies, release, proposal, F.answers, schema)


def _pairs(
    F: AbstractEnergy,
    rows: Rows,
    observed: np.ndarray,
    release: np.ndarray,
    grid: np.ndarray,
    schema: Schema,
    columns: Sequence[int],
) -> list[dict[str, Any]]:
    """One record for each pair among a row's worst cells of these columns, the largest release first."""
    n, places = len(release), np.array(columns)
    order = np.argsort(-np.where(observed, release, -1.0)[:, places], axis=1)
    worst = np.sort(places[order[:, :PAIR_CELLS]], axis=1)
    thin = np.linspace(0, grid.shape[1] - 1, min(PAIR_VALUES, grid.shape[1])).round().astype(int)
    values = grid[:, thin]
    names = schema.space.names
    records = []
    for a, b in combinations(range(worst.shape[1]), 2):
        i, j = worst[:, a], worst[:, b]
        row = np.arange(n)
        first = np.concatenate([rows.values[row, i][:, None], values[i]], axis=1)
        second = np.concatenate([rows.values[row, j][:, None], values[j]], axis=1)
        energy = in_batches(
            _joint,
            F,
            rows.values,
            rows.observed,
            i.astype(np.int32),
            j.astype(np.int32),
            first,
            second,
            largest=256,
        ).reshape(n, -1)
        best = np.argmin(energy, axis=1)
        gain = energy[:, 0] - energy.min(axis=1)
        v, w = first[row, best // second.shape[1]], second[row, best % second.shape[1]]
        for r in row[observed[row, i] & observed[row, j]]:
            records.append(
                {
                    "row": int(r),
                    "columns": f"{names[i[r]]}, {names[j[r]]}",
                    "value": _cells(schema, (i[r], j[r]), (rows.values[r, i[r]], rows.values[r, j[r]])),
                    "release": float(gain[r]),
                    "suggestion": _cells(schema, (i[r], j[r]), (v[r], w[r])),
                }
            )
    return sorted(records, key=lambda record: (record["row"], -record["release"]))


def _cells(schema: Schema, indices: tuple[Any, ...], codes: tuple[Any, ...]) -> str:
    cells = (
        schema.decode_column(int(i), np.array([c], np.float32)).to_pylist()[0]
        for i, c in zip(indices, codes, strict=True)
    )
    return ", ".join(str(str_or_none(cell)) for cell in cells)


@eqx.filter_jit
def _joint(F, y, observed, i, j, v, w):
    """The energy of a row with cell i at each of v and cell j at each of w, (v, w), up to one constant a row."""

    def one(y, o, i, j, v, w):
        if isinstance(F, AbstractColumnConditional):
            alone = profile(F, y, i, v, observed=o & (jnp.arange(o.shape[0]) != j))
            rest = jax.vmap(lambda v: profile(F, y.at[i].set(v), j, w, observed=o))(v)
            return alone[:, None] + rest
        return jax.vmap(lambda v: profile(F, y.at[i].set(v), j, w, observed=o))(v)

    return by_row(one, y, observed, i, j, v, w)
