"""Candidate values of columns as one rectangular array."""

from collections.abc import Callable

import numpy as np

from thalweg.energy.spaces import AbstractSpace


def candidate_grid(space: AbstractSpace, candidates: Callable[[int], np.ndarray]) -> np.ndarray:
    """Candidate codes of every column, float32 (d, v); shorter lists are padded by repeating their last value."""
    lists = [np.asarray(candidates(i), np.float32) for i in range(space.shape[0])]
    widest = max(len(values) for values in lists)
    return np.stack([values[np.minimum(np.arange(widest), len(values) - 1)] for values in lists])
