"""Rows through a compiled function in pieces of few different shapes."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

#: Rows a dispatch at most; smaller pieces are padded to a power of four.
LARGEST = 4096


def in_batches(function: Callable[..., Any], *arrays: np.ndarray, largest: int = LARGEST) -> Any:
    """`function(*arrays)` over pieces of the rows, put together again on the host.

    Pieces are padded by repeating their last row to the next power of four, so that a compiled function is traced
    a few times only.
    """
    n = len(arrays[0])
    pieces = []
    for start in range(0, n, largest):
        part = [array[start : start + largest] for array in arrays]
        size = len(part[0])
        bits = (size - 1).bit_length()
        padded = min(largest, max(16, 1 << (bits + bits % 2)))
        index = np.minimum(np.arange(padded), size - 1)
        answer = function(*(array[index] for array in part))
        pieces.append(jax.tree.map(lambda leaf, size=size: np.asarray(leaf)[:size], answer))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *pieces)
