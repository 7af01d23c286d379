"""Several ragged sequences in one row of a static length: which places count, and which stand beside each other.

A place where `mask` is False is skipped as if it were not there. `starts` is True where a sequence begins (also at a
place that is masked); the first place always begins one.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


def first_of_each(mask: Bool[Array, "n"], starts: Bool[Array, "n"]) -> Bool[Array, "n"]:
    """The first place that counts of every sequence."""
    counted = jnp.cumsum(mask.astype(jnp.int32))
    before = jnp.where(starts, counted - mask.astype(jnp.int32), 0)
    return mask & (counted - jax.lax.cummax(before) == 1)


def last_of_each(mask: Bool[Array, "n"], starts: Bool[Array, "n"]) -> Bool[Array, "n"]:
    """The last place that counts of every sequence."""
    after = jnp.append(starts[1:], True)
    return first_of_each(mask[::-1], after[::-1])[::-1]


def previous(mask: Bool[Array, "n"]) -> Int[Array, "n"]:
    """The nearest place before that counts, of whichever sequence; -1 where there is none."""
    place = jnp.where(mask, jnp.arange(len(mask), dtype=jnp.int32), -1)
    latest = jax.lax.cummax(place)
    return jnp.concatenate([jnp.full(1, -1, jnp.int32), latest[:-1]])


def neighbours(
    mask: Bool[Array, "n"], starts: Bool[Array, "n"], reach: int
) -> tuple[Int[Array, "n reach"], Bool[Array, "n reach"]]:
    """The `reach` places before each, the nearest first, and whether they are there in the same sequence."""
    step, known = previous(mask), ~first_of_each(mask, starts) & mask
    place, there = jnp.arange(len(mask), dtype=jnp.int32), mask
    found, all_there = [], []
    for _ in range(reach):
        there = there & known[place]
        place = jnp.where(there, step[place], place)
        found.append(place)
        all_there.append(there)
    return jnp.stack(found, axis=-1), jnp.stack(all_there, axis=-1)
