r"""The visible units of Boltzmann machines: what they see of a point, and how each kind is drawn and summed over.

A coordinate of two values is one unit, 0 or 1 (Bernoulli); of more values a block of indicators (softmax); a number
is \((y - m)/d\), brought to mean 0 and deviation 1 (Gaussian; on the lattice of its values where it is a count).
Each kind is an exponential family of the field \(a\) that reaches it: \(p(u) \propto e^{au - q u^2/2}\), with \(q = 0\)
but for numbers.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from thalweg.energy.base import AbstractDensity, Scalar
from thalweg.energy.spaces import AbstractSpace, Record


class Units(NamedTuple):
    """By coordinate of the space: the `position` of its first unit, how many `values` it has (0: real), whether it is
    a `block` of indicators or a `number`, and the `center` and `spread` of a number. By unit: its `coordinate`, and the
    `value` that it indicates (-1: none)."""

    position: np.ndarray
    values: np.ndarray
    block: np.ndarray
    number: np.ndarray
    center: np.ndarray
    spread: np.ndarray
    coordinate: np.ndarray
    value: np.ndarray

    @property
    def width(self) -> int:
        return len(self.coordinate)

    @property
    def numeric(self) -> Bool[np.ndarray, "e"]:
        """Which units are numbers."""
        return self.number[self.coordinate]


@lru_cache(maxsize=64)
def units_of(space: AbstractSpace) -> Units:
    """The units of a space."""
    levels = space.levels()
    kinds = [column.kind for column in space.columns] if isinstance(space, Record) else [""] * len(levels)
    number = np.array(
        [n is None or (kind == "integer" and n > 2) for n, kind in zip(levels, kinds, strict=True)]
    )
    values = np.array([n or 0 for n in levels], np.int32)
    block = ~number & (values > 2)
    widths = np.where(block, values, 1)
    position = (np.cumsum(widths) - widths).astype(np.int32)
    center, spread = np.zeros(len(levels), np.float32), np.ones(len(levels), np.float32)
    if isinstance(space, Record):
        center = np.where(number, [column.center for column in space.columns], 0).astype(np.float32)
        spread = np.where(number, [column.spread or 1.0 for column in space.columns], 1).astype(np.float32)
    value = np.concatenate([np.arange(w) if b else [-1] for w, b in zip(widths, block, strict=True)])
    coordinate = np.repeat(np.arange(len(levels), dtype=np.int32), widths)
    return Units(position, values, block, number, center, spread, coordinate, value.astype(np.float32))


def seen(space: AbstractSpace, y: Float[Array, "..."]) -> Float[Array, "e"]:
    """The units at a point."""
    k = units_of(space)
    codes = jnp.ravel(y)[k.coordinate]
    numbers = (codes - k.center[k.coordinate]) / k.spread[k.coordinate]
    return jnp.where(k.value < 0, numbers, (jnp.round(codes) == k.value).astype(codes.dtype))


def drawn(
    space: AbstractSpace, field: Float[Array, "e"], precision: Float[Array, "e"], *, key: PRNGKeyArray
) -> Float[Array, "..."]:
    """A point whose coordinates are drawn each by its field."""
    k = units_of(space)
    own, q = field[k.position], precision[k.position]
    key, other = jax.random.split(key)
    uniform = jax.random.uniform(key, own.shape)
    y = (uniform < jax.nn.sigmoid(own)).astype(jnp.float32)
    if k.number.any():
        normal = own / q + jax.random.normal(other, own.shape) / jnp.sqrt(q)
        y = jnp.where(k.number, k.center + k.spread * normal, y)
    logits = _of_values(space, field, precision)
    if logits is not None:
        places, table = logits
        y = y.at[places].set(_chosen(table, k.values[places], jax.random.fold_in(key, 1)))
    return y.reshape(space.shape)


def _chosen(table: Float[Array, "n v"], sizes: np.ndarray, key: PRNGKeyArray) -> Float[Array, "n"]:
    """A value of each line by its log weight; from one uniform number a line, for a count may have thousands."""
    total = jnp.cumsum(jnp.exp(table - jnp.max(table, axis=1, keepdims=True)), axis=1)
    level = jax.random.uniform(key, (len(table), 1)) * total[:, -1:]
    return jnp.minimum(jnp.sum(total <= level, axis=1), sizes - 1).astype(jnp.float32)


def log_normaliser(space: AbstractSpace, field: Float[Array, "e"], precision: Float[Array, "e"]) -> Scalar:
    r"""\(\sum_i \log \sum_{y_i} e^{a u - q u^2/2}\) over coordinates; an integral over \(y_i\) where it is real."""
    k = units_of(space)
    own, q = field[k.position], precision[k.position]
    total = jnp.where(k.values == 2, jax.nn.softplus(own), 0.0)
    real = k.values == 0
    if real.any():
        # A precision of 0, of what is no number, would make the derivative of the others no number.
        q = jnp.where(real, q, 1.0)
        gaussian = own**2 / (2 * q) + 0.5 * (math.log(2 * math.pi) - jnp.log(q)) + np.log(k.spread)
        total = jnp.where(real, gaussian, total)
    logits = _of_values(space, field, precision)
    if logits is not None:
        places, table = logits
        total = total.at[places].set(jax.nn.logsumexp(table, axis=1))
    return jnp.sum(total)


def _of_values(
    space: AbstractSpace, field: Float[Array, "e"], precision: Float[Array, "e"]
) -> tuple[np.ndarray, Float[Array, "n v"]] | None:
    """The finite coordinates of more than two values, and the log weight of each value; None where there are none."""
    k = units_of(space)
    places = np.flatnonzero(k.values > 2)
    if not len(places):
        return None
    values = np.arange(k.values.max(), dtype=np.float32)[None]
    units = (values - k.center[places, None]) / k.spread[places, None]
    own, q = field[k.position[places]][:, None], precision[k.position[places]][:, None]
    quadratic = own * units - q * units**2 / 2
    index = np.minimum(k.position[places, None] + np.arange(values.shape[1]), k.width - 1)
    table = jnp.where(k.number[places, None], quadratic, field[index])
    return places, jnp.where(values < k.values[places, None], table, -jnp.inf)


class Independent(AbstractDensity):
    """Coordinates that are independent, each by its own field: a Boltzmann machine without couplings."""

    space: AbstractSpace = eqx.field(static=True)
    field: Float[Array, "e"]
    precision: Float[Array, "e"]

    def log_prob(self, y, x=None):
        u = seen(self.space, y)
        exponent = jnp.sum(self.field * u - self.precision * u**2 / 2)
        return exponent - log_normaliser(self.space, self.field, self.precision)

    def sample(self, x=None, *, key):
        return drawn(self.space, self.field, self.precision, key=key)

    def moments(self) -> tuple[Float[Array, "e"], Float[Array, "e"]]:
        r"""The means of the units, \(\partial \log Z / \partial a\), and their variances."""

        def means(field: Float[Array, "e"]) -> Float[Array, "e"]:
            return jax.grad(log_normaliser, argnums=1)(self.space, field, self.precision)

        mean, variance = jax.jvp(means, (self.field,), (jnp.ones_like(self.field),))
        # The indicators of a coordinate do not change where all of their fields do.
        return mean, jnp.where(units_of(self.space).value < 0, variance, mean * (1 - mean))


def base_rates(space: AbstractSpace, values: Float[np.ndarray, "n ..."]) -> Float[np.ndarray, "e"]:
    """The fields at which independent units have the frequencies and means of these rows (a little smoothed)."""
    k = units_of(space)
    codes = np.asarray(values).reshape(len(values), -1)[:, k.coordinate]
    indicated = np.where(k.value < 0, codes, np.round(codes) == k.value)
    share = (indicated.sum(axis=0) + 0.5) / (len(codes) + 1.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        binary = np.log(share) - np.log1p(-share)
        field = np.where(k.block[k.coordinate], np.log(share), binary)
    mean = (codes.mean(axis=0) - k.center[k.coordinate]) / k.spread[k.coordinate]
    return np.where(k.numeric, mean, field).astype(np.float32)
