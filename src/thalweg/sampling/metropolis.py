"""Metropolis and Hastings: propose, and accept by the ratio."""

from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from thalweg.energy.base import Scalar
from thalweg.sampling.kernel import (
    AbstractTunable,
    Info,
    Mass,
    Metric,
    State,
    at,
    either,
    require_positive,
    require_real,
)

#: `(u, step_size, key) -> (u', log q(u | u') - log q(u' | u))`, in the target's coordinates.
Proposal = Callable[[Float[Array, "d"], Scalar, PRNGKeyArray], tuple[Float[Array, "d"], Scalar]]


class Metropolis(AbstractTunable):
    r"""\(u' \sim q(\cdot \mid u)\), accepted with probability
    \(\min\{1, e^{U(u) - U(u')}\, q(u \mid u') / q(u' \mid u)\}\).

    The default proposal is a random walk, \(u' = u + \epsilon L \xi\). Hastings (1970), *Monte Carlo sampling
    methods using Markov chains and their applications*; optimal acceptance: Roberts, Gelman & Gilks (1997).
    """

    optimal: ClassVar[float | None] = 0.234
    step_size: Float[Array, ""] | float = 0.5
    proposal: Proposal | None = None
    metric: Metric = Metric()
    mass: Mass = eqx.field(static=True, default="diagonal")

    def __check_init__(self):
        require_positive("the step size", self.step_size)

    def check(self, target):
        if self.proposal is None:
            require_real("a random walk", target)

    def init(self, target, position):
        return at(target, position)

    def step(self, target, state, *, key):
        if self.proposal is None:
            noise, (uniform,) = target.noise(key, 1)
            moved = state.position + self.step_size * self.metric.spread(noise)
            log_ratio = jnp.zeros(())
        else:
            propose, accept = jax.random.split(key)
            moved, log_ratio = self.proposal(state.position, jnp.asarray(self.step_size), propose)
            moved, uniform = jnp.where(target.free, moved, state.position), jax.random.uniform(accept)
        return accepted(state, at(target, moved), log_ratio, uniform, 1)


def accepted(
    state: State, proposed: State, log_ratio: Scalar, uniform: Scalar, work: int | Array
) -> tuple[State, Info]:
    r"""The proposed state with probability \(\min\{1, e^{U - U' + \log ratio}\}\), else the old one; which of them, a
    number uniform in [0, 1) decides."""
    return by_change(state, proposed, state.potential - proposed.potential + log_ratio, uniform, work)


def by_change(
    state: State, proposed: State, gain: Scalar, uniform: Scalar, work: int | Array
) -> tuple[State, Info]:
    r"""The proposed state with probability \(\min\{1, e^{gain}\}\); a gain that is no number rejects."""
    # A potential of plus infinity on both sides is a start outside the support: anything else is better.
    gain = jnp.where(jnp.isfinite(proposed.potential), gain, -jnp.inf)
    gain = jnp.where(jnp.isnan(gain), 0.0, gain)
    probability = jnp.exp(jnp.minimum(gain, 0.0))
    taken = uniform < probability
    return either(taken, proposed, state), Info(probability, jnp.array(False), jnp.asarray(work, jnp.int32))
