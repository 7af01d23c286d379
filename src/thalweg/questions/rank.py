"""rank: which is better?"""

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from thalweg.data.rows import Rows
from thalweg.energy.base import AbstractEnergy
from thalweg.questions.records import Order, Ranking


def method(kind: type[AbstractEnergy]) -> str:
    return "exact: differences of F, no partition function"


def rank(rows: Rows | None, candidates: Rows, energies: Callable[[Rows], np.ndarray]) -> Ranking:
    """For each row, the energies of the row with each candidate's cells put into it, sorted."""
    m = len(candidates)
    if rows is None:
        rows = Rows(
            np.zeros_like(candidates.values[:1]), np.zeros_like(candidates.observed[:1]), np.zeros(1, int)
        )
    n = len(rows)
    row, option = np.repeat(np.arange(n), m), np.tile(np.arange(m), n)
    chosen = candidates.observed[option]
    merged = Rows(
        np.where(chosen, candidates.values[option], rows.values[row]),
        chosen | rows.observed[row],
        candidates.unseen[option] + rows.unseen[row],
    )
    table = energies(merged).reshape(n, m)
    order = np.argsort(table, axis=1, kind="stable")
    return Ranking(order, np.take_along_axis(table, order, axis=1))


def order(energies: np.ndarray, query: pa.ChunkedArray | None) -> Order:
    """Rows among themselves by their energies; with a `query` those of each, in the order in which these come."""
    if query is None:
        row = np.argsort(energies, kind="stable")
        return Order(row, np.arange(1, len(row) + 1), energies[row])
    codes = (
        query.combine_chunks()
        .dictionary_encode(null_encoding="encode")
        .indices.to_numpy(zero_copy_only=False)
    )
    row = np.lexsort((energies, codes))
    begins = np.searchsorted(codes[row], codes[row], side="left")
    return Order(
        row, np.arange(1, len(row) + 1) - begins, energies[row], query.take(pa.array(row)).combine_chunks()
    )
