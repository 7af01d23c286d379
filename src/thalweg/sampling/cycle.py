"""Several kernels in turn: how a row with categories and numbers is sampled."""

import jax
import jax.numpy as jnp

from thalweg.errors import SettingsError
from thalweg.sampling.kernel import AbstractKernel, Info, State, at


class Cycle(AbstractKernel):
    """One step of each kernel after the other; each leaves the density as it is, and so do all of them.

    `Cycle((NUTS(), Gibbs()))` moves the numbers of a row by their gradient and its categories by Gibbs moves.
    """

    kernels: tuple[AbstractKernel, ...]

    def __init__(self, kernels: tuple[AbstractKernel, ...]):
        if not kernels:
            raise SettingsError("a cycle needs at least one kernel")
        self.kernels = tuple(kernels)

    @property
    def exact(self):
        return all(kernel.exact for kernel in self.kernels)

    def check(self, target):
        for kernel in self.kernels:
            kernel.check(target)

    def init(self, target, position):
        return at(target, position)

    def step(self, target, state, *, key):
        infos = []
        for i, kernel in enumerate(self.kernels):
            begin = kernel.init(target, state.position)
            state, info = kernel.step(target, begin, key=jax.random.fold_in(key, i))
            infos.append(info)
        acceptance = jnp.mean(jnp.stack([jnp.mean(info.acceptance) for info in infos]))
        divergent = jnp.any(jnp.stack([jnp.any(info.divergent) for info in infos]))
        work = jnp.sum(jnp.stack([jnp.sum(info.work) for info in infos]))
        return State(state.position, state.potential, state.energy), Info(
            acceptance, divergent, work, tuple(infos)
        )

    def reversed(self):
        return Cycle(tuple(kernel.reversed() for kernel in reversed(self.kernels)))

    def tunable(self):
        return tuple(part for kernel in self.kernels for part in kernel.tunable())

    def tuned(self, parts):
        kernels, rest = [], list(parts)
        for kernel in self.kernels:
            own, rest = rest[: len(kernel.tunable())], rest[len(kernel.tunable()) :]
            kernels.append(kernel.tuned(tuple(own)))
        return Cycle(tuple(kernels))

    def watched(self, state, info):
        pairs = zip(self.kernels, info.parts, strict=True)
        return tuple(seen for kernel, part in pairs for seen in kernel.watched(state, part))
