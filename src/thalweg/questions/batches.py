"""Rows through a compiled function, in blocks of one shape."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from thalweg.energy.base import AbstractEnergy
from thalweg.energy.capabilities import AbstractTabular

#: Rows a block on a CPU. A row's answer there does not depend on the rows beside it nor on their number.
BLOCK = 64
#: Rows a dispatch at most.
LARGEST = 4096


def in_batches(
    function: Callable[..., Any], F: AbstractEnergy, *arrays: np.ndarray, largest: int = LARGEST
) -> Any:
    """`function(F, *arrays)` over pieces of the rows, put together again on the host.

    `function` is compiled and maps rows by `by_row`. Pieces have few different lengths, so it is traced a few times
    only; the last piece is filled up by repeating its last row.
    """
    F = F.bare() if isinstance(F, AbstractTabular) else F
    pieces = []
    for start, length in _pieces(len(arrays[0]), largest):
        part = [array[start : start + length] for array in arrays]
        size = len(part[0])
        index = np.minimum(np.arange(length), size - 1)
        answer = function(F, *(array[index] for array in part))
        pieces.append(jax.tree.map(lambda leaf, size=size: np.asarray(leaf)[:size], answer))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *pieces)


def by_row(function: Callable[..., PyTree], *arrays: PyTree) -> PyTree:
    """`jax.vmap(function)(*arrays)`, on a CPU one block after the other.

    Compilers choose the order of a sum by the shape of the whole, so in float32 the same row would have another
    last digit among 16 rows and among 4,096. A block has one shape, and stays in the cache besides.
    """
    n = len(jax.tree.leaves(arrays)[0])
    if n <= BLOCK or not _in_blocks():
        return jax.vmap(function)(*arrays)
    blocks = jax.tree.map(lambda leaf: jnp.reshape(leaf, (n // BLOCK, BLOCK, *leaf.shape[1:])), arrays)
    answers = jax.lax.map(lambda block: jax.vmap(function)(*block), blocks)
    return jax.tree.map(lambda leaf: jnp.reshape(leaf, (n, *leaf.shape[2:])), answers)


def _pieces(n: int, largest: int) -> Iterator[tuple[int, int]]:
    """Where each piece starts and its length."""
    whole = n - n % largest
    yield from ((start, largest) for start in range(0, whole, largest))
    if n == whole:
        return
    if _in_blocks():
        yield from ((start, BLOCK) for start in range(whole, n, BLOCK))
        return
    bits = (n - whole - 1).bit_length()
    yield whole, min(largest, max(16, 1 << (bits + bits % 2)))


def _in_blocks() -> bool:
    return jax.default_backend() == "cpu"
