"""What a solver is given: an energy, a start, and which coordinates may move."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from thalweg.energy.base import AbstractEnergy, Scalar


class Problem(eqx.Module):
    r"""\(\min_y F(y, x)\) over the `free` coordinates of `start`; the others stay as they are.

    A space is taken to be a product of intervals and of lattices, one a coordinate, as all of Thalweg's are.
    """

    energy: AbstractEnergy
    start: Float[Array, "..."]
    free: Bool[Array, "..."]
    x: PyTree

    def __call__(self, y: Float[Array, "..."]) -> Scalar:
        r"""\(F\) at `y` with the fixed coordinates of `start`."""
        return self.energy(jnp.where(self.free, y, self.start), self.x)

    @property
    def movable(self) -> Bool[Array, "..."]:
        """The free coordinates that are real: those that a gradient may move."""
        return self.free & real_coordinates(self.energy)

    def project(self, y: Float[Array, "..."]) -> Float[Array, "..."]:
        """The nearest admissible point: `y` in the space where it may move, `start` elsewhere."""
        return jnp.where(self.movable, self.energy.space.project(y), self.start)

    def reduced(self, y: Float[Array, "..."], gradient: Float[Array, "..."]) -> Float[Array, "..."]:
        """The gradient without the components of held coordinates: zero at a constrained minimum."""
        return jnp.where(self.held(y, gradient), 0, gradient)

    def held(self, y: Float[Array, "..."], gradient: Float[Array, "..."]) -> Bool[Array, "..."]:
        """The coordinates that may not move, and those that the gradient pushes against a bound."""
        lower, upper = bounds(self.energy)
        pressed = ((y <= lower) & (gradient > 0)) | ((y >= upper) & (gradient < 0))
        return ~self.movable | pressed


def real_coordinates(energy: AbstractEnergy) -> np.ndarray:
    """Which coordinates of the energy's space are real; known outside compiled code."""
    space = energy.space
    return np.array([level is None for level in space.levels()], bool).reshape(space.shape)


def bounds(energy: AbstractEnergy) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """The least and the greatest value of each coordinate, infinite where there is none."""
    infinite = jnp.full(energy.space.shape, jnp.inf)
    return energy.space.project(-infinite), energy.space.project(infinite)


def without_gradient(tree: PyTree) -> PyTree:
    """The same pytree with its arrays cut off from differentiation."""
    return jax.tree.map(lambda leaf: jax.lax.stop_gradient(leaf) if eqx.is_array(leaf) else leaf, tree)
