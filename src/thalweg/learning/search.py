"""How the answers of an energy are searched: by its own inference, which is chosen here and nowhere else."""

import equinox as eqx
import jax
import optax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from thalweg.energy.base import AbstractEnergy
from thalweg.energy.capabilities import AbstractFewAnswers, AbstractStructured
from thalweg.energy.finite import Lattice, lattice
from thalweg.energy.spaces import AbstractSpace, Simplex
from thalweg.errors import SettingsError
from thalweg.inference.gradient import Gradient
from thalweg.inference.solver import AbstractSolver
from thalweg.learning.answer_descent import Descended, bounded, grid
from thalweg.learning.answer_sets import AbstractAnswers, Enumerated, Few, Structured

_DESCENT = Gradient(optax.adam(0.05), steps=50)


class AnswerSearch(eqx.Module):
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
            return Structured(*energy.of_input(x), y)
        space = energy.space
        if space.cardinality is not None:
            return Enumerated(energy, y, x, self._listed(space))
        if isinstance(space, Simplex):
            raise SettingsError(
                "answers on a simplex are not searched: answer by unbounded scores, and their softmax"
            )
        if not space.real.all():
            raise SettingsError(
                f"answers that are finite in part and real in part are not searched: {space}; give the energy of "
                "the finite part alone, with the rest eliminated (Minimised, FreeEnergy)"
            )
        starts_key, shift_key = jax.random.split(key)
        starts = self._starts(space, others, starts_key)
        nodes = grid(space, self.nodes, key=shift_key if self.shifted else None)
        return Descended(energy, y, x, starts, nodes, self.radius, self.solver)

    def _listed(self, space: AbstractSpace) -> Lattice:
        count = space.cardinality
        if count is not None and count > self.largest:
            raise SettingsError(
                f"{count:,} answers to an input are more than the {self.largest:,} that are enumerated: give the "
                "energy an inference of its own (AbstractStructured: a chain, a tree, a lattice), or let more be "
                "enumerated (AnswerSearch(largest=…))"
            )
        return lattice(space)

    def _starts(self, space: AbstractSpace, others: Array, key: PRNGKeyArray) -> Float[Array, "s ..."]:
        if bounded(space):
            return jax.vmap(lambda k: space.draw(key=k))(jax.random.split(key, self.starts))
        return others[jax.random.randint(key, (self.starts,), 0, len(others))]
