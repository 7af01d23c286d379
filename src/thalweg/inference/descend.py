"""The elimination of a latent by any solver."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from thalweg.energy.latent import MinElimination
from thalweg.energy.spaces import AbstractSpace
from thalweg.errors import SettingsError
from thalweg.inference.adjoint import AbstractAdjoint, Implicit
from thalweg.inference.minimise import minimise
from thalweg.inference.solver import AbstractSolver


class Descend(MinElimination):
    r"""\(\hat z = \arg\min_z E(y, z, x)\) by `minimise`, from `start` (the point of the latent's space
    nearest to 0).

    The first derivative of `Minimised` needs only \(\hat z\); higher ones go through the `adjoint`. Where
    `throw` is False, a search that ends early gives an upper bound of the minimum, silently.
    """

    solver: AbstractSolver
    start: Float[Array, "..."] | None = None
    adjoint: AbstractAdjoint = Implicit()
    throw: bool = True

    def check(self, latent):
        if self.start is not None and jnp.shape(self.start) != latent.shape:
            raise SettingsError(
                f"the start has shape {jnp.shape(self.start)}; the latent needs {latent.shape}"
            )

    def minimum(self, energy, x=None):
        start = self._origin(energy.space) if self.start is None else self.start
        found = minimise(energy, start, x, solver=self.solver, adjoint=self.adjoint, throw=self.throw)
        return found.value

    def _origin(self, space: AbstractSpace) -> Float[Array, "..."]:
        return space.project(jnp.zeros(space.shape))
