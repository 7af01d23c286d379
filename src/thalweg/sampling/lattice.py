"""Moves of ordered values, all at once, down the slope: Langevin steps on a lattice."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr
from jaxtyping import Array, Bool, Float

from thalweg.inference.neighbours import finite_coordinates
from thalweg.sampling.gibbs import require_finite
from thalweg.sampling.kernel import AbstractTunable, Mass, Metric, State, on_slope_of_codes, require_positive
from thalweg.sampling.metropolis import accepted
from thalweg.sampling.target import Target

#: The least share of its bin that a tail may take off a bin.
TINY = 1e-6


class LatticeLangevin(AbstractTunable):
    r"""Every ordered finite coordinate to a new value at once, accepted by the Hastings ratio: a draw of
    \(\mathcal{N}(y_i - \tfrac12 \epsilon^2 s_i^2 \beta\, \partial_i F(y),\ \epsilon^2 s_i^2)\) to the nearest value.

    So a move costs as much for 256 values as for two. `scales` \(s_i\) are the lengths of the coordinates in C order, 0
    for those that stay. F must be smooth in the codes; where its slope says nothing the moves are those of a random
    walk. On the lattice itself: Zhang, Liu & Liu (2022), *A Langevin-like sampler for discrete distributions*.
    """

    optimal = 0.574
    step_size: Float[Array, ""] | float = 0.1
    scales: tuple[float, ...] | None = eqx.field(static=True, default=None)
    metric: Metric = Metric()
    mass: Mass = eqx.field(static=True, default="unit")

    def __check_init__(self):
        require_positive("the step size", self.step_size)

    def check(self, target):
        require_finite("Langevin dynamics on a lattice", target)

    def init(self, target, position):
        return on_slope_of_codes(target, position)

    def step(self, target, state, *, key):
        choose, accept = jax.random.split(key)
        sizes, index = finite_coordinates(target.space)
        most = jnp.asarray(sizes - 1, jnp.float32)
        middle, length = self._proposal(target, state)
        drawn = jnp.round(middle + length * jax.random.normal(choose, middle.shape))
        now = state.position[index]
        drawn = jnp.where(self._free(target), jnp.clip(drawn, 0.0, most), now)
        moved = self.init(target, state.position.at[index].set(drawn))
        back, _ = self._proposal(target, moved)
        apart = _log_bin(now, back, length, most) - _log_bin(drawn, middle, length, most)
        log_ratio = jnp.sum(jnp.where(self._free(target), apart, 0.0))
        return accepted(state, moved, log_ratio, jax.random.uniform(accept), 1)

    def _scales(self, index: np.ndarray) -> np.ndarray:
        return np.ones(len(index)) if self.scales is None else np.asarray(self.scales)[index]

    def _free(self, target: Target) -> Bool[Array, "n"]:
        _, index = finite_coordinates(target.space)
        return target.free[index] & (self._scales(index) > 0)

    def _proposal(self, target: Target, state: State) -> tuple[Float[Array, "n"], Float[Array, "n"]]:
        """The mean and the deviation of each finite coordinate's proposal."""
        _, index = finite_coordinates(target.space)
        scales = self._scales(index)
        length = self.step_size * jnp.asarray(np.where(scales > 0, scales, 1.0), jnp.float32)
        return state.position[index] - length**2 / 2 * state.gradient[index], length


def _log_bin(
    value: Float[Array, "n"], mean: Float[Array, "n"], deviation: Float[Array, "n"], most: Float[Array, "n"]
) -> Float[Array, "n"]:
    """The log probability of a Gaussian on all that is rounded to a value from 0 to `most`, the nearest to what lies
    outside."""
    low = jnp.where(value <= 0, -jnp.inf, (value - 0.5 - mean) / deviation)
    high = jnp.where(value >= most, jnp.inf, (value + 0.5 - mean) / deviation)
    # In the lower half, where the tail is not told as a difference from 1.
    upper = low > 0
    low, high = jnp.where(upper, -high, low), jnp.where(upper, -low, high)
    log_low, log_high = log_ndtr(low), log_ndtr(high)
    return log_high + jnp.log1p(-jnp.exp(jnp.minimum(log_low - log_high, -TINY)))
