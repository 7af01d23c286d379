r"""Objectives whose negatives are the energy's own samples: contrastive divergence, from the data or persistent.

\(\nabla(-\log p(y)) = \nabla F(y) - E_{y' \sim p}\nabla F(y')\), the expectation over chains that are short.
"""

from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from thalweg.energy.base import AbstractEnergy
from thalweg.errors import SettingsError
from thalweg.learning.objective import AbstractObjective
from thalweg.learning.rows import split_batch
from thalweg.sampling.kernel import AbstractKernel
from thalweg.sampling.target import Target
from thalweg.sampling.walk import walk

Start = Literal["data", "noise", "persistent"]


class Negatives(eqx.Module):
    """What contrastive divergence carries along: the replay buffer, and what the guard may strengthen."""

    buffer: Float[Array, "size ..."] | None
    steps: Int[Array, ""]
    penalty: Float[Array, ""]


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
        values, _ = split_batch(data)
        size = self.chains or min(len(values), 10_000)
        buffer = None
        if self.start == "persistent":
            # Chains begin at rows of the data, spread over it, and forget them.
            spaced = np.arange(size) * len(values) // size
            buffer = jnp.asarray(values[spaced % len(values)])
        return Negatives(buffer, jnp.int32(self.steps), jnp.float32(self.penalty))

    def __call__(self, energy, batch, memory, *, key):
        blur_key, fill_key, start_key, walk_key = jax.random.split(key, 4)
        values, observed = split_batch(batch)
        fixed = energy if self.through else _constant(energy)
        if observed is not None:
            values = self._filled(fixed, values, observed, memory, fill_key)
        if self.jitter:
            blur = self.jitter * jax.random.normal(blur_key, values.shape)
            values = energy.space.project(values + blur) if _all_real(energy) else values
        places, begin = self._begin(energy, values, memory, start_key)
        target = Target(fixed, folded=self.folded)
        ends = walk(
            target, self.kernel, begin, memory.steps if not self.through else self.steps, key=walk_key
        )
        negatives = ends.points if self.through else jax.lax.stop_gradient(ends.points)
        low, high = jax.vmap(energy)(values), jax.vmap(energy)(negatives)
        loss = jnp.mean(low) - jnp.mean(high)
        strain = (jnp.mean(low**2) + jnp.mean(high**2)) / 2
        metrics = {
            "gap": -loss,
            "data_energy": jnp.mean(low),
            "spread": jnp.std(low) + jnp.std(high),
            "acceptance": ends.acceptance,
            "flown": ends.divergent,
            "moved": jnp.mean(jnp.any(_flat(negatives != begin), axis=1).astype(jnp.float32)),
        }
        buffer = memory.buffer
        if buffer is not None:
            buffer = buffer.at[places].set(jax.lax.stop_gradient(negatives))
        memory = eqx.tree_at(lambda m: m.buffer, memory, buffer, is_leaf=lambda leaf: leaf is None)
        return loss + memory.penalty * strain, (memory, jax.lax.stop_gradient(metrics))

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
        size = len(memory.buffer)
        places = jnp.arange(size, dtype=jnp.int32)
        if size > n:
            places = jax.random.choice(pick_key, size, (n,), replace=False).astype(jnp.int32)
        old = memory.buffer[places]
        if not self.refresh:
            return places, old
        renewed = jax.random.bernoulli(renew_key, self.refresh, (len(places),))
        fresh = fresh[: len(places)] if len(places) <= n else jnp.resize(fresh, old.shape)
        return places, jnp.where(renewed.reshape(-1, *[1] * (old.ndim - 1)), fresh, old)

    def _filled(
        self, energy: AbstractEnergy, values: Array, observed: Array, memory: Negatives, key: PRNGKeyArray
    ) -> Array:
        """The rows with their missing cells drawn given the others."""
        start_key, walk_key = jax.random.split(key)
        fresh = jax.vmap(lambda k: energy.space.draw(key=k))(jax.random.split(start_key, len(values)))
        begin = jnp.where(observed, values, fresh)
        target = Target(energy, held=begin, observed=observed, folded=self.folded)
        ends = walk(target, self.kernel, begin, memory.steps, key=walk_key)
        return jax.lax.stop_gradient(jnp.where(observed, values, ends.points))

    def remedied(self, memory: Negatives, cause: str) -> tuple[Negatives, str]:
        """Twice the steps of the chain and a stronger penalty."""
        more = eqx.tree_at(
            lambda m: (m.steps, m.penalty),
            memory,
            (jnp.minimum(2 * memory.steps, 1000), jnp.maximum(3 * memory.penalty, 1e-3)),
        )
        return (
            more,
            f"{int(more.steps)} steps of the chain and a penalty of {float(more.penalty):.2g} on the energies",
        )


def _constant(energy: AbstractEnergy) -> AbstractEnergy:
    """The energy with arrays that no gradient reaches."""
    arrays, rest = eqx.partition(energy, eqx.is_array)
    return eqx.combine(jax.lax.stop_gradient(arrays), rest)


def _all_real(energy: AbstractEnergy) -> bool:
    return all(level is None for level in energy.space.levels())


def _flat(array: Array) -> Array:
    return jnp.reshape(array, (len(array), -1))


def persistent(kernel: AbstractKernel, steps: int = 1, **settings: Any) -> ContrastiveDivergence:
    """Persistent contrastive divergence: chains that go on where they ended."""
    return ContrastiveDivergence(kernel, steps, "persistent", **settings)
