"""Encoded rows: what an energy sees of a table."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Rows:
    """Rows in codes.

    `values` (n, d) float32, 0 where missing; `observed` (n, d) bool; `unseen` (n,) counts the cells whose
    category training never saw (they are unobserved here).
    """

    values: np.ndarray
    observed: np.ndarray
    unseen: np.ndarray

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: Any) -> "Rows":
        return Rows(self.values[index], self.observed[index], self.unseen[index])

    @property
    def complete(self) -> np.ndarray:
        """Which rows have every cell."""
        return np.asarray(self.observed.all(axis=1))
