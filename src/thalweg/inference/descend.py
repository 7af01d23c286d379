"""The elimination of a latent by any solver."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from thalweg.energy.base import AbstractEnergy
from thalweg.energy.latent import MinElimination
from thalweg.energy.spaces import AbstractSpace
from thalweg.errors import SettingsError
from thalweg.inference.adjoint import AbstractAdjoint, Implicit
from thalweg.inference.minimise import minimise
from thalweg.inference.solver import AbstractSolver


class Descend(MinElimination):
    r"""\(\hat z = \arg\min_z E(y, z, x)\) by `minimise`, from `start` (the point of the latent's space
    nearest to 0), or from the lowest of it and of `screened` draws of the latent's space, the same at each call.

    The first derivative of `Minimised` needs only \(\hat z\); higher ones go through the `adjoint`. Where
    `throw` is False, a search that ends early gives an upper bound of the minimum, silently.
    """

    solver: AbstractSolver
    start: Float[Array, "..."] | None = None
    adjoint: AbstractAdjoint = Implicit()
    throw: bool = True
    screened: int = eqx.field(static=True, default=0)

    def check(self, latent):
        if self.start is not None and jnp.shape(self.start) != latent.shape:
            raise SettingsError(
                f"the start has shape {jnp.shape(self.start)}; the latent needs {latent.shape}"
            )

    def minimum(self, energy, x=None):
        start = self._origin(energy.space) if self.start is None else self.start
        if self.screened:
            start = self._lowest(energy, start, x)
        found = minimise(energy, start, x, solver=self.solver, adjoint=self.adjoint, throw=self.throw)
        return found.value

    def _lowest(self, energy: AbstractEnergy, start: Array, x: PyTree) -> Float[Array, "..."]:
        keys = jax.random.split(jax.random.key(0), self.screened)
        drawn = jax.vmap(lambda key: energy.space.draw(key=key))(keys)
        tried = jnp.concatenate([start[None], drawn])
        lowest = jnp.argmin(jax.vmap(lambda z: energy(z, x))(tried))
        return jax.lax.stop_gradient(tried[lowest])

    def _origin(self, space: AbstractSpace) -> Float[Array, "..."]:
        return space.project(jnp.zeros(space.shape))
