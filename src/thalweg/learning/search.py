r"""The answers of an energy that a loss has to know: the most offending incorrect one, the lowest, and their sum.

By the energy's own inference, chosen in one place, `Search.answers`. An answer that was found is a constant to the
derivative; the energy at it is not (Danskin 1967, *The theory of max-min*).
"""

import math
from abc import abstractmethod
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from thalweg.energy.base import AbstractDensity, AbstractEnergy, Scalar
from thalweg.energy.capabilities import AbstractFewAnswers, AbstractStructured
from thalweg.energy.finite import Lattice, energies, lattice
from thalweg.energy.spaces import AbstractSpace
from thalweg.errors import SettingsError
from thalweg.inference.gradient import Gradient
from thalweg.inference.minimise import minimise
from thalweg.inference.problem import without_gradient
from thalweg.inference.solver import AbstractSolver

_DESCENT = Gradient(optax.adam(0.05), steps=50)


class AbstractAnswers(eqx.Module):
    """The answers to one input `x`, of which `y` is the right one."""

    energy: eqx.AbstractVar[AbstractEnergy]
    y: eqx.AbstractVar[Array]
    x: eqx.AbstractVar[PyTree]

    @abstractmethod
    def offending(self, cost: float) -> tuple[Float[Array, "..."], Bool[Array, ""]]:
        r"""\(\arg\min_{y' \ne y} E(y', x) - c\,\#\{i: y'_i \ne y_i\}\), and whether there is one (else `y`); with a
        cost there need be none where all others lie higher than `y`."""

    @abstractmethod
    def lowest(self) -> Float[Array, "..."]:
        r"""\(\arg\min_{y'} E(y', x)\), the right answer included."""

    @abstractmethod
    def free_energy(self, beta: float) -> Scalar:
        r"""\(-\frac1\beta \log \sum_{y'} e^{-\beta E(y', x)}\); an integral for real answers."""

    def at(self, y: Float[Array, "..."]) -> Scalar:
        """The energy of an answer."""
        return self.energy(y, self.x)

    def wrong(self, cost: float = 0.0) -> tuple[Scalar, Scalar]:
        """The energy of the most offending incorrect answer, and what it costs to give it; infinite where there is
        none."""
        found, some = self.offending(cost)
        found = jax.lax.stop_gradient(found)
        price = cost * jnp.sum(found != self.y, dtype=jnp.float32)
        return jnp.where(some, self.at(found), jnp.inf), price

    def least(self) -> Scalar:
        """The energy of the lowest answer."""
        return self.at(jax.lax.stop_gradient(self.lowest()))


class Few(AbstractAnswers):
    """All answers, whose energies come out of one pass."""

    energy: AbstractEnergy
    y: Float[Array, "..."]
    x: PyTree
    energies: Float[Array, "n"]

    def at(self, y):
        return self.energies[rank(self.energy.space, y)]

    def offending(self, cost):
        return _offending(lattice(self.energy.space), self.energies, self.y, cost)

    def lowest(self):
        return lattice(self.energy.space).at(jnp.argmin(self.energies))

    def free_energy(self, beta):
        return -jax.nn.logsumexp(-beta * self.energies) / beta


class Enumerated(AbstractAnswers):
    """All answers, one energy for each."""

    energy: AbstractEnergy
    y: Float[Array, "..."]
    x: PyTree
    points: Lattice

    def offending(self, cost):
        return _offending(self.points, self._constants(), self.y, cost)

    def lowest(self):
        return self.points.at(jnp.argmin(self._constants()))

    def free_energy(self, beta):
        return -jax.nn.logsumexp(-beta * energies(self.energy, self.points, self.x)) / beta

    def _constants(self) -> Float[Array, "n"]:
        return energies(without_gradient(self.energy), self.points, without_gradient(self.x))


class Structured(AbstractAnswers):
    """More answers than can be listed, searched exactly by the energy itself."""

    energy: AbstractStructured
    y: Float[Array, "..."]
    x: PyTree

    def offending(self, cost):
        energy = without_gradient(self.energy)
        if cost:
            size = max(level or 1 for level in energy.space.levels())
            values = jnp.arange(size, dtype=self.y.dtype).reshape((1,) * self.y.ndim + (size,))
            energy = energy.with_costs(jnp.where(values == self.y[..., None], 0.0, -cost))
        # With a cost the right answer is searched too: where it is the best even so, all others keep their margin.
        found, heights = energy.best(without_gradient(self.x), k=1 if cost else 2)
        first_right = jnp.all(found[0] == self.y)
        best, height = found[0], heights[0]
        if not cost:
            best, height = (jnp.where(first_right, a[1], a[0]) for a in (found, heights))
        some = jnp.isfinite(height) & ~jnp.all(best == self.y)
        return jnp.where(some, best, self.y), some

    def lowest(self):
        return without_gradient(self.energy).best(without_gradient(self.x))[0][0]

    def free_energy(self, beta):
        return self.energy.free_energy(self.x, beta)


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
        nodes = _require_nodes(self.energy.space, self.nodes)
        values = jax.vmap(self.at)(nodes)
        volume = math.prod((high - low).item() for low, high in _sides(self.energy.space))
        return -(jax.nn.logsumexp(-beta * values) + math.log(volume / len(nodes))) / beta

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


class Search(eqx.Module):
    """How the answers of an energy are searched, where it cannot search them itself.

    Finite answers are enumerated up to `largest`. Real ones are sought by descent with `solver` from `starts` points:
    uniform in a bounded box, else the answers of other rows; what lies within `radius` of the right answer is not
    incorrect. Integrals over a bounded box of up to three dimensions are sums over `nodes` equispaced values a
    dimension, all shifted by one draw a row where `shifted`, so that no valley can hide between them.
    """

    largest: int = eqx.field(static=True, default=4096)
    starts: int = eqx.field(static=True, default=8)
    radius: float = 0.1
    nodes: int = eqx.field(static=True, default=20)
    shifted: bool = eqx.field(static=True, default=True)
    solver: AbstractSolver = _DESCENT

    def __check_init__(self):
        if min(self.largest, self.starts, self.nodes) < 1 or not self.radius > 0:
            raise SettingsError(
                "a search has at least one answer, one start and one node, and a radius above 0"
            )

    def answers(
        self,
        energy: AbstractEnergy,
        y: Float[Array, "..."],
        x: PyTree,
        others: Float[Array, "m ..."],
        *,
        key: PRNGKeyArray,
    ) -> AbstractAnswers:
        """The answers to one input; `others` are answers of other rows. Raises `SettingsError` where they are too many
        to list, or finite in part."""
        if isinstance(energy, AbstractFewAnswers):
            return Few(energy, y, x, energy.answer_energies(x))
        if isinstance(energy, AbstractStructured):
            return Structured(energy, y, x)
        space = energy.space
        if space.cardinality is not None:
            return Enumerated(energy, y, x, self._listed(space))
        if not space.real.all():
            raise SettingsError(
                f"answers that are finite in part and real in part are not searched: {space}; give the energy of "
                "the finite part alone, with the rest eliminated (Minimised, FreeEnergy)"
            )
        starts_key, shift_key = jax.random.split(key)
        starts, nodes = self._starts(space, others, starts_key), self._nodes(space, shift_key)
        return Descended(energy, y, x, starts, nodes, self.radius, self.solver)

    def _listed(self, space: AbstractSpace) -> Lattice:
        count = space.cardinality
        if count is not None and count > self.largest:
            raise SettingsError(
                f"{count:,} answers to an input are more than the {self.largest:,} that are enumerated: give the "
                "energy an inference of its own (AbstractStructured, such as a chain, a tree or a lattice), or learn "
                "by PseudoLikelihood, whose negatives are neighbours"
            )
        return lattice(space)

    def _starts(self, space: AbstractSpace, others: Array, key: PRNGKeyArray) -> Float[Array, "s ..."]:
        if _bounded(space):
            return jax.vmap(lambda k: space.draw(key=k))(jax.random.split(key, self.starts))
        return others[jax.random.randint(key, (self.starts,), 0, len(others))]

    def _nodes(self, space: AbstractSpace, key: PRNGKeyArray) -> Float[Array, "n ..."] | None:
        sides = _sides(space)
        if not _bounded(space) or not 1 <= len(sides) <= 3:
            return None
        cells = np.stack(np.meshgrid(*[np.arange(self.nodes)] * len(sides), indexing="ij"), -1)
        shift = jax.random.uniform(key, (1, len(sides))) if self.shifted else jnp.full((1, len(sides)), 0.5)
        share = (jnp.asarray(cells.reshape(-1, len(sides)), jnp.float32) + shift) / self.nodes
        lower, upper = (jnp.asarray(side, jnp.float32)[None] for side in zip(*sides, strict=True))
        return (lower + (upper - lower) * share).reshape(-1, *space.shape)


def with_largest(search: Search, largest: int) -> Search:
    """The same search with another limit of enumeration."""
    return replace(search, largest=largest)


def rank(space: AbstractSpace, y: Float[Array, "..."]) -> Int[Array, ""]:
    """The place of a point of a finite space in lexicographic order."""
    sizes = [level or 1 for level in space.levels()]
    strides = [math.prod(sizes[i + 1 :]) for i in range(len(sizes))]
    return jnp.sum(jnp.ravel(y).astype(jnp.int32) * jnp.array(strides, jnp.int32))


def _offending(
    points: Lattice, heights: Float[Array, "n"], y: Float[Array, "..."], cost: float
) -> tuple[Float[Array, "..."], Bool[Array, ""]]:
    def wrong(index: Int[Array, ""]) -> Scalar:
        return jnp.sum(points.at(index) != y, dtype=jnp.float32)

    count = jax.vmap(wrong)(jnp.arange(points.count))
    best = jnp.argmin(jnp.where(count > 0, heights - cost * count, jnp.inf))
    some = (count[best] > 0) & jnp.isfinite(heights[best])
    return jnp.where(some, points.at(best), y), some


def _sides(space: AbstractSpace) -> list[tuple[np.ndarray, np.ndarray]]:
    lower, upper = space.bounds()
    return list(zip(lower.reshape(-1), upper.reshape(-1), strict=True))


def _bounded(space: AbstractSpace) -> bool:
    return all(bool(np.isfinite(bound).all()) for bound in space.bounds())


def _require_nodes(space: AbstractSpace, nodes: Array | None) -> Array:
    if nodes is None:
        raise SettingsError(
            f"the sum over all answers is an integral over one to three dimensions of a bounded box, not over {space}: "
            "bound the space (Real(shape, lower, upper)), or take a loss without it: hinge, log, square-square"
        )
    return nodes
