"""Moves of ordered values, all at once, down the slope: Langevin steps on a lattice."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from thalweg.inference.neighbours import finite_coordinates
from thalweg.sampling.gibbs import require_finite
from thalweg.sampling.kernel import AbstractTunable, Mass, Metric, State, on_slope_of_codes, require_positive
from thalweg.sampling.metropolis import accepted
from thalweg.sampling.target import Target


class LatticeLangevin(AbstractTunable):
    r"""Every ordered finite coordinate to a new value at once, by
    \(q(v) \propto e^{-\frac12 \beta\, \partial_i F(y)(v - y_i) - (v - y_i)^2 / 2 \epsilon^2 s_i^2}\), accepted by the
    Hastings ratio.

    `scales` \(s_i\) are the lengths of the coordinates in C order, 0 for those that stay. F must be smooth
    in the codes; where its slope says nothing the moves are those of a random walk.
    Zhang, Liu & Liu (2022), *A Langevin-like sampler for discrete distributions*.
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
        _, index = finite_coordinates(target.space)
        forwards = self._log_proposal(target, state)
        drawn = jax.random.categorical(choose, forwards).astype(state.position.dtype)
        moved = self.init(target, state.position.at[index].set(drawn))
        backwards = self._log_proposal(target, moved)
        ratio = _chosen(backwards, state.position[index]) - _chosen(forwards, drawn)
        return accepted(state, moved, ratio, jax.random.uniform(accept), 1)

    def _log_proposal(self, target: Target, state: State) -> Float[Array, "n v"]:
        """The log probability of each value of each finite coordinate."""
        sizes, index = finite_coordinates(target.space)
        values = np.arange(sizes.max(), dtype=np.float32)[None]
        scales = np.ones(len(index)) if self.scales is None else np.asarray(self.scales)[index]
        now = state.position[index][:, None]
        length = self.step_size * jnp.asarray(np.where(scales > 0, scales, 1.0), jnp.float32)[:, None]
        apart = values - now
        logits = -state.gradient[index][:, None] * apart / 2 - (apart / length) ** 2 / 2
        free = (target.free[index] & (scales > 0))[:, None]
        allowed = (values < sizes[:, None]) & (free | (apart == 0))
        return jax.nn.log_softmax(jnp.where(allowed, logits, -jnp.inf), axis=1)


def _chosen(table: Float[Array, "n v"], codes: Float[Array, "n"]) -> Float[Array, ""]:
    return jnp.sum(jnp.take_along_axis(table, codes.astype(jnp.int32)[:, None], axis=1))
