"""Parallel tempering: hot chains cross the barriers, and hand what they find to the cold one."""

import math
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from thalweg.energy.base import AbstractEnergy, Scalar
from thalweg.energy.capabilities import AbstractTempered
from thalweg.errors import SettingsError
from thalweg.sampling.kernel import AbstractKernel, Info, Metric, State
from thalweg.sampling.target import Target


class Replicas(State):
    """The cold chain, and all of them, coldest first; `count` steps so far."""

    chains: State = eqx.field(default=None)
    count: Int[Array, ""] = eqx.field(default=None)


class ParallelTempering(AbstractKernel):
    r"""One chain at each of `betas` (1 first, falling), each by `kernel`; then neighbours, even and odd pairs in turn,
    change places with probability \(\min\{1, e^{U_a(x_a) + U_b(x_b) - U_a(x_b) - U_b(x_a)}\}\).

    The chain at \(\beta\) samples \(e^{-\beta F}\), or what an `AbstractTempered` energy puts there. What is kept is
    the cold chain. Swendsen & Wang (1986), *Replica Monte Carlo simulation of spin glasses*; Geyer (1991), *Markov
    chain Monte Carlo maximum likelihood*; pairs in turn: Syed, Bouchard-Côté, Deligiannidis & Doucet (2022).
    """

    kernel: AbstractKernel
    betas: tuple[float, ...] = eqx.field(static=True)

    def __init__(self, kernel: AbstractKernel, betas: tuple[float, ...] | None = None, *, levels: int = 8):
        self.kernel = kernel
        self.betas = geometric(levels) if betas is None else tuple(betas)
        falling = all(a > b > 0 for a, b in zip(self.betas, self.betas[1:], strict=False))
        if len(self.betas) < 2 or self.betas[0] != 1 or not falling:
            raise SettingsError(
                f"inverse temperatures fall from 1 and stay above 0, at least two of them: not {self.betas}"
            )

    @property
    def exact(self):
        return self.kernel.exact

    def check(self, target):
        self.kernel.check(target)

    def init(self, target, position):
        return self._cold(self._all(target, jnp.tile(position, (len(self.betas), 1))), jnp.int32(0))

    def step(self, target, state, *, key):
        walk, swap = jax.random.split(key)
        chains, info = self._stepped(target, state.chains, jax.random.split(walk, len(self.betas)))
        order, probability = self._partners(state.count)
        swapped = self._all(target, chains.position[order])
        gain = chains.potential - swapped.potential
        gain = gain + gain[order]
        gain = jnp.where(jnp.isnan(gain), -jnp.inf, gain)
        # A pair shares one uniform number: that of its first.
        first = jnp.minimum(order, jnp.arange(len(order), dtype=order.dtype))
        uniform = jax.random.uniform(swap, (len(order),))[first]
        chance = jnp.exp(jnp.minimum(gain, 0.0))
        taken = (uniform < chance) & probability
        chains = jax.tree.map(
            lambda new, old: jnp.where(taken.reshape(-1, *[1] * (new.ndim - 1)), new, old), swapped, chains
        )
        swaps = Info(
            jnp.where(probability, chance, jnp.nan),
            jnp.zeros(len(order), bool),
            jnp.ones(len(order), jnp.int32),
        )
        cold = Info(info.acceptance[0], info.divergent[0], jnp.sum(info.work), (info, swaps))
        return self._cold(chains, state.count + 1), cold

    def tunable(self):
        # One step size and one metric for each temperature.
        n = len(self.betas)

        def stacked(part):
            size = jnp.broadcast_to(jnp.asarray(part.step_size, jnp.float32), (n,))
            scale = jnp.asarray(part.metric.scale, jnp.float32)
            scale = (
                scale
                if scale.shape[:1] == (n,) and scale.ndim > 1
                else jnp.broadcast_to(scale, (n, *scale.shape))
            )
            return part.with_step(size).with_metric(Metric(scale))

        return tuple(stacked(part) for part in self.kernel.tunable())

    def tuned(self, parts):
        return ParallelTempering(self.kernel.tuned(parts), self.betas)

    def watched(self, state, info):
        return self.kernel.watched(state.chains, info.parts[0])

    def _at(self, target: Target, beta: Scalar) -> Target:
        energy, own = tempered(target.energy, target.beta, beta)
        return replace(target, energy=energy, beta=own)

    def _all(self, target: Target, positions: Float[Array, "t d"]) -> State:
        return jax.vmap(lambda beta, u: self.kernel.init(self._at(target, beta), u))(self._betas, positions)

    def _stepped(self, target: Target, chains: State, keys: Array) -> tuple[State, Info]:
        parts = self.tunable()

        def step(beta, parts, state, key):
            return self.kernel.tuned(parts).step(self._at(target, beta), state, key=key)

        return eqx.filter_vmap(step)(self._betas, parts, chains, keys)

    @property
    def _betas(self) -> Float[np.ndarray, "t"]:
        return np.array(self.betas, np.float32)

    def _partners(self, count: Int[Array, ""]) -> tuple[Int[Array, "t"], Array]:
        """Who may change places with whom in this step, and who takes part."""
        place = jnp.arange(len(self.betas), dtype=jnp.int32)
        other = place + jnp.where((place + count) % 2 == 0, 1, -1)
        paired = (other >= 0) & (other < len(self.betas))
        return jnp.where(paired, other, place), paired

    def _cold(self, chains: State, count: Int[Array, ""]) -> Replicas:
        first = jax.tree.map(lambda leaf: leaf[0], chains)
        return Replicas(first.position, first.potential, first.energy, first.gradient, chains, count)


def tempered(
    energy: AbstractEnergy, beta: float | Scalar, share: Scalar
) -> tuple[AbstractEnergy, float | Scalar]:
    """The energy and the inverse temperature at a share of the way from the easy end of the path."""
    if isinstance(energy, AbstractTempered):
        return energy.tempered(share), beta
    return energy, beta * share


def geometric(levels: int, hottest: float = 0.1) -> tuple[float, ...]:
    """Inverse temperatures from 1 down to `hottest`, each the same share of the one before."""
    if levels < 2:
        raise SettingsError(f"tempering needs at least two temperatures, not {levels}")
    return tuple(math.exp(math.log(hottest) * i / (levels - 1)) for i in range(levels))
