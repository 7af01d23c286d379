"""complete: what is missing?"""

import warnings
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.data.rows import Rows
from thalweg.energy.base import AbstractEnergy
from thalweg.energy.capabilities import (
    AbstractBlurred,
    AbstractCompletion,
    AbstractConditional,
    AbstractConditionalSampler,
    AbstractNeighbours,
    AbstractSequential,
    AbstractZeroTemperature,
)
from thalweg.energy.spaces import Record
from thalweg.errors import DataWarning
from thalweg.inference import Coordinate, Gradient, minimise
from thalweg.inference.neighbours import finite_coordinates, neighbours
from thalweg.questions import chains, sequences
from thalweg.questions.batches import by_row, in_batches
from thalweg.questions.given import silent_about_cells
from thalweg.questions.grids import candidate_grid

#: Passes over the columns, and the descent that follows: one object, for each new optimiser is compiled anew.
SWEEPS, DESCENT = 5, Gradient(tolerance=1e-3)
#: States of a row's chains at which conditionals are averaged.
CONDITIONALS = 256


def method(kind: type[AbstractEnergy]) -> str | None:
    if silent_about_cells(kind):
        return None
    if issubclass(kind, AbstractSequential):
        return "exact: the labelling of least energy, and joint draws, of its target alone"
    if issubclass(kind, AbstractConditional):
        return f"{_method(kind)}; of its target alone"
    return _method(kind)


def _method(kind: type[AbstractEnergy]) -> str:
    if issubclass(kind, AbstractConditionalSampler):
        return "exact: conditional mean or most probable value, and joint draws"
    if issubclass(kind, AbstractCompletion):
        drawn = "no draws" if issubclass(kind, AbstractZeroTemperature) else "draws by chains"
        return f"exact: closed form ({drawn})"
    return "chains: conditional mean or most probable value over clamped chains, and joint draws"


def best_guess(F: AbstractEnergy, rows: Rows, walker: chains.Walker, steps: int | None = None) -> np.ndarray:
    """Codes (n, d) with each missing cell at its best guess: a number's mean, a category's most probable value."""
    if rows.complete.all():
        return rows.values
    if isinstance(F, AbstractSequential):
        return sequences.put(F, rows, sequences.labelled(F, rows)[0])
    if isinstance(F, AbstractCompletion):
        return in_batches(_closed_form, F, rows.values, rows.observed)
    filled, holes = rows.values.copy(), np.flatnonzero(~rows.complete)
    part = rows[holes]
    for start in range(0, len(holes), chains.AT_ONCE):
        piece = slice(start, start + chains.AT_ONCE)
        guess = _middle(F, chains.states(walker, part[piece], steps))
        filled[holes[piece]] = np.where(part.observed[piece], part.values[piece], guess)
    return filled


def _middle(F: AbstractEnergy, states: np.ndarray) -> np.ndarray:
    """The mean of each number and the most probable value of each category over states (n, k, d).

    By frequencies, of states without their noise where an energy knows it; where an energy knows its neighbours by the
    mean of its conditionals at some of the states, which has less noise.
    """
    n, _, d = states.shape
    if isinstance(F, AbstractBlurred):
        states = chains.cleaned(F, states.reshape(-1, d)).reshape(states.shape)
    middle = states.mean(axis=1, dtype=np.float64)
    categories = F.space.where("categorical") if isinstance(F.space, Record) else ()
    if not isinstance(F, AbstractNeighbours):
        for i in categories:
            middle[:, i] = [np.argmax(np.bincount(codes)) for codes in states[:, :, i].astype(np.int64)]
        return middle.astype(np.float32)
    _, finite = finite_coordinates(F.space)
    some = states[:, :: max(1, states.shape[1] // CONDITIONALS)]
    shares = in_batches(_conditionals, F, some.reshape(-1, d)).reshape(n, some.shape[1], len(finite), -1)
    shares = shares.mean(axis=1, dtype=np.float64)
    best = np.where(np.isin(finite, categories), shares.argmax(axis=2), shares @ np.arange(shares.shape[2]))
    middle[:, finite] = best
    return middle.astype(np.float32)


@eqx.filter_jit
def _conditionals(F, y):
    """The probability of each value of each finite coordinate given all the others, (d, v)."""
    sizes, _ = finite_coordinates(F.space)
    values = np.arange(sizes.max())

    def one(y):
        return jax.nn.softmax(jnp.where(values < sizes[:, None], -neighbours(F, y), -jnp.inf), axis=1)

    return by_row(one, y)


def least(
    F: AbstractEnergy, rows: Rows, candidates: Callable[[int], np.ndarray], start: np.ndarray
) -> np.ndarray:
    """Codes (n, d) with the missing cells in closed form, else at the values of least energy."""
    if rows.complete.all():
        return rows.values
    if isinstance(F, AbstractCompletion):
        return in_batches(_closed_form, F, rows.values, rows.observed)
    begin = np.where(rows.observed, rows.values, start[None, :]).astype(np.float32)
    grid = candidate_grid(F.space, candidates)
    filled, converged = in_batches(
        lambda F, y, o: _clamped(F, y, o, grid), F, begin, rows.observed, largest=512
    )
    if not converged.all():
        warnings.warn(
            f"the missing cells of {np.sum(~converged)} of {len(rows)} rows had not settled at the least energy "
            "when the steps were used up",
            DataWarning,
            stacklevel=4,
        )
    return filled


def draws(
    F: AbstractEnergy, rows: Rows, n: int, seed: int, walker: chains.Walker, steps: int | None = None
) -> np.ndarray:
    """Codes (rows * n, d): `n` joint draws of each row's missing cells, the draws of one row together."""
    if isinstance(F, AbstractSequential):
        return sequences.drawn(F, rows, n, seed)
    if not isinstance(F, AbstractConditionalSampler):
        return chains.draws(walker, rows, n, seed, steps)
    repeated = rows[np.repeat(np.arange(len(rows)), n)]
    keys = np.asarray(jax.random.key_data(jax.random.split(jax.random.key(seed), len(repeated))))
    return in_batches(_draw, F, repeated.values, repeated.observed, keys)


@eqx.filter_jit
def _closed_form(F, y, observed):
    return by_row(F.complete, y, observed)


@eqx.filter_jit
def _draw(F, y, observed, keys):
    return by_row(lambda y, o, k: F.sample_given(y, o, key=jax.random.wrap_key_data(k)), y, observed, keys)


@eqx.filter_jit
def _clamped(F, y, observed, grid):
    """Columns in turn over their candidates, which finds the valley; then down its slope in the real columns."""
    real = np.array([size is None for size in F.space.levels()])

    def one(y, observed):
        found = minimise(F, y, solver=Coordinate(grid, sweeps=SWEEPS), observed=observed, throw=False)
        if not real.any():
            return found.value, found.converged
        refined = minimise(F, found.value, solver=DESCENT, observed=observed | ~real, throw=False)
        better = refined.energy < found.energy
        return jnp.where(better, refined.value, found.value), refined.converged

    return by_row(one, y, observed)
