r"""The answers to one input that a loss has to know: the most offending incorrect one, the lowest, and their sum.

An answer that was found is a constant to the derivative; the energy at it is not (Danskin 1967, *The theory of
max-min*). Here those of finite coordinates: listed, or searched by an energy that knows how.
"""

import math
from abc import abstractmethod

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from thalweg.energy.base import AbstractEnergy, Scalar
from thalweg.energy.capabilities import AbstractStructured
from thalweg.energy.finite import Lattice, energies, lattice
from thalweg.energy.spaces import AbstractSpace
from thalweg.inference.problem import without_gradient


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

    def free_energy_of_right_and_wrong(self, beta: float) -> Scalar:
        r"""\(-\frac1\beta \log (e^{-\beta E_C} + \sum_{wrong} e^{-\beta E(y', x)})\), at most \(E_C\); of finite
        answers that of all."""
        return self.free_energy(beta)

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
    x: PyTree
    y: Float[Array, "..."]

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
