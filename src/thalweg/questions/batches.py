"""Rows through a compiled function, in blocks of one shape."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
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

    def answer(piece: tuple[int, int]) -> PyTree:
        start, length = piece
        part = [array[start : start + length] for array in arrays]
        size = len(part[0])
        index = np.minimum(np.arange(length), size - 1)
        found = function(F, *(array[index] for array in part))
        return jax.tree.map(lambda leaf: np.asarray(leaf)[:size], found)

    pieces = list(_pieces(len(arrays[0]), largest))
    # One of each length by itself, or several threads would compile the same.
    answers = {
        piece: answer(piece) for piece in {length: (start, length) for start, length in pieces}.values()
    }
    others = [piece for piece in pieces if piece not in answers]
    answers.update(zip(others, _side_by_side(answer, others), strict=True))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *(answers[piece] for piece in pieces))


def _side_by_side(function: Callable[[Any], Any], items: list[Any]) -> list[Any]:
    """`function` of each, on as many threads as JAX may use: a block is too small a piece of work to be divided."""
    threads = min(len(items), int(os.environ.get("NPROC") or 0) or os.cpu_count() or 1)
    if threads < 2 or not _in_blocks():
        return [function(item) for item in items]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, items))


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
