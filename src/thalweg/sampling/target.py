r"""What a kernel samples: the density \(e^{-\beta F(y, x)}\), in coordinates in which nothing is bounded."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from thalweg.energy.base import AbstractEnergy, Scalar
from thalweg.energy.spaces import AbstractSpace, Simplex
from thalweg.sampling import charts
from thalweg.sampling.draws import normals_and_uniforms


class Target(eqx.Module):
    r"""\(p(y) \propto e^{-\beta F(y, x)}\), with the coordinates of `held` where `observed`.

    A kernel sees the flat vector \(u\) (d,), of which `point` makes \(y\): real coordinates of a bounded space are
    transformed, or `folded` (`thalweg.sampling.charts`); finite ones are their codes. The `potential` is
    \(U(u) = \beta F(y(u)) - \log |dy/du|\).
    """

    energy: AbstractEnergy
    x: PyTree = None
    beta: float | Float[Array, ""] = 1.0
    held: Float[Array, "..."] | None = None
    observed: Bool[Array, "..."] | None = None
    folded: bool = eqx.field(static=True, default=False)

    @property
    def space(self) -> AbstractSpace:
        return self.energy.space

    @property
    def free(self) -> Bool[Array, "d"]:
        """The coordinates that are not held."""
        size = len(self.space.levels())
        return jnp.ones(size, bool) if self.observed is None else ~jnp.ravel(self.observed)

    @property
    def moves(self) -> Float[Array, "d"]:
        """1 for the real coordinates that are free, 0 elsewhere: those that a gradient moves."""
        if self._all_move:
            return jnp.ones(len(self.space.levels()))
        real = self.space.real.reshape(-1)
        if isinstance(self.space, Simplex):
            real[-1] = False
        return jnp.asarray(self.free & real, jnp.float32)

    def point(self, u: Float[Array, "d"]) -> Float[Array, "..."]:
        """The point of the space at these coordinates."""
        return self._shaped(charts.point(self.space, u, folded=self.folded)[0])

    def coordinates(self, y: Float[Array, "..."]) -> Float[Array, "d"]:
        """The coordinates of a point."""
        return charts.coordinates(self.space, jnp.ravel(y), folded=self.folded)

    def potential(self, u: Float[Array, "d"]) -> tuple[Scalar, Scalar]:
        r"""\(U(u)\) and \(F(y(u), x)\)."""
        y, log_volume = charts.point(self.space, u, folded=self.folded)
        energy = self.energy(self._shaped(y), self.x)
        return self.beta * energy - log_volume, energy

    def with_gradient(self, u: Float[Array, "d"]) -> tuple[Scalar, Scalar, Float[Array, "d"]]:
        r"""\(U\), \(F\) and \(dU/du\), 0 where a gradient moves nothing."""
        (potential, energy), gradient = jax.value_and_grad(self.potential, has_aux=True)(u)
        return potential, energy, gradient if self._all_move else gradient * self.moves

    def noise(self, key: PRNGKeyArray, uniforms: int = 0) -> tuple[Float[Array, "d"], Float[Array, "u"]]:
        """Standard normal where a gradient moves, 0 elsewhere; and so many numbers uniform in [0, 1)."""
        drawn, uniform = normals_and_uniforms(key, len(self.space.levels()), uniforms)
        return drawn if self._all_move else drawn * self.moves, uniform

    @property
    def _all_move(self) -> bool:
        """Whether there is nothing that a gradient does not move; known outside compiled code."""
        real = bool(self.space.real.all())
        return real and self.observed is None and not isinstance(self.space, Simplex)

    def _shaped(self, y: Float[Array, "d"]) -> Float[Array, "..."]:
        y = jnp.reshape(y, self.space.shape)
        if self.held is None or self.observed is None:
            return y
        return jnp.where(self.observed, self.held, y)
