"""The energies of a factor graph beside one point: what each value of each variable costs where the others stay."""

from collections.abc import Sequence
from functools import lru_cache

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from thalweg.energy.base import Scalar
from thalweg.energy.tables import Group, Scope


def chosen(groups: Sequence[Group], codes: Int[Array, "n"]) -> Scalar:
    """The sum of the entries of all tables at one point."""
    return jnp.sum(jnp.stack([jnp.sum(_entries(group, codes)) for group in groups]))


def beside(groups: Sequence[Group], codes: Int[Array, "n"], sizes: Sequence[int]) -> Float[Array, "n v"]:
    r"""\(\sum_{f \ni i} E_f\) for each value of each variable; infinite beyond its values."""
    return jnp.where(_values(sizes), _beside(groups, codes, sizes), jnp.inf)


def changed(groups: Sequence[Group], codes: Int[Array, "n"], sizes: Sequence[int]) -> Float[Array, "n v"]:
    """The sum of all tables for each change of one variable; infinite beyond its values."""
    # What is forbidden is counted by itself: a neighbour may be free of it.
    finite = [g._replace(tables=jnp.where(jnp.isinf(g.tables), 0, g.tables)) for g in groups]
    barred = [g._replace(tables=jnp.isinf(g.tables).astype(g.tables.dtype)) for g in groups]
    energy, bars = (_changed(part, codes, sizes) for part in (finite, barred))
    return jnp.where((bars > 0.5) | ~_values(sizes), jnp.inf, energy)


@lru_cache(maxsize=64)
def colours(scopes: tuple[Scope, ...], size: int) -> np.ndarray:
    """A colour for each of `size` variables, so that no two in one factor have the same; greedily."""
    near: list[set[int]] = [set() for _ in range(size)]
    for scope in scopes:
        for v in scope:
            near[v].update(scope)
    colour = np.zeros(size, np.int32)
    for v in range(size):
        used = {int(colour[u]) for u in near[v] if u < v}
        colour[v] = next(c for c in range(size) if c not in used)
    return colour


def _changed(groups: Sequence[Group], codes: Array, sizes: Sequence[int]) -> Float[Array, "n v"]:
    near = _beside(groups, codes, sizes)
    return chosen(groups, codes) - jnp.take_along_axis(near, codes[:, None], axis=1) + near


def _beside(groups: Sequence[Group], codes: Array, sizes: Sequence[int]) -> Float[Array, "n v"]:
    whole = jnp.zeros((len(sizes), max(sizes)))
    for group in groups:
        scope = np.array(group.scopes)
        for axis in range(scope.shape[1]):
            others = np.delete(scope, axis, axis=1)
            turned = jnp.moveaxis(group.tables, axis + 1, -1)
            rows = turned[(np.arange(len(scope)), *(codes[v] for v in others.T))]
            whole = whole.at[scope[:, axis], : rows.shape[1]].add(rows)
    return whole


def _values(sizes: Sequence[int]) -> np.ndarray:
    """Which values each variable has."""
    return np.arange(max(sizes))[None] < np.array(sizes)[:, None]


def _entries(group: Group, codes: Array) -> Float[Array, "m"]:
    """The entry of each table at the values of its variables."""
    scope = np.array(group.scopes)
    return group.tables[(np.arange(len(scope)), *(codes[v] for v in scope.T))]
