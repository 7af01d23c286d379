r"""Objectives whose negatives are the energy's own samples: contrastive divergence, from the data or persistent.

\(\nabla(-\log p(y)) = \nabla F(y) - E_{y' \sim p}\nabla F(y')\), the expectation over chains that are short.
"""

import math
from dataclasses import replace
from typing import ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from thalweg.energy.base import AbstractEnergy, Scalar
from thalweg.energy.spaces import Simplex
from thalweg.errors import SettingsError
from thalweg.inference.problem import without_gradient
from thalweg.learning.objective import AbstractObjective
from thalweg.learning.rows import split_batch, suits
from thalweg.sampling import charts
from thalweg.sampling.kernel import AbstractKernel
from thalweg.sampling.langevin import ULA
from thalweg.sampling.target import Target
from thalweg.sampling.walk import walk

Start = Literal["data", "noise", "persistent"]
#: How many rows, and how many negatives, are looked at again after a step.
SEEN = 16
#: The most steps of a chain that the guard asks for.
MOST_STEPS = 1000


class Negatives(eqx.Module):
    """What contrastive divergence carries along: the replay buffer, and what the guard may change.

    Chains of the buffer that are `anew` begin at rows of the batch when their turn comes; `pace` is a factor of the
    kernel's step size; `seen` are some points of the last step, `energies` what theirs were before it, and `leap` the
    most that a step has changed them by, slowly forgotten.
    """

    buffer: Float[Array, "size ..."] | None
    anew: Bool[Array, "size"] | None
    steps: Int[Array, ""]
    penalty: Float[Array, ""]
    pace: Float[Array, ""]
    seen: Float[Array, "k ..."]
    energies: Float[Array, "k"]
    leap: Float[Array, ""]

    def leapt(self, energy: AbstractEnergy) -> Scalar:
        """The most that a step has changed the energies of points by, each beside the others."""
        now = jnp.std(jax.vmap(without_gradient(energy))(self.seen) - self.energies)
        return jnp.maximum(jnp.where(jnp.isfinite(now), now, 0.0), 0.999 * self.leap)

    def after(
        self, places: Int[Array, "m"], data: tuple[Array, Array], ends: tuple[Array, Array], leap: Scalar
    ) -> "Negatives":
        """The memory after a step on these points and their energies, with the chains' `ends` at their `places`."""
        some = np.arange(SEEN)
        seen, energies = (
            jnp.concatenate([a[some % len(a)], b[some % len(b)]]) for a, b in zip(data, ends, strict=True)
        )
        kept = replace(self, seen=seen, energies=energies, leap=leap)
        if self.buffer is None or self.anew is None:
            return kept
        return replace(kept, buffer=self.buffer.at[places].set(ends[0]), anew=self.anew.at[places].set(False))


class ContrastiveDivergence(AbstractObjective):
    r"""\(L = \frac1n\sum_i F(y_i) - \frac1m\sum_j F(y'_j) + \frac\alpha2 (\overline{F(y)^2} + \overline{F(y')^2})\),
    with \(y'\) the ends of chains of `steps` steps of `kernel`.

    The chains start at the `data` (CD-k), at `noise` (reference points of the space), or where earlier ones ended
    (`persistent`): then a buffer of `chains` points, on the device, of which each step moves as many as the batch has
    rows, a share `refresh` of them begun anew. `penalty` \(\alpha\) keeps energies near 0, and `jitter` blurs the data
    of numbers by Gaussian noise of that deviation. `through` lets the gradient flow through the chains; without it
    they are constants, as the likelihood's gradient asks. Cells that are missing are drawn by as many steps, given
    the observed ones.

    Hinton (2002), *Training products of experts by minimizing contrastive divergence*; persistent: Tieleman (2008),
    *Training restricted Boltzmann machines using approximations to the likelihood gradient*; replay buffer and
    penalty: Du & Mordatch (2019), *Implicit generation and modeling with energy-based models*.
    """

    measures_progress: ClassVar[bool] = False
    kernel: AbstractKernel
    steps: int = eqx.field(static=True, default=1)
    start: Start = eqx.field(static=True, default="data")
    chains: int = eqx.field(static=True, default=0)
    refresh: float = 0.0
    penalty: float = 0.0
    jitter: float = 0.0
    through: bool = eqx.field(static=True, default=False)
    folded: bool = eqx.field(static=True, default=True)

    def __check_init__(self):
        if self.steps < 1:
            raise SettingsError(
                f"contrastive divergence takes at least one step of the chain, not {self.steps}"
            )
        if self.start not in ("data", "noise", "persistent"):
            raise SettingsError(f"chains start at data, noise or persistent, not {self.start!r}")
        if not 0 <= self.refresh <= 1 or self.penalty < 0 or self.jitter < 0:
            raise SettingsError("refresh is a share from 0 to 1; penalty and jitter are not negative")

    def init(self, energy, data, *, key):
        self.kernel.check(Target(energy))
        values, observed = split_batch(data)
        size = self.chains or min(len(values), 10_000)
        buffer = anew = None
        if self.start == "persistent":
            # Chains begin at rows of the data, spread over it, and forget them.
            spaced = np.arange(size) * len(values) // size
            buffer, anew = jnp.asarray(values[spaced]), jnp.zeros(size, bool)
            if observed is not None:
                fresh = jax.vmap(lambda k: energy.space.draw(key=k))(jax.random.split(key, size))
                buffer = jnp.where(jnp.asarray(observed[spaced]), buffer, fresh)
        start = jnp.int32(self.steps), jnp.float32(self.penalty), jnp.float32(1)
        # All the same point, so that the first step finds no change beside each other.
        seen = jnp.zeros((2 * SEEN, *values.shape[1:]), values.dtype)
        return Negatives(buffer, anew, *start, seen, jnp.zeros(2 * SEEN), jnp.float32(0))

    def unit(self, energy):
        heat = self.kernel.temperature if isinstance(self.kernel, ULA) else 1.0
        return heat * math.sqrt(len(energy.space.levels()))

    def __call__(self, energy, batch, memory, *, key):
        blur_key, fill_key, start_key, walk_key = jax.random.split(key, 4)
        values, observed = split_batch(batch)
        fixed = energy if self.through else without_gradient(energy)
        if observed is not None:
            values = self._filled(fixed, values, observed, memory, fill_key)
        if self.jitter:
            values = self._blurred(energy, values, blur_key)
        places, begin = self._begin(energy, values, memory, start_key)
        target = Target(fixed, folded=self.folded)
        steps = self.steps if self.through else memory.steps
        ends = walk(target, _paced(self.kernel, memory.pace), begin, steps, key=walk_key)
        negatives = ends.points if self.through else jax.lax.stop_gradient(ends.points)
        low, high = jax.vmap(energy)(values), jax.vmap(energy)(negatives)
        gap = jnp.mean(high) - jnp.mean(low)
        metrics = {
            "gap": gap,
            "data_energy": jnp.mean(low),
            "spread": jnp.std(low) + jnp.std(high),
            "told_apart": _share(low[: len(high)] < jnp.roll(high, 1)),
            "leap": memory.leapt(energy),
            "acceptance": ends.acceptance,
            "flown": ends.divergent,
            "moved": _share(_differ(negatives, begin)),
            "varied": _share(_differ(values, jnp.roll(values, 1, axis=0))),
            "reach": self._reach(energy, values, begin, negatives),
        }
        loss = -gap + memory.penalty * self._strain(low, high)
        memory = memory.after(places, (values, low), (negatives, high), metrics["leap"])
        return loss, jax.lax.stop_gradient((memory, metrics))

    def _blurred(self, energy: AbstractEnergy, values: Array, key: PRNGKeyArray) -> Array:
        """The rows with noise, reflected at the faces of a box as chains are: what those cannot reach, or a heap on a
        face, would be told from them for ever."""
        if not suits("real", energy.space):
            return values
        noise = self.jitter * jax.random.normal(key, values.shape)
        return jax.vmap(lambda y: charts.reflected(energy.space, y))(values + noise)

    def _strain(self, low: Float[Array, "n"], high: Float[Array, "m"]) -> Scalar:
        """The mean square of the energies; of a penalty that only the guard asked for, about their mean, which an
        energy without a free constant cannot choose."""
        centre = 0.0 if self.penalty else jax.lax.stop_gradient((jnp.mean(low) + jnp.mean(high)) / 2)
        return (jnp.mean((low - centre) ** 2) + jnp.mean((high - centre) ** 2)) / 2

    def _reach(self, energy: AbstractEnergy, values: Array, begin: Array, negatives: Array) -> Scalar:
        free = energy.space.real.reshape(-1)
        if free.any() and not isinstance(energy.space, Simplex):
            free = free & ~charts.box(energy.space).both
        # One row has no width to compare with.
        if not free.any() or len(values) < 2:
            return jnp.zeros(())
        middle = jnp.mean(values, axis=0)
        here, start, end = (_flat(points - middle[None])[:, free] for points in (values, begin, negatives))
        wide = jnp.maximum(_size(here), _size(start)) if self.start == "noise" else _size(here)
        return _size(end) / jnp.maximum(wide, 1e-6)

    def _begin(
        self, energy: AbstractEnergy, values: Array, memory: Negatives, key: PRNGKeyArray
    ) -> tuple[Array, Array]:
        """Where the chains start, and their places in the buffer."""
        n = len(values)
        pick_key, renew_key, fresh_key = jax.random.split(key, 3)
        if self.start == "data":
            return jnp.zeros(n, jnp.int32), values
        fresh = jax.vmap(lambda k: energy.space.draw(key=k))(jax.random.split(fresh_key, n))
        if self.start == "noise":
            return jnp.zeros(n, jnp.int32), fresh
        assert memory.buffer is not None
        assert memory.anew is not None
        size = len(memory.buffer)
        places = jnp.arange(size, dtype=jnp.int32)
        if size > n:
            places = jax.random.choice(pick_key, size, (n,), replace=False).astype(jnp.int32)
        old = jnp.where(_beside(memory.anew[places], values), values[: len(places)], memory.buffer[places])
        if not self.refresh:
            return places, old
        renewed = jax.random.bernoulli(renew_key, self.refresh, (len(places),))
        fresh = fresh[: len(places)] if len(places) <= n else jnp.resize(fresh, old.shape)
        return places, jnp.where(_beside(renewed, old), fresh, old)

    def _filled(
        self, energy: AbstractEnergy, values: Array, observed: Array, memory: Negatives, key: PRNGKeyArray
    ) -> Array:
        """The rows with their missing cells drawn given the others."""
        start_key, walk_key = jax.random.split(key)
        fresh = jax.vmap(lambda k: energy.space.draw(key=k))(jax.random.split(start_key, len(values)))
        begin = jnp.where(observed, values, fresh)
        target = Target(energy, held=begin, observed=observed, folded=self.folded)
        ends = walk(target, _paced(self.kernel, memory.pace), begin, memory.steps, key=walk_key)
        return jax.lax.stop_gradient(jnp.where(observed, values, ends.points))

    def remedied(self, memory, cause):
        """Smaller steps of the chain where it flies or freezes, or may do so unseen; more of them, and a penalty, where
        energies run away or negatives teach nothing; a weaker penalty where the energy is flat."""
        astray = cause in ("flown", "frozen", "runaway", "exploding", "not finite")
        unseen = cause not in ("flown", "frozen") and self.kernel.exact
        # The step before the roll-back may have leapt itself: what it changed is not looked at again.
        changes: dict[str, Array] = {
            "seen": jnp.zeros_like(memory.seen),
            "energies": jnp.zeros_like(memory.energies),
            "leap": jnp.zeros_like(memory.leap),
        }
        words = []
        if astray and self.kernel.tunable() and not unseen:
            changes["pace"] = 0.3 * memory.pace
            words.append(f"the chain's step size times {float(changes['pace']):.3g}")
        if cause in ("frozen", "runaway", "told apart") and not self.through:
            changes["steps"] = jnp.maximum(memory.steps, jnp.minimum(2 * memory.steps, MOST_STEPS))
            words.append(f"{int(changes['steps'])} steps of the chain")
        if cause in ("runaway", "told apart"):
            changes["penalty"] = jnp.maximum(3 * memory.penalty, 1e-3)
        if cause == "flat" and memory.penalty > 0:
            changes["penalty"] = memory.penalty / 10
        if "penalty" in changes:
            words.append(f"a penalty of {float(changes['penalty']):.2g} on the energies")
        if memory.anew is not None and (astray or cause == "told apart"):
            changes["anew"] = jnp.ones_like(memory.anew)
            words.append("all chains anew from the data")
        return replace(memory, **changes), ", ".join(words)


def _paced(kernel: AbstractKernel, pace: Scalar) -> AbstractKernel:
    """The kernel with its step sizes times `pace`."""
    parts = kernel.tunable()
    return kernel.tuned(tuple(part.with_step(pace * part.step_size) for part in parts)) if parts else kernel


def _flat(array: Array) -> Array:
    return jnp.reshape(array, (len(array), -1))


def _beside(flags: Bool[Array, "n"], points: Array) -> Bool[Array, "n ..."]:
    return flags.reshape(-1, *[1] * (points.ndim - 1))


def _differ(points: Array, others: Array) -> Bool[Array, "n"]:
    return jnp.any(_flat(points != others), axis=1)


def _share(flags: Bool[Array, "n"]) -> Scalar:
    return jnp.mean(flags.astype(jnp.float32))


def _size(points: Float[Array, "n d"]) -> Scalar:
    return jnp.sqrt(jnp.mean(points**2))
