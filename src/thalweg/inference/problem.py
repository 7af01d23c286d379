"""What a solver is given: an energy, a start, and which coordinates may move."""

import equinox as eqx
import jax
import jax.numpy as jnp
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
        return self.free & self.energy.space.real

    def project(self, y: Float[Array, "..."]) -> Float[Array, "..."]:
        """The nearest admissible point: `y` in the space where it may move, `start` elsewhere."""
        return jnp.where(self.movable, self.energy.space.project(y), self.start)

    def reduced(self, y: Float[Array, "..."], gradient: Float[Array, "..."]) -> Float[Array, "..."]:
        """The gradient without the components of held coordinates: zero at a constrained minimum."""
        return jnp.where(self.held(y, gradient), 0, gradient)

    def held(self, y: Float[Array, "..."], gradient: Float[Array, "..."]) -> Bool[Array, "..."]:
        """The coordinates that may not move, and those that the gradient pushes against a bound."""
        lower, upper = self.energy.space.bounds()
        pressed = ((y <= lower) & (gradient > 0)) | ((y >= upper) & (gradient < 0))
        return ~self.movable | pressed


def without_gradient(tree: PyTree) -> PyTree:
    """The same pytree with its arrays cut off from differentiation."""
    return jax.tree.map(lambda leaf: jax.lax.stop_gradient(leaf) if eqx.is_array(leaf) else leaf, tree)
