"""Counts as numbers: what chains that follow a gradient move on.

A count c is the unit bin [c - 1/2, c + 1/2] of a real number, and a row of counts a point drawn from its bins. Of a
density that is fitted to such points the mass of a count is the integral over its bin; the energy at the count itself
is that integral by the midpoint rule.

Theis, van den Oord & Bethge (2016), *A note on the evaluation of generative models*.
"""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from thalweg.energy.spaces import Column, Record
from thalweg.learning.objective import AbstractAround, AbstractObjective
from thalweg.learning.rows import Pairs, split_batch
from thalweg.sampling.cycle import Cycle
from thalweg.sampling.gibbs import Gibbs
from thalweg.sampling.kernel import AbstractKernel, Metric
from thalweg.sampling.langevin import MALA


def relaxed(space: Record) -> Record:
    """The same row with every count a number in the box of its bins; so is a pixel of two values."""
    return Record(tuple(_relaxed(column) for column in space.columns))


def _relaxed(column: Column) -> Column:
    if column.kind == "integer":
        return replace(column, kind="real", size=0, lower=-0.5, upper=column.size - 0.5)
    if column.pixel and column.kind == "categorical" and column.size == 2:
        return replace(column, kind="real", size=0, lower=-0.5, upper=1.5, center=0.5, spread=0.5)
    return column


def bins(space: Record, jitter: float = 0.0) -> tuple[float, ...]:
    """By column how far data is blurred to either side: `jitter` deviations of a number, of a count at least a half."""

    def width(before: Column, after: Column) -> float:
        if after.kind == "categorical":
            return 0.0
        return max(jitter * after.spread, 0.0 if before.kind == "real" else 0.5)

    return tuple(map(width, space.columns, relaxed(space).columns))


class Blurred(AbstractAround):
    """An objective on rows, or on pairs, of which each number (of the answers) is drawn anew, uniformly, from `width`
    to either side of it."""

    objective: AbstractObjective
    width: tuple[float, ...] = eqx.field(static=True)

    def __call__(self, energy, batch, memory, *, key):
        blur_key, key = jax.random.split(key)
        values, observed = (batch.y, None) if isinstance(batch, Pairs) else split_batch(batch)
        width = np.asarray(self.width, np.float32)
        values = values + width[None] * jax.random.uniform(blur_key, values.shape, minval=-1.0, maxval=1.0)
        if isinstance(batch, Pairs):
            return self.objective(energy, replace(batch, y=values), memory, key=key)
        return self.objective(energy, values if observed is None else (values, observed), memory, key=key)


def steps_of_numbers(space: Record, stride: float) -> AbstractKernel:
    """Langevin steps of the numbers of a relaxed space, each accepted or not, and a Gibbs sweep of its categories.

    `stride` is the length of a step in deviations of each column.
    """
    if space.is_finite:
        return Gibbs()
    step = MALA(stride**2 / 2, metric=Metric(jnp.asarray(spreads(space))))
    return Cycle((step, Gibbs())) if space.where("categorical") else step


def spreads(space: Record) -> Float[np.ndarray, "d"]:
    """The deviation of each column in codes, 1 of a category."""
    return np.array([1.0 if c.kind == "categorical" else c.spread or 1.0 for c in space.columns], np.float32)
