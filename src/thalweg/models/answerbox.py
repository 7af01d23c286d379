r"""The box in which the answers of a conditional energy lie, and sums over it."""

import math
from dataclasses import replace
from functools import lru_cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray
from scipy.stats import qmc

from thalweg.energy.base import Scalar
from thalweg.energy.spaces import Column, Record
from thalweg.models.relaxation import bins, relaxed

#: By how much the box is wider than the range of training, on either side, as a share of it.
MARGIN = 0.1
#: Cells along each dimension of a box of one and of two; points of one of more, a power of two.
CELLS, POINTS = {1: 512, 2: 48}, 4096


class AnswerBox(eqx.Module):
    """The ranges of some columns of a table, all of them numbers; counts are as many values, or bins of a number."""

    record: Record = eqx.field(static=True)

    @property
    def relaxed(self) -> Record:
        """The columns as numbers, each in its range."""
        return _relaxed(self.record)

    @property
    def bins(self) -> tuple[float, ...]:
        """By column how far a value is blurred: a half of a count."""
        return bins(self.record)

    @property
    def nodes(self) -> Float[Array, "m a"]:
        """Points spread over the box, each for as much of it as every other."""
        return jnp.asarray(_nodes(self.record))

    def unit(self, v: Float[Array, "a"]) -> Float[Array, "a"]:
        """Answers as numbers from -1 to 1."""
        lower, upper = _bounds(self.record)
        return (2 * v - (lower + upper)) / (upper - lower)

    def log_integral(
        self, logs: Float[Array, "m"], over: Bool[Array, "a"] | None = None
    ) -> Scalar:
        r"""\(\log \int e^{l(y)} dy\), of l at the nodes, over these coordinates (None: all)."""
        lower, upper = _bounds(self.record)
        volume = np.log(upper - lower)
        total = jnp.sum(volume if over is None else jnp.where(over, volume, 0.0))
        return jax.nn.logsumexp(logs) - math.log(len(logs)) + total

    def within(self, node: Float[Array, "a"], *, key: PRNGKeyArray) -> Float[Array, "a"]:
        """A draw from the cell around a node; a count is a count."""
        lower, upper = _bounds(self.record)
        cells = np.array(_cells(self.record), np.float32)
        moved = node + (upper - lower) / cells * (jax.random.uniform(key, node.shape) - 0.5)
        counts = np.array([column.kind == "integer" for column in self.record.columns])
        return jnp.where(counts, jnp.round(jnp.clip(moved, lower + 0.5, upper - 0.5)), moved)


@lru_cache(maxsize=64)
def _relaxed(record: Record) -> Record:
    return Record(tuple(map(_tight, record.columns, relaxed(record).columns)))


def _tight(before: Column, column: Column) -> Column:
    """A column with a little more than the range of training for its bounds, which are half a range away."""
    if before.kind != "real":
        return column
    margin = (0.5 - MARGIN) * (column.upper - column.lower) / 2
    return replace(column, lower=column.lower + margin, upper=column.upper - margin)


def _bounds(record: Record) -> tuple[Float[np.ndarray, "a"], Float[np.ndarray, "a"]]:
    columns = _relaxed(record).columns
    return np.array([c.lower for c in columns], np.float32), np.array([c.upper for c in columns], np.float32)


def _cells(record: Record) -> list[int]:
    """How many cells a dimension has: as many as a count has values, where these are not too many."""
    most = CELLS.get(len(record.columns))
    if most is None:
        return [column.size if column.kind == "integer" else POINTS for column in record.columns]
    return [min(column.size, most) if column.kind == "integer" else most for column in record.columns]


@lru_cache(maxsize=64)
def _nodes(record: Record) -> Float[np.ndarray, "m a"]:
    lower, upper = _bounds(record)
    if len(record.columns) in CELLS:
        axes = [(np.arange(cells) + 0.5) / cells for cells in _cells(record)]
        shares = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))
    else:
        shares = qmc.Sobol(len(record.columns), seed=0).random(POINTS)
    return (lower + (upper - lower) * shares).astype(np.float32)
