"""Hamiltonian Monte Carlo: a throw along the energy's own landscape, with a momentum drawn for it."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from thalweg.energy.base import Scalar
from thalweg.errors import SettingsError
from thalweg.sampling.kernel import (
    DIVERGENT,
    AbstractTunable,
    Info,
    Mass,
    Metric,
    State,
    on_slope,
    require_positive,
    require_real,
)
from thalweg.sampling.metropolis import by_change
from thalweg.sampling.target import Target


class HMC(AbstractTunable):
    r"""`leapfrogs` steps of \(\dot u = Lr,\ \dot r = -L^\top \nabla U(u)\) from \(r \sim N(0, I)\), accepted by the
    change of \(U(u) + r^\top r/2\).

    Each trajectory's step size is drawn within \(1 \pm\) `jitter` of `step_size`, so that no period of the target is
    met exactly. Duane, Kennedy, Pendleton & Roweth (1987), *Hybrid Monte Carlo*; optimal acceptance: Beskos et al.
    (2013).
    """

    optimal: ClassVar[float | None] = 0.651
    step_size: Float[Array, ""] | float = 0.1
    leapfrogs: int = eqx.field(static=True, default=16)
    jitter: float = eqx.field(static=True, default=0.2)
    metric: Metric = Metric()
    mass: Mass = eqx.field(static=True, default="diagonal")

    def __check_init__(self):
        require_positive("the step size", self.step_size)
        if self.leapfrogs < 1 or not 0 <= self.jitter < 1:
            raise SettingsError(
                f"HMC needs at least one leapfrog step, not {self.leapfrogs}, and a jitter from 0 up to below 1, "
                f"not {self.jitter}"
            )

    def check(self, target):
        require_real("Hamiltonian Monte Carlo", target)

    def init(self, target, position):
        return on_slope(target, position)

    def step(self, target, state, *, key):
        r, (length, accept) = target.noise(key, 2)
        size = self.step_size * (1 + self.jitter * (2 * length - 1))
        end, r_end = jax.lax.fori_loop(
            0,
            self.leapfrogs,
            lambda _, at: leapfrog(target, self.metric, size, *at),
            (state, r),
        )
        gain = state.potential - end.potential + (jnp.vdot(r, r) - jnp.vdot(r_end, r_end)) / 2
        kept, info = by_change(state, end, gain, accept, self.leapfrogs)
        return kept, Info(info.acceptance, ~(gain > -DIVERGENT), info.work)


def leapfrog(
    target: Target, metric: Metric, size: Scalar | float, state: State, r: Float[Array, "d"]
) -> tuple[State, Float[Array, "d"]]:
    """Half a kick, a drift, half a kick: reversible, and it keeps volumes."""
    r = r - size / 2 * metric.gather(state.gradient)
    moved = on_slope(target, state.position + size * metric.spread(r))
    return moved, r - size / 2 * metric.gather(moved.gradient)
