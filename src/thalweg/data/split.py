"""Reproducible partitions of rows."""

from collections.abc import Sequence

import numpy as np

from thalweg.errors import SettingsError


def split(n: int, fractions: Sequence[float], *, seed: int) -> tuple[np.ndarray, ...]:
    """Disjoint random sets of row indices, each sorted, of sizes `fractions` of `n` (rounded cumulatively).

    The same `n`, `fractions` and `seed` give the same sets everywhere (PCG64). Raises `SettingsError` for
    negative fractions or a sum above 1.
    """
    shares = np.asarray(fractions, np.float64)
    if shares.ndim != 1 or not np.all(np.isfinite(shares)) or np.any(shares < 0) or shares.sum() > 1 + 1e-9:
        raise SettingsError(f"fractions {tuple(fractions)} must not be negative and must sum to at most 1")
    order = np.random.Generator(np.random.PCG64(seed)).permutation(n)
    ends = np.minimum(np.rint(np.cumsum(shares) * n).astype(int), n)
    return tuple(np.sort(part) for part in np.split(order, ends)[: len(shares)])
