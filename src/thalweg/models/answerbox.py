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
#: Cells of a dimension, and points, where a sum over the box is one of many.
COARSE, FEW = 64, 512


class AnswerBox(eqx.Module):
    """The ranges of some columns of a table, all of them numbers; counts are as many values, or bins of a number.

    Sums over it are over `nodes`, of which there are fewer where it is `coarse`.
    """

    record: Record = eqx.field(static=True)
    coarse: bool = eqx.field(static=True, default=False)

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
        return jnp.asarray(_nodes(self.record, self.coarse))

    def without(self, i: int) -> "AnswerBox":
        """The box of the other columns, coarse."""
        columns = self.record.columns
        return AnswerBox(Record((*columns[:i], *columns[i + 1 :])), True)

    def unit(self, v: Float[Array, "a"]) -> Float[Array, "a"]:
        """Answers as numbers from -1 to 1."""
        lower, upper = _bounds(self.record)
        return (2 * v - (lower + upper)) / (upper - lower)

    def log_integral(self, logs: Float[Array, "m"], over: Bool[Array, "a"] | None = None) -> Scalar:
        r"""\(\log \int e^{l(y)} dy\), of l at the nodes, over these coordinates (None: all)."""
        lower, upper = _bounds(self.record)
        volume = np.log(upper - lower)
        total = jnp.sum(volume if over is None else jnp.where(over, volume, 0.0))
        return jax.nn.logsumexp(logs) - math.log(len(logs)) + total

    def within(self, node: Float[Array, "a"], *, key: PRNGKeyArray) -> Float[Array, "a"]:
        """A draw from the cell around a node; a count is a count."""
        lower, upper = _bounds(self.record)
        cells = np.array(_cells(self.record, self.coarse), np.float32)
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


def _cells(record: Record, coarse: bool) -> list[int]:
    """How many cells a dimension has: as many as a count has values, where these are not too many."""
    most = CELLS.get(len(record.columns), FEW if coarse else POINTS)
    most = min(most, COARSE) if coarse and len(record.columns) == 1 else most
    return [min(column.size, most) if column.kind == "integer" else most for column in record.columns]


@lru_cache(maxsize=64)
def _nodes(record: Record, coarse: bool) -> Float[np.ndarray, "m a"]:
    lower, upper = _bounds(record)
    if len(record.columns) == 1 or (len(record.columns) in CELLS and not coarse):
        axes = [(np.arange(cells) + 0.5) / cells for cells in _cells(record, coarse)]
        shares = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))
    else:
        shares = qmc.Sobol(len(record.columns), seed=0).random(FEW if coarse else POINTS)
        # A count is a count.
        sizes = np.array([max(column.size, 1) for column in record.columns])
        counts = np.array([column.kind == "integer" for column in record.columns])
        shares = np.where(counts, (np.floor(shares * sizes) + 0.5) / sizes, shares)
    return (lower + (upper - lower) * shares).astype(np.float32)
