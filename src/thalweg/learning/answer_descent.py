r"""Real answers to one input: sought by descent from several starts, summed on a grid."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from thalweg.energy.base import AbstractDensity, AbstractEnergy, Scalar
from thalweg.energy.spaces import AbstractSpace
from thalweg.errors import SettingsError
from thalweg.inference.minimise import minimise
from thalweg.inference.problem import without_gradient
from thalweg.inference.solver import AbstractSolver
from thalweg.learning.answer_sets import AbstractAnswers


class Descended(AbstractAnswers):
    """Real answers, by descent from several starts; an answer within `radius` of the right one is right."""

    energy: AbstractEnergy
    y: Float[Array, "..."]
    x: PyTree
    starts: Float[Array, "s ..."]
    nodes: Float[Array, "n ..."] | None
    radius: float
    solver: AbstractSolver

    def offending(self, cost):
        if cost:
            raise SettingsError("only finite coordinates can be counted as wrong: use a margin without costs")
        away = Outside(self.energy, self.y, self.radius)
        found = jax.vmap(lambda y: self.energy.space.project(away.outside(y)))(
            self._descend(away, self.starts)
        )
        far = jax.vmap(away.distance)(found) >= 0.99 * self.radius
        heights = jnp.where(far, self._heights(found), jnp.inf)
        best = jnp.argmin(heights)
        some = jnp.isfinite(heights[best])
        return jnp.where(some, found[best], self.y), some

    def lowest(self):
        starts = jnp.concatenate([self.y[None], self.starts])
        found = jnp.concatenate([self.y[None], self._descend(self.energy, starts)])
        return found[jnp.argmin(self._heights(found))]

    def free_energy(self, beta):
        if isinstance(self.energy, AbstractDensity) and beta == 1:
            return jnp.zeros(())
        nodes = require_nodes(self.energy.space, self.nodes)
        values = jax.vmap(self.at)(nodes)
        volume = math.prod((high - low).item() for low, high in sides(self.energy.space))
        return -(jax.nn.logsumexp(-beta * values) + math.log(volume / len(nodes))) / beta

    def free_energy_of_right_and_wrong(self, beta):
        nodes = require_nodes(self.energy.space, self.nodes)
        away = jax.vmap(Outside(self.energy, self.y, self.radius).distance)(nodes) >= self.radius
        values = jnp.where(away, jax.vmap(self.at)(nodes), jnp.inf)
        return -jax.nn.logsumexp(jnp.append(-beta * values, -beta * self.at(self.y))) / beta

    def _descend(self, energy: AbstractEnergy, starts: Float[Array, "s ..."]) -> Float[Array, "s ..."]:
        energy, x = without_gradient((energy, self.x))
        found = jax.vmap(lambda y: minimise(energy, y, x, solver=self.solver, throw=False).value)(starts)
        return jax.lax.stop_gradient(found)

    def _heights(self, points: Float[Array, "s ..."]) -> Float[Array, "s"]:
        heights = jax.vmap(lambda y: without_gradient(self.energy)(y, without_gradient(self.x)))(points)
        return jnp.where(jnp.isfinite(heights), heights, jnp.inf)


class Outside(AbstractEnergy):
    r"""\(E(P(y), x)\), where \(P\) pushes what lies within `radius` of `center` out to that distance."""

    energy: AbstractEnergy
    center: Float[Array, "..."]
    radius: float

    @property
    def space(self) -> AbstractSpace:
        return self.energy.space

    def __call__(self, y, x=None):
        return self.energy(self.outside(y), x)

    def distance(self, y: Float[Array, "..."]) -> Scalar:
        return jnp.sqrt(jnp.sum((y - self.center) ** 2))

    def outside(self, y: Float[Array, "..."]) -> Float[Array, "..."]:
        square = jnp.sum((y - self.center) ** 2)
        inside = square < self.radius**2
        # The centre itself has no direction to leave in, and a root no derivative at 0.
        distance = jnp.sqrt(jnp.where(inside, jnp.maximum(square, 1e-12), 1.0))
        return jnp.where(inside, self.center + (y - self.center) * self.radius / distance, y)


def grid(
    space: AbstractSpace, count: int, *, key: PRNGKeyArray | None = None
) -> Float[Array, "n ..."] | None:
    """`count` equispaced values along each dimension of a bounded box, the middles of its cells or, with a key, all of
    them shifted within their cells by one draw; None where there is no such box of one to three dimensions.

    Cranley & Patterson (1976), *Randomization of number theoretic methods for multiple integration*.
    """
    ends = sides(space)
    if not bounded(space) or not 1 <= len(ends) <= 3:
        return None
    cells = np.stack(np.meshgrid(*[np.arange(count)] * len(ends), indexing="ij"), -1).reshape(-1, len(ends))
    shift = jnp.full((1, len(ends)), 0.5) if key is None else jax.random.uniform(key, (1, len(ends)))
    share = (jnp.asarray(cells, jnp.float32) + shift) / count
    lower, upper = (jnp.asarray(end, jnp.float32)[None] for end in zip(*ends, strict=True))
    return (lower + (upper - lower) * share).reshape(-1, *space.shape)


def sides(space: AbstractSpace) -> list[tuple[np.ndarray, np.ndarray]]:
    lower, upper = space.bounds()
    return list(zip(lower.reshape(-1), upper.reshape(-1), strict=True))


def bounded(space: AbstractSpace) -> bool:
    return all(bool(np.isfinite(bound).all()) for bound in space.bounds())


def require_nodes(space: AbstractSpace, nodes: Array | None) -> Array:
    if nodes is None:
        raise SettingsError(
            f"the sum over all answers is an integral over one to three dimensions of a bounded box, not over {space}: "
            "bound the space (Real(shape, lower, upper)), or take a loss without it: hinge, log, square-square"
        )
    return nodes
