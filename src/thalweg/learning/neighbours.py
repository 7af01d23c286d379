"""Objectives whose negatives are the data's own neighbours, one coordinate changed: no chains and no log Z."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from thalweg.energy.base import AbstractEnergy
from thalweg.inference.neighbours import changes, finite_coordinates, neighbours
from thalweg.learning.objective import AbstractObjective
from thalweg.learning.rows import require, split_batch, whole


def differences(
    energy: AbstractEnergy, y: Float[Array, "..."]
) -> tuple[Float[Array, "d v"], Bool[Array, "d v"]]:
    r"""\(F(y) - F(y_{i \to v})\) for every change, and which entries are one."""
    here = energy(y)
    changed = changes(energy.space, y)
    return jnp.where(changed, here - neighbours(energy, y), 0.0), changed


class PseudoLikelihood(AbstractObjective):
    r"""\(L = -\frac1n\sum_n\sum_i \log p(y_{ni} \mid y_{n\setminus i})\), in nats a row.

    Besag (1975), *Statistical analysis of non-lattice data*.
    """

    def __call__(self, energy, batch, memory, *, key):
        require("finite", "pseudo-likelihood", energy)
        values = whole(batch, "pseudo-likelihood")

        def of_row(y):
            gain, changed = differences(energy, y)
            return jnp.sum(jax.nn.logsumexp(jnp.pad(_only(gain, changed), ((0, 0), (0, 1))), axis=1))

        return jnp.mean(jax.vmap(of_row)(values)), (memory, {})


class RatioMatching(AbstractObjective):
    r"""\(L = \frac1n\sum_n\sum_{i, v \ne y_i} \sigma(F(y_n) - F(y_{n, i \to v}))^2\): ratios of neighbouring
    probabilities as those of the data.

    Hyvärinen (2007), *Some extensions of score matching*, for binary variables; here summed over all other values.
    """

    def __call__(self, energy, batch, memory, *, key):
        require("finite", "ratio matching", energy)
        values = whole(batch, "ratio matching")

        def of_row(y):
            gain, changed = differences(energy, y)
            return jnp.sum(jnp.where(changed, jax.nn.sigmoid(gain) ** 2, 0.0))

        return jnp.mean(jax.vmap(of_row)(values)), (memory, {})


class Known(eqx.Module):
    """The rows of the data by two hashes, sorted by the first, and the factors that make them."""

    first: Array
    second: Array
    factors: Array


class MinimumProbabilityFlow(AbstractObjective):
    r"""\(L = \frac1n\sum_n\sum_{i, v \ne y_i} e^{(F(y_n) - F(y_{n, i \to v}))/2}\): the flow of probability out of the
    data when it starts to relax towards \(e^{-F}\).

    With `exclude`, neighbours that are themselves rows of the data do not count, as in the paper. Where data covers
    most of the space that leaves nothing to learn from; without it the flows between rows cancel in expectation, and
    the estimate is consistent. Sohl-Dickstein, Battaglino & DeWeese (2011), *Minimum probability flow learning*.
    """

    exclude: bool = eqx.field(static=True, default=False)

    def init(self, energy, data, *, key):
        if not self.exclude:
            return None
        values, _ = split_batch(data)
        _, index = finite_coordinates(energy.space)
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        factors = jnp.asarray(rng.integers(1, 1 << 32, (2, len(index)), dtype=np.uint32) | 1)
        first, second = jax.vmap(lambda y: _hashes(y, index, factors))(values)
        order = jnp.argsort(first)
        return Known(first[order], second[order], factors)

    def __call__(self, energy, batch, memory, *, key):
        require("finite", "minimum probability flow", energy)
        values = whole(batch, "minimum probability flow")

        def of_row(y):
            gain, changed = differences(energy, y)
            if memory is not None:
                changed = changed & ~_among(memory, energy, y, gain.shape)
            # A flow that overflows is a gradient that is no number: beyond e^40 it only has to be large.
            return jnp.sum(jnp.where(changed, jnp.exp(jnp.minimum(gain / 2, 40.0)), 0.0))

        return jnp.mean(jax.vmap(of_row)(values)), (memory, {})


def _only(gain: Array, changed: Array) -> Array:
    return jnp.where(changed, gain, -jnp.inf)


def _hashes(y: Array, index: np.ndarray, factors: Array) -> tuple[Array, Array]:
    codes = jnp.ravel(y)[index].astype(jnp.uint32)
    return jnp.sum(codes * factors[0], dtype=jnp.uint32), jnp.sum(codes * factors[1], dtype=jnp.uint32)


def _among(known: Known, energy: AbstractEnergy, y: Array, shape: tuple[int, ...]) -> Bool[Array, "d v"]:
    """Which changes of `y` are rows of the data: a hash of a sum changes by one term."""
    _, index = finite_coordinates(energy.space)
    codes = jnp.ravel(y)[index].astype(jnp.uint32)
    step = jnp.arange(shape[1], dtype=jnp.uint32)[None] - codes[:, None]
    first, second = _hashes(y, index, known.factors)
    h1, h2 = first + step * known.factors[0][:, None], second + step * known.factors[1][:, None]
    place = jnp.minimum(jnp.searchsorted(known.first, h1), len(known.first) - 1)
    return (known.first[place] == h1) & (known.second[place] == h2)
