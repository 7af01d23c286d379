"""Encoded rows: what an energy sees of a table."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Rows:
    """Rows in codes.

    `values` (n, d) float32, 0 where missing; `observed` (n, d) bool; `unseen` (n,) counts the cells whose
    category training never saw (they are unobserved here); `sequence` (n,) says by equal numbers beside each other
    which rows belong together (None: each is by itself).
    """

    values: np.ndarray
    observed: np.ndarray
    unseen: np.ndarray
    sequence: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: Any) -> "Rows":
        sequence = None if self.sequence is None else self.sequence[index]
        return Rows(self.values[index], self.observed[index], self.unseen[index], sequence)

    @property
    def complete(self) -> np.ndarray:
        """Which rows have every cell."""
        return np.asarray(self.observed.all(axis=1))

    def patched(self) -> np.ndarray:
        """The values with each missing cell replaced by one that is observed in its column, in turn; columns without
        any stay 0."""
        values = self.values.copy()
        for i, known in enumerate(self.observed.T):
            if known.any() and not known.all():
                values[~known, i] = np.resize(values[known, i], np.sum(~known))
        return values
