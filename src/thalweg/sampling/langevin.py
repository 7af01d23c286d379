"""Langevin dynamics: down the slope, with noise."""

import math
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from thalweg.sampling.hmc import HMC
from thalweg.sampling.kernel import (
    AbstractTunable,
    Info,
    Mass,
    Metric,
    State,
    either,
    on_slope,
    require_positive,
    require_real,
)


class ULA(AbstractTunable):
    r"""\(u' = u - \epsilon\,\Sigma \nabla U(u) + \sqrt{2\epsilon}\, L\xi\): unadjusted Langevin.

    Not exact: on \(N(0, 1)\) its variance is \(1/(1 - \epsilon/2)\). There is no acceptance to tune the step size
    by; `temperature` below 1 shrinks the noise by its root. Roberts & Tweedie (1996), *Exponential convergence of
    Langevin distributions and their discrete approximations*.
    """

    step_size: Float[Array, ""] | float = 0.01
    temperature: float = 1.0
    metric: Metric = Metric()
    mass: Mass = eqx.field(static=True, default="unit")

    def __check_init__(self):
        require_positive("the step size", self.step_size)

    @property
    def exact(self):
        return False

    def check(self, target):
        require_real("Langevin dynamics", target)

    def init(self, target, position):
        return on_slope(target, position)

    def step(self, target, state, *, key):
        drift = self.metric.spread(self.metric.gather(state.gradient))
        noise, _ = target.noise(key)
        noise = jnp.sqrt(2 * self.step_size * self.temperature) * self.metric.spread(noise)
        return unless_infinite(state, on_slope(target, state.position - self.step_size * drift + noise))


def unless_infinite(state: State, moved: State) -> tuple[State, Info]:
    """The new state, or the old one where the new potential or its gradient is no finite number."""
    sound = jnp.isfinite(moved.potential) & jnp.all(jnp.isfinite(moved.gradient))
    return either(sound, moved, state), Info(sound.astype(jnp.float32), ~sound, jnp.asarray(1, jnp.int32))


class MALA(AbstractTunable):
    r"""A Langevin step of size \(\epsilon\), accepted by the Hastings ratio.

    The same as one leapfrog step of length \(\sqrt{2\epsilon}\). Roberts & Rosenthal (1998), *Optimal scaling of
    discrete approximations to Langevin diffusions*.
    """

    optimal: ClassVar[float | None] = 0.574
    step_size: Float[Array, ""] | float = 0.1
    metric: Metric = Metric()
    mass: Mass = eqx.field(static=True, default="diagonal")

    def __check_init__(self):
        require_positive("the step size", self.step_size)

    def check(self, target):
        require_real("Langevin dynamics", target)

    def init(self, target, position):
        return on_slope(target, position)

    def step(self, target, state, *, key):
        length = jnp.sqrt(2 * jnp.asarray(self.step_size))
        return HMC(length, 1, jitter=0.0, metric=self.metric).step(target, state, key=key)


class Moving(State):
    """A state with the momentum that the next step goes on with."""

    momentum: Float[Array, "d"] = eqx.field(default=None)


class UnderdampedLangevin(AbstractTunable):
    r"""Langevin dynamics with momentum: \(du = L r\,dt,\ dr = -L^\top\nabla U\,dt - \gamma r\,dt +
    \sqrt{2\gamma}\,dW\), by the splitting BAOAB.

    Not exact, but on a Gaussian the positions have the target's distribution at any stable step size.
    Leimkuhler & Matthews (2013), *Rational construction of stochastic numerical methods for molecular sampling*.
    """

    step_size: Float[Array, ""] | float = 0.1
    friction: float = 1.0
    metric: Metric = Metric()
    mass: Mass = eqx.field(static=True, default="unit")

    def __check_init__(self):
        require_positive("the step size", self.step_size)
        require_positive("the friction", self.friction)

    @property
    def exact(self):
        return False

    def check(self, target):
        require_real("Langevin dynamics", target)

    def init(self, target, position):
        start = on_slope(target, position)
        return Moving(start.position, start.potential, start.energy, start.gradient, jnp.zeros_like(position))

    def step(self, target, state, *, key):
        half = self.step_size / 2
        r = state.momentum - half * self.metric.gather(state.gradient)
        u = state.position + half * self.metric.spread(r)
        kept = jnp.exp(-self.friction * jnp.asarray(self.step_size))
        r = kept * r + jnp.sqrt(1 - kept**2) * target.noise(key)[0]
        end = on_slope(target, u + half * self.metric.spread(r))
        r = r - half * self.metric.gather(end.gradient)
        moved = Moving(end.position, end.potential, end.energy, end.gradient, r)
        return unless_infinite(state, moved)


def variance_of_ula(step_size: float, variance: float = 1.0) -> float:
    r"""The stationary variance of `ULA` on \(N(0, \sigma^2)\): \(\sigma^2 / (1 - \epsilon / 2\sigma^2)\)."""
    return variance / (1 - step_size / (2 * variance)) if step_size < 2 * variance else math.inf
