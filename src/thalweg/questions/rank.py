"""rank: which is better?"""

from collections.abc import Callable

import numpy as np

from thalweg.data.rows import Rows
from thalweg.energy.base import AbstractEnergy
from thalweg.questions.records import Ranking


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
