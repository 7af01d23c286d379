"""What a network over the columns of a table reads and writes: features of the known cells, distributions of each."""

from statistics import NormalDist

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from thalweg.energy.spaces import Record
from thalweg.models import columns, factors
from thalweg.nn.initial import Initial

#: A network's outputs: the parameters of each number's mixture, and the logits of each category.
Outputs = tuple[Float[Array, "n 3 k"], Float[Array, "c s"]]


def squash(u: Float[Array, "..."]) -> Float[Array, "..."]:
    """Linear near 0 and logarithmic far out, so that one extreme cell cannot swamp the first layer."""
    return jnp.arcsinh(u)


class Layout:
    """Which columns are numbers and which categories, as constant arrays; a function of the space alone.

    The features of a row are: for each column whether it is known, each known number squashed, and for each
    level of each category whether it is the known one. `feature_column` says whose each is.
    """

    def __init__(self, space: Record):
        cols = space.columns
        number = [i for i, c in enumerate(cols) if c.kind != "categorical"]
        category = [i for i, c in enumerate(cols) if c.kind == "categorical"]
        sizes = [cols[i].size for i in category]
        self.number_index, self.category_index = np.array(number, int), np.array(category, int)
        self.columns, self.numbers, self.categories = len(cols), len(number), len(category)
        self.levels, self.widest = sum(sizes), max(sizes, default=0)
        self.first_level = jnp.asarray(np.cumsum([0, *sizes])[:-1].astype(np.int32))
        self.exists = jnp.asarray(np.arange(self.widest)[None, :] < np.array(sizes, int)[:, None])
        self.level_column = np.repeat(self.category_index, sizes)
        self.level_value = jnp.asarray([level for size in sizes for level in range(size)], jnp.float32)
        self.feature_column = np.concatenate([np.arange(len(cols)), number, self.level_column]).astype(int)
        slot = np.zeros(len(cols), np.int32)
        slot[number], slot[category] = np.arange(len(number)), np.arange(len(category))
        self.slot = jnp.asarray(slot)
        self.is_number = jnp.asarray(np.array([c.kind != "categorical" for c in cols]))
        self.is_image = any(c.pixel for c in cols)
        self.pixel = np.array([cols[i].pixel for i in number], bool)
        coordinates = factors.layout_of(cols)
        self.number_coordinate = jnp.asarray(coordinates.slot[number].astype(np.int32))
        self.coordinate_spread = jnp.asarray(coordinates.spread[coordinates.slot[number]])
        self.center = jnp.array([cols[i].center for i in number], jnp.float32)
        self.spread = jnp.array([cols[i].spread for i in number], jnp.float32)
        self.size = jnp.array([cols[i].size for i in number], jnp.float32)
        self.integers = np.array([cols[i].kind == "integer" for i in number], bool)
        self.floor = jnp.where(self.integers, columns.INTEGER_FLOOR / self.spread, columns.REAL_FLOOR)

    # --- what a network reads ---------------------------------------------------------------------------------

    @property
    def features(self) -> int:
        return self.columns + self.numbers + self.levels

    def read(self, y: Float[Array, "d"], observed: Bool[Array, "d"]) -> Float[Array, "f"]:
        """The features of the known cells; those of the others are 0."""
        y = jnp.where(observed, y, 0.0)
        numbers = squash((y[self.number_index] - self.center) / self.spread)
        levels = jnp.round(y[self.level_column]) == self.level_value
        known = observed.astype(jnp.float32)
        values = jnp.concatenate([jnp.ones(self.columns), numbers, levels.astype(jnp.float32)])
        return values * known[self.feature_column]

    def read_one(
        self, weight: Float[Array, "f h"], y_d: Float[Array, ""], d: Int[Array, ""]
    ) -> Float[Array, "h"]:
        """What column `d` alone adds to features @ weight, at the cost of one column."""
        term = weight[d]
        slot = self.slot[d]
        if self.numbers:
            i = jnp.clip(slot, 0, self.numbers - 1)
            u = squash((y_d - self.center[i]) / self.spread[i])
            term = term + jnp.where(self.is_number[d], u, 0.0) * weight[self.columns + i]
        if self.categories:
            i = jnp.clip(slot, 0, self.categories - 1)
            level = weight[self.columns + self.numbers + self.first_level[i] + y_d.astype(jnp.int32)]
            term = term + jnp.where(self.is_number[d], 0.0, 1.0) * level
        return term

    # --- what a network writes --------------------------------------------------------------------------------

    def log_probs(self, outputs: Outputs, y: Float[Array, "d"]) -> Float[Array, "d"]:
        """log p of every column: a density of real numbers, a mass of counts and categories, in nats."""
        raw, logits = outputs
        out = jnp.zeros(self.columns)
        if self.numbers:
            index = self.number_index
            out = out.at[index].set(self._each(self._real_log_prob, self._integer_log_prob, raw, y[index]))
        if self.categories:
            index = self.category_index
            codes = jnp.where(jnp.isnan(y[index]), 0, y[index]).astype(jnp.int32)
            log_probs = jax.nn.log_softmax(logits)
            out = out.at[index].set(jnp.take_along_axis(log_probs, codes[:, None], axis=1)[:, 0])
        return out

    def guesses(self, outputs: Outputs) -> Float[Array, "d"]:
        """Every column's mean or, of a category, its most probable value, in codes."""
        raw, logits = outputs
        out = jnp.zeros(self.columns)
        if self.numbers:
            out = out.at[self.number_index].set(self._each(self._real_mean, self._integer_mean, raw))
        if self.categories:
            out = out.at[self.category_index].set(jnp.argmax(logits, axis=1).astype(jnp.float32))
        return out

    def number_log_prob(self, raw: Float[Array, "3 k"], y: Float[Array, ""], i: Int[Array, ""]) -> Array:
        """log p of number `i` in its codes: a mass for integers, a density for real columns."""
        if self.integers.all():
            return self._integer_log_prob(raw, y, i)
        if not self.integers.any():
            return self._real_log_prob(raw, y, i)
        is_integer = self.size[i] > 0
        return jnp.where(is_integer, self._integer_log_prob(raw, y, i), self._real_log_prob(raw, y, i))

    def of_column(self, outputs: Outputs, d: Int[Array, ""]) -> tuple[Array | None, Array | None]:
        """What `draw` needs of column `d`."""
        raw, logits = outputs
        i = self.slot[d]
        return (
            raw[jnp.clip(i, 0, self.numbers - 1)] if self.numbers else None,
            logits[jnp.clip(i, 0, self.categories - 1)] if self.categories else None,
        )

    def draw(self, raw: Array | None, logits: Array | None, d: Int[Array, ""], *, key: PRNGKeyArray) -> Array:
        """A draw of column `d` in its codes, from the parameters of a number or the logits of a category."""
        out = jnp.float32(0.0)
        if raw is not None:
            i = jnp.clip(self.slot[d], 0, self.numbers - 1)
            u = columns.mixture_draw(raw, self.floor[i], key=key)
            value = self.center[i] + self.spread[i] * u
            count = jnp.clip(jnp.round(value), 0, self.size[i] - 1)
            out = jnp.where(self.size[i] > 0, count, value)
        if logits is not None:
            category = jax.random.categorical(key, logits).astype(jnp.float32)
            out = jnp.where(self.is_number[d], out, category)
        return out

    def expected(self, raw, mean, deviation, i):
        """The parameters of number `i` about what the mixture expects there, where it is a pixel."""
        unit = self.coordinate_spread[i]
        moved = columns.around(raw, mean / unit, deviation / unit)
        return moved if self.pixel.all() else jnp.where(jnp.asarray(self.pixel)[i], moved, raw)

    def _real_log_prob(self, raw, y, i):
        return columns.real_log_prob(raw, (y - self.center[i]) / self.spread[i]) - jnp.log(self.spread[i])

    def _integer_log_prob(self, raw, y, i):
        return columns.integer_log_prob(raw, y, self.size[i], self.center[i], self.spread[i])

    def _real_mean(self, raw, i):
        return self.center[i] + self.spread[i] * columns.real_mean(raw)

    def _integer_mean(self, raw, i):
        return columns.integer_mean(raw, self.size[i], self.center[i], self.spread[i])

    def _each(self, real, integer, raw, *values):
        """`real(raw, *values, i)` of each real number and `integer` of each count; neither is computed in vain."""
        out = jnp.zeros(self.numbers)
        for function, where in ((real, ~self.integers), (integer, self.integers)):
            i = np.flatnonzero(where)
            if len(i):
                out = out.at[i].set(jax.vmap(function)(raw[i], *(v[i] for v in values), i))
        return out


def _spread(components: int) -> Float[np.ndarray, "3 k"]:
    """Components spread over a standard normal, so that they differ from the first step on."""
    middles = [NormalDist().inv_cdf((k + 0.5) / components) for k in range(components)]
    return np.stack([np.zeros(components), middles, np.full(components, -1.0)])


class Heads(eqx.Module):
    """The last layer: from a hidden layer to the distribution of every column."""

    number_weight: Float[Array, "n 3 k h"]
    number_bias: Float[Array, "n 3 k"]
    category_weight: Float[Array, "c s h"]
    category_bias: Float[Array, "c s"]

    def __init__(self, layout: Layout, width: int, components: int, *lead: int, initial: Initial):
        numbers = (*lead, layout.numbers, 3, components)
        categories = (*lead, layout.categories, layout.widest)
        self.number_weight = initial.normal((*numbers, width), 0.1 / width**0.5)
        self.number_bias = initial.constant(numbers, lambda: _spread(components))
        self.category_weight = initial.normal((*categories, width), 0.1 / width**0.5)
        self.category_bias = initial.zeros(*categories)

    def __call__(self, h: Float[Array, "h"], layout: Layout) -> Outputs:
        logits = self.category_weight @ h + self.category_bias
        return self.number_weight @ h + self.number_bias, jnp.where(layout.exists, logits, -jnp.inf)

    def number(self, h: Float[Array, "h"], i: Int[Array, ""]) -> Float[Array, "3 k"]:
        return self.number_weight[i] @ h + self.number_bias[i]

    def category(self, h: Float[Array, "h"], layout: Layout, i: Int[Array, ""]) -> Float[Array, "s"]:
        logits = self.category_weight[i] @ h + self.category_bias[i]
        return jnp.where(layout.exists[i], logits, -jnp.inf)

    def masked(self, seen: Float[Array, "d h"], layout: Layout) -> "Heads":
        """The same, where column d reads only the units with `seen[d] = 1`."""
        weights = (
            self.number_weight * seen[layout.number_index][:, None, None, :],
            self.category_weight * seen[layout.category_index][:, None, :],
        )
        return eqx.tree_at(lambda h: (h.number_weight, h.category_weight), self, weights)
