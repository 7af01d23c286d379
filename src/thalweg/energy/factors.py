r"""Factor graphs: energies of many discrete variables that are sums of terms of few.

\[ F(y, x) = \sum_f E_f(y_f, x) \]

The lowest answers, the free energy and exact draws are one recursion (`elimination`) with another way to bring energies
together (`semirings`), exact on chains, trees and graphs of small loops.

Kschischang, Frey & Loeliger (2001), *Factor graphs and the sum-product algorithm*; LeCun, Chopra, Hadsell, Ranzato &
Huang (2006), *A tutorial on energy-based learning*, section 7.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from thalweg.energy.capabilities import (
    AbstractGibbs,
    AbstractNeighbours,
    AbstractPartition,
    AbstractStructured,
)
from thalweg.energy.conditionals import beside, changed, chosen, colours
from thalweg.energy.elimination import eliminate
from thalweg.energy.ordering import LARGEST, Order, order
from thalweg.energy.semirings import AbstractSemiring, Drawn, Lowest, Soft
from thalweg.energy.spaces import AbstractSpace, Categorical, Column, Record
from thalweg.energy.tables import Factor, Group, Scope
from thalweg.errors import SettingsError


class Cost(NamedTuple):
    """What an exact answer costs: `evaluations` of entries of factors, those that an enumeration of all answers would
    make, `by_enumeration`, and the `entries` of the tables that elimination makes."""

    evaluations: int
    by_enumeration: int
    entries: int


class FactorGraph(AbstractStructured, AbstractGibbs, AbstractNeighbours, AbstractPartition):
    r"""\(F(y, x) = \sum_f E_f(y_f, x)\) over a finite space, in nats, not normalised.

    Exact answers make tables of no more than `largest` entries together: where a graph needs more they raise
    `SettingsError`, and say what to use instead.
    """

    space: AbstractSpace = eqx.field(static=True)
    factors: tuple[Factor, ...]
    largest: int = eqx.field(static=True, default=LARGEST)

    def __check_init__(self):
        if any(level is None for level in self.space.levels()):
            raise SettingsError(f"a factor graph is over finite variables, and {self.space} has real ones")
        if not self.factors:
            raise SettingsError("a factor graph needs at least one factor")
        for factor in self.factors:
            beyond = [v for scope in factor.scopes for v in scope if not 0 <= v < len(self.sizes)]
            if beyond:
                raise SettingsError(
                    f"a factor is over variable {beyond[0]}, and there are {len(self.sizes)}, counted from 0"
                )
            if not callable(factor.table):
                factor.tables(None, self.sizes)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of values of each variable."""
        return tuple(level or 1 for level in self.space.levels())

    @property
    def scopes(self) -> tuple[Scope, ...]:
        return tuple(scope for factor in self.factors for scope in factor.scopes)

    def of_input(self, x):
        return self.tabulated(x), None

    def __call__(self, y, x=None):
        return chosen(self.groups(x), _codes(y))

    def groups(self, x: PyTree = None) -> list[Group]:
        """The tables of all factors at one input."""
        return [Group(factor.scopes, factor.tables(x, self.sizes)) for factor in self.factors]

    def tabulated(self, x: PyTree = None) -> "FactorGraph":
        """The graph of one input, each of its networks called once: tables alone."""
        tables = [factor.tables(x, self.sizes) for factor in self.factors]
        filled = tuple(
            eqx.tree_at(lambda f: f.table, factor, table)
            for factor, table in zip(self.factors, tables, strict=True)
        )
        return FactorGraph(self.space, filled, self.largest)

    def cost(self) -> Cost:
        """Of an exact answer. Raises `SettingsError` where it costs too much."""
        evaluations = sum(len(f.scopes) * math.prod(f.shape(self.sizes)) for f in self.factors)
        points = math.prod(self.sizes)
        return Cost(evaluations, points * len(self.scopes), sum(self._order().entries))

    def best(self, x=None, k=1):
        if k < 1:
            raise SettingsError(f"at least one answer is asked for, not {k}")
        graph = self.tabulated(x)
        still = jax.lax.stop_gradient(graph)
        lowest, pull = jax.vjp(lambda costs: still._eliminated(Lowest(k), costs), self._free_costs())
        answers = jax.vmap(lambda one: self._answer(pull(one)[0]))(jnp.eye(k))
        return answers, jnp.where(jnp.isfinite(lowest), jax.vmap(graph)(answers), jnp.inf)

    def free_energy(self, x=None, beta=1.0):
        return self.tabulated(x)._eliminated(Soft(beta))[0]

    def log_partition(self, x=None):
        return -self.free_energy(x)

    def draw(self, x=None, beta=1.0, *, key):
        graph = jax.lax.stop_gradient(self.tabulated(x))
        semiring = Drawn(beta, key)
        return self._answer(jax.grad(lambda costs: graph._eliminated(semiring, costs)[0])(self._free_costs()))

    def with_costs(self, costs):
        shape = (*self.space.shape, max(self.sizes))
        if jnp.shape(costs) != shape:
            raise SettingsError(f"costs have the shape {shape}, one for each value, not {jnp.shape(costs)}")
        flat = costs.reshape(len(self.sizes), -1)
        of = [
            Factor([(i,) for i in where], flat[np.array(where), :size])
            for size, where in _by_size(self.sizes)
        ]
        return FactorGraph(self.space, (*self.factors, *of), self.largest)

    def held(self, y: Float[Array, "..."], observed: Bool[Array, "..."]) -> "FactorGraph":
        """The graph whose observed variables keep their values in `y`: all others are forbidden."""
        values = jnp.arange(max(self.sizes), dtype=jnp.float32).reshape(*(1 for _ in self.space.shape), -1)
        return self.with_costs(jnp.where(observed[..., None] & (values != y[..., None]), jnp.inf, 0.0))

    def local_energies(self, y: Float[Array, "..."], x: PyTree = None) -> Float[Array, "n v"]:
        r"""\(\sum_{f \ni i} E_f\) for each value of each variable, the others as in `y`; infinite beyond its values."""
        return beside(self.groups(x), _codes(y), self.sizes)

    def neighbour_energies(self, y, x=None):
        return changed(self.groups(x), _codes(y), self.sizes)

    def gibbs(self, y, observed, x=None, *, beta, key, backwards=False):
        groups, colour = self.groups(x), colours(self.scopes, len(self.sizes))
        count, held = int(colour.max()) + 1, jnp.ravel(observed)

        def redraw(turn, codes):
            now = count - 1 - turn if backwards else turn
            energies = beside(groups, codes, self.sizes)
            logits = jnp.where(jnp.isinf(energies), -jnp.inf, -beta * energies)
            drawn = jax.random.categorical(jax.random.fold_in(key, now), logits).astype(codes.dtype)
            moves = (jnp.asarray(colour) == now) & ~held & jnp.any(jnp.isfinite(energies), axis=-1)
            return jnp.where(moves, drawn, codes)

        return _point(jax.lax.fori_loop(0, count, redraw, _codes(y)), self.space)

    def _order(self) -> Order:
        return order(self.scopes, self.sizes, self.largest)

    def _eliminated(self, semiring: AbstractSemiring, costs: list[Array] | None = None) -> Float[Array, "k"]:
        groups = self.groups(None)
        if costs is not None:
            scopes = [tuple((i,) for i in where) for _, where in _by_size(self.sizes)]
            groups += [Group(scope, cost) for scope, cost in zip(scopes, costs, strict=True)]
        found = order(tuple(scope for group in groups for scope in group.scopes), self.sizes, self.largest)
        return eliminate(groups, found, semiring)

    def _free_costs(self) -> list[Array]:
        return [jnp.zeros((len(where), size)) for size, where in _by_size(self.sizes)]

    def _answer(self, derivatives: list[Array]) -> Float[Array, "..."]:
        """The point whose values have the derivative 1."""
        codes = jnp.zeros(len(self.sizes), jnp.int32)
        for (_, where), of in zip(_by_size(self.sizes), derivatives, strict=True):
            codes = codes.at[np.array(where)].set(jnp.argmax(of, axis=-1).astype(jnp.int32))
        return _point(codes, self.space)


def graph_of(
    values: Mapping[str, int],
    factors: Mapping[tuple[str, ...], Float[Array, "..."] | Callable[[PyTree], Float[Array, "..."]]],
) -> FactorGraph:
    """The factor graph of variables by name, each with its number of values, and of a table or network for each tuple
    of names. Its points are vectors of codes, in the order of the names.

    Raises `SettingsError` for a name that is not there.
    """
    place = {name: i for i, name in enumerate(values)}
    unknown = [name for names in factors for name in names if name not in place]
    if unknown:
        raise SettingsError(f"a factor is over {unknown[0]!r}, and the variables are {', '.join(values)}")
    sizes = set(values.values())
    space: AbstractSpace
    if len(sizes) == 1:
        space = Categorical((len(values),), sizes.pop())
    else:
        space = Record(tuple(Column(name, "categorical", size) for name, size in values.items()))
    return FactorGraph(
        space, tuple(Factor(tuple(place[name] for name in names), table) for names, table in factors.items())
    )


def _by_size(sizes: Sequence[int]) -> list[tuple[int, list[int]]]:
    """The variables of each number of values."""
    return [(size, [i for i, s in enumerate(sizes) if s == size]) for size in sorted(set(sizes))]


def _codes(y: Float[Array, "..."]) -> Array:
    return jnp.ravel(y).astype(jnp.int32)


def _point(codes: Array, space: AbstractSpace) -> Float[Array, "..."]:
    return codes.astype(jnp.float32).reshape(space.shape)
