r"""Reference densities: what a space's own `draw` draws from, and the path from one density to an energy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from thalweg.energy.base import AbstractDensity, AbstractEnergy
from thalweg.energy.spaces import AbstractSpace, Simplex


class Reference(AbstractDensity):
    """The density of a space's `draw`: uniform where it is bounded, standard normal where it is not.

    A box with one bound is an exponential beyond it. Energies of a table's row have the columns' own ranges for bounds.
    """

    space: AbstractSpace

    def log_prob(self, y, x=None):
        if isinstance(self.space, Simplex):
            return jnp.asarray(math.lgamma(self.space.size), jnp.float32)
        lower, upper, finite = _flat(self.space)
        low, high = np.isfinite(lower), np.isfinite(upper)
        flat = jnp.ravel(y)
        constant = np.where(low & high, -np.log(np.where(low & high, upper - lower + finite, 1.0)), 0.0)
        normal = -0.5 * flat**2 - 0.5 * math.log(2 * math.pi)
        apart = jnp.where(low, flat - np.where(low, lower, 0), np.where(high, upper, 0) - flat)
        tail = jnp.where(low | high, -apart, normal)
        return jnp.sum(jnp.where(low & high, constant.astype(np.float32), tail))

    def sample(self, x=None, *, key):
        if isinstance(self.space, Simplex):
            return self.space.draw(key=key)
        lower, upper, finite = _flat(self.space)
        low, high = np.isfinite(lower), np.isfinite(upper)
        uniform_key, normal_key = jax.random.split(key)
        u = jax.random.uniform(uniform_key, lower.shape)
        start, width = np.where(low, lower, 0), np.where(low & high, upper - lower + finite, 1)
        inside = start + width * u
        inside = jnp.where(finite, jnp.minimum(jnp.floor(inside), np.where(high, upper, 0)), inside)
        away = -jnp.log1p(-u)
        beyond = jnp.where(low, start + away, np.where(high, upper, 0) - away)
        free = jax.random.normal(normal_key, lower.shape)
        y = jnp.where(low & high, inside, jnp.where(low | high, beyond, free))
        return y.astype(jnp.float32).reshape(self.space.shape)


class Bridge(AbstractEnergy):
    r"""\((1 - \beta)\,F_0(y) + \beta\,F(y, x)\): the geometric path from one energy to another."""

    start: AbstractEnergy
    end: AbstractEnergy
    beta: float | Float[Array, ""]

    @property
    def space(self) -> AbstractSpace:
        return self.end.space

    def __call__(self, y, x=None):
        # At an end of the path the other energy may be infinite, and 0 times infinity is no number.
        start, end = self.start(y), self.end(y, x)
        return jnp.where(self.beta < 1, (1 - self.beta) * start, 0) + jnp.where(
            self.beta > 0, self.beta * end, 0
        )


def _flat(space: AbstractSpace) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The bounds of each coordinate, and which are finite."""
    lower, upper = (bound.reshape(-1) for bound in space.bounds())
    return lower, upper, ~space.real.reshape(-1)
