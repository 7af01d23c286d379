r"""The factors of a graph: energies of a few discrete variables, as tables or as networks that give them."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from thalweg.errors import SettingsError

Scope = tuple[int, ...]


class Factor(eqx.Module):
    r"""\(E_f(y_f, x)\): an energy for each combination of the values of its variables, in nats.

    `variables` are k different coordinates of the space, in C order, and `table` has an axis for each of them; or they
    are a list of m such scopes, and the table is (m, v1, ..., vk), or (v1, ..., vk) shared by all. It is an array, or a
    network that gives one for the input: `table(x)`. An infinite entry forbids; none is \(-\infty\) or NaN.
    """

    scopes: tuple[Scope, ...] = eqx.field(static=True)
    table: Float[Array, "..."] | Callable[[PyTree], Float[Array, "..."]]

    def __init__(
        self,
        variables: Sequence[int] | Sequence[Sequence[int]],
        table: Float[Array, "..."] | Callable[[PyTree], Float[Array, "..."]],
    ):
        one = all(isinstance(v, int | np.integer) for v in variables)
        scopes = cast("Sequence[Sequence[int]]", [variables] if one else variables)
        self.scopes = tuple(tuple(int(v) for v in scope) for scope in scopes)
        self.table = table if callable(table) else _sound(jnp.asarray(table, jnp.result_type(float)))
        if not self.scopes or any(len(scope) != len(self.scopes[0]) for scope in self.scopes):
            raise SettingsError("the scopes of a factor are one or more, and all of as many variables")
        for scope in self.scopes:
            if not scope or len(set(scope)) != len(scope):
                raise SettingsError(f"a factor is over different variables, at least one, not {scope}")

    def tables(self, x: PyTree, sizes: Sequence[int]) -> Float[Array, "m ..."]:
        """The tables for an input, one a scope. Raises `SettingsError` where their shape is not that of the values."""
        table = self.table(x) if callable(self.table) else self.table
        shape = self.shape(sizes)
        if table.shape not in (shape, (len(self.scopes), *shape)):
            raise SettingsError(
                f"the factor over variables {_named(self.scopes)} has a table of shape {table.shape}; their values "
                f"make it {shape}" + (f", or ({len(self.scopes)}, …) of them" if len(self.scopes) > 1 else "")
            )
        return jnp.broadcast_to(table, (len(self.scopes), *shape))

    def shape(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """The numbers of values of its variables. Raises `SettingsError` where the scopes differ in them."""
        shapes = {tuple(sizes[v] for v in scope) for scope in self.scopes}
        if len(shapes) > 1:
            raise SettingsError(
                f"the scopes of one factor have the same numbers of values, and {_named(self.scopes)} have "
                f"{sorted(shapes)}: make a factor for each"
            )
        return shapes.pop()


class Group(NamedTuple):
    """Tables (m, v1, ..., vk) over `scopes`, k variables each, in the order of the axes."""

    scopes: tuple[Scope, ...]
    tables: Float[Array, "m ..."]


class Entrywise(eqx.Module):
    r"""A network that is asked for one entry at a time, `energy(x, v1, ..., vk)`, as the table of all: called once for
    each combination of values, which are float32 codes."""

    energy: Callable[..., Float[Array, ""]]
    sizes: tuple[int, ...] = eqx.field(static=True)

    def __call__(self, x: PyTree = None) -> Float[Array, "..."]:
        codes = jnp.unravel_index(jnp.arange(math.prod(self.sizes)), self.sizes)
        values = [code.astype(jnp.float32) for code in codes]
        return jax.vmap(lambda *v: self.energy(x, *v))(*values).reshape(self.sizes)


def _sound(table: Array) -> Array:
    if not isinstance(table, jax.core.Tracer):
        # Of infinity times 0 there is no derivative, and the opposite of a forbidden value is none to choose from.
        bad = np.flatnonzero(np.isnan(table) | np.isneginf(table))
        if len(bad):
            raise SettingsError(
                f"a table of energies has {len(bad)} entries that are -inf or not a number: low is good, so forbid by "
                "+inf, and turn log-probabilities about (-log p)"
            )
    return table


def _named(scopes: tuple[Scope, ...]) -> str:
    return ", ".join(map(str, scopes[:3])) + (f" and {len(scopes) - 3} more" if len(scopes) > 3 else "")
