"""Rows laid out by what they have in common, a class or a query, so that a batch of groups holds several of each."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, PRNGKeyArray, PyTree

from thalweg.errors import DataError


class Groups(eqx.Module):
    """Groups of rows: `rows` has leaves (g, m, …), of which those `present` (g, m) count, and `of` (g,) says what the
    rows of a group have in common. Two groups may have the same."""

    rows: PyTree
    of: Int[Array, "g"]
    present: Bool[Array, "g m"]


def groups(rows: PyTree, of: Int[np.ndarray, "n"], most: int, *, seed: int) -> Groups:
    """The rows by `of`, at most `most` in a group: larger ones are divided at random into groups of like size.

    What fills a group up repeats its first row. Raises `DataError` where there are no rows.
    """
    of = np.asarray(of)
    if not len(of):
        raise DataError("there are no rows to lay out in groups: give at least one")
    shuffled = np.random.default_rng(seed).permutation(len(of))
    shuffled = shuffled[np.argsort(of[shuffled], kind="stable")]
    alike = np.split(shuffled, np.flatnonzero(np.diff(of[shuffled])) + 1)
    parts = [part for rows_ in alike for part in np.array_split(rows_, -(-len(rows_) // most))]
    size = np.array([len(part) for part in parts])
    place = np.arange(size.max())
    index = np.array([part[np.where(place < len(part), place, 0)] for part in parts])
    laid = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)[index]), rows)
    return Groups(laid, jnp.asarray(of[index[:, 0]], jnp.int32), jnp.asarray(place < size[:, None]))


def some_of_each(batch: Groups, each: int, *, key: PRNGKeyArray) -> Groups:
    """`each` rows of every group, drawn without repetition, or all where a group has fewer."""
    m = batch.present.shape[1]
    if m <= each:
        return batch
    order = jnp.where(batch.present, jax.random.uniform(key, batch.present.shape), -1.0)
    _, chosen = jax.lax.top_k(order, each)

    def take(leaf: Array) -> Array:
        return jax.vmap(lambda part, which: part[which])(leaf, chosen)

    return Groups(jax.tree.map(take, batch.rows), batch.of, take(batch.present))
