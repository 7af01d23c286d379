"""Coordinate descent over tables of candidates."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from thalweg.energy.finite import named
from thalweg.energy.spaces import AbstractSpace, Real, Record
from thalweg.errors import SettingsError
from thalweg.inference.problem import without_gradient
from thalweg.inference.profile import profile
from thalweg.inference.solution import Status
from thalweg.inference.solver import AbstractSolver, Outcome


class Coordinate(AbstractSolver):
    """Iterated conditional modes: each free coordinate in turn takes its best candidate, the others held,
    until a whole sweep changes nothing.

    `candidates` is a table with a row a coordinate in C order, padded with nan; by default every value of a
    finite coordinate and a `grid` of values of a real one. A coordinate keeps its value unless a candidate is
    lower, so an energy that is evaluated never rises.
    Besag (1986), *On the statistical analysis of dirty pictures*.
    """

    candidates: Float[Array, "d v"] | None = None
    sweeps: int = eqx.field(static=True, default=20)
    grid: int = eqx.field(static=True, default=33)

    def bind(self, energy, observed):
        size = math.prod(energy.space.shape)
        if self.candidates is None:
            table = jnp.asarray(candidates_of(energy.space, self.grid, observed))
            return Coordinate(table, self.sweeps, self.grid)
        if jnp.ndim(self.candidates) != 2 or len(self.candidates) != size:
            raise SettingsError(f"candidates need one row for each of the {size} coordinates")
        return self

    def solve(self, problem, unrolled):
        still = without_gradient(problem)
        free = still.free.reshape(-1)
        order, count = jnp.argsort(~free), jnp.sum(free)

        def visit(k, y):
            return _best(still, y, order[k], self.candidates)

        def sweep(state):
            y, _, sweeps = state
            new = jax.lax.fori_loop(0, count, visit, y)
            return new, jnp.any(new != y), sweeps + 1

        def running(state):
            _, changed, sweeps = state
            return changed & (sweeps < self.sweeps)

        y, changed, sweeps = jax.lax.while_loop(running, sweep, (still.start, jnp.array(True), jnp.array(0)))
        status = jnp.where(changed, Status.STEPS_EXHAUSTED, Status.CONVERGED)
        status = jnp.where(jnp.isfinite(still(y)), status, Status.NOT_FINITE)
        return Outcome(jnp.where(problem.free, y, problem.start), sweeps, status.astype(jnp.int32))


def _best(problem, y, index, table):
    # The present value comes first, and so wins a tie.
    values = jnp.concatenate([jnp.ravel(y)[index][None], table[index]])
    known = ~jnp.isnan(values)
    energies = profile(problem.energy, y, index, jnp.where(known, values, values[0]), None, problem.x)
    best = jnp.argmin(jnp.where(known & ~jnp.isnan(energies), energies, jnp.inf))
    return jnp.ravel(y).at[index].set(values[best]).reshape(y.shape)


def candidates_of(space: AbstractSpace, grid: int = 33, observed: np.ndarray | None = None) -> np.ndarray:
    """The candidates of each coordinate, (d, v) padded with nan: every value of a finite one; of a real one
    `grid` values over its box or, for a column without bounds, within four deviations.

    Raises `SettingsError` where a free coordinate has neither.
    """
    levels = space.levels()
    held = np.zeros(len(levels), bool) if observed is None else np.reshape(observed, -1)
    ranges = [_range(space, i) for i in range(len(levels))]
    open_ended = [i for i, (a, b) in enumerate(ranges) if not held[i] and not math.isfinite(b - a)]
    if open_ended:
        raise SettingsError(f"{named(space, open_ended)} without bounds: give `candidates`, or use Gradient")
    counts = [grid if level is None else level for level in levels]
    table = np.full((len(levels), max(counts, default=1)), np.nan, np.float32)
    for i, ((lower, upper), count) in enumerate(zip(ranges, counts, strict=True)):
        if math.isfinite(upper - lower):
            table[i, :count] = np.linspace(lower, upper, count)
    return table


def _range(space: AbstractSpace, index: int) -> tuple[float, float]:
    level = space.levels()[index]
    if level is not None:
        return 0.0, level - 1.0
    if isinstance(space, Record):
        column = space.columns[index]
        lower = column.lower if math.isfinite(column.lower) else column.center - 4 * column.spread
        upper = column.upper if math.isfinite(column.upper) else column.center + 4 * column.spread
        return lower, upper
    return (space.lower, space.upper) if isinstance(space, Real) else (-math.inf, math.inf)
