"""What the questions answer with: arrays, and the same as a table."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True)
class Scores:
    """Energies (n,), how odd the rows are (n,), conformal p-values of that (n,), and which are at most `alpha`.

    `threshold` (n,) is how odd each row may be: it is flagged above that.
    """

    energy: np.ndarray
    surprise: np.ndarray
    p_value: np.ndarray
    flag: np.ndarray
    alpha: float
    threshold: np.ndarray

    def to_table(self) -> pa.Table:
        columns = {name: getattr(self, name) for name in ("energy", "surprise", "p_value", "flag")}
        return pa.table(columns)


@dataclass(frozen=True)
class Modes:
    """All answers of each row, a row's lowest energy first.

    One line an answer: which `row` (m,) it is of, the `answer` as a table of the predicted columns, its `energy` (m,),
    -log p of these columns given the others in nats, and the `probability` (m,) of what lies around it.
    """

    row: np.ndarray
    answer: pa.Table
    energy: np.ndarray
    probability: np.ndarray

    def of(self, row: int) -> pa.Table:
        """The answers of one row."""
        return self.to_table().filter(pa.array(self.row == row))

    def to_table(self) -> pa.Table:
        found = pa.table({"row": self.row})
        for name in self.answer.column_names:
            found = found.append_column(name, self.answer[name])
        found = found.append_column("energy", pa.array(self.energy))
        return found.append_column("probability", pa.array(self.probability))


@dataclass(frozen=True)
class Prediction:
    """The predicted column.

    `value` (n,) holds the values of least energy, in the column's own type. A finite column has `levels` (k,) and
    `probabilities` (n, k); a number has its conditional `mean` (n,), `std` (n,) and `quantiles` at 0.05, 0.5, 0.95;
    `draws` (n, m) and `modes` where asked for.
    """

    target: str
    value: pa.Array
    levels: list[Any] | None = None
    probabilities: np.ndarray | None = None
    mean: np.ndarray | None = None
    std: np.ndarray | None = None
    quantiles: dict[float, pa.Array] | None = None
    draws: list[pa.Array] | None = None
    modes: Modes | None = None

    def to_table(self) -> pa.Table:
        columns: dict[str, Any] = {self.target: self.value}
        if self.probabilities is not None and self.levels is not None:
            for level, share in zip(self.levels, self.probabilities.T, strict=True):
                columns[f"p({level})"] = share
        if self.mean is not None:
            columns["mean"] = self.mean
        for level, values in (self.quantiles or {}).items():
            columns[f"q{level:g}"] = values
        for i, values in enumerate(self.draws or []):
            columns[f"draw_{i + 1}"] = values
        return pa.table(columns)


@dataclass(frozen=True)
class Ranking:
    """For each row, the candidates from lowest to highest energy: `order` (n, m) and `energy` (n, m), in that order."""

    order: np.ndarray
    energy: np.ndarray

    def to_table(self) -> pa.Table:
        n, m = self.order.shape
        return pa.table(
            {
                "row": np.repeat(np.arange(n), m),
                "rank": np.tile(np.arange(1, m + 1), n),
                "candidate": self.order.ravel(),
                "energy": self.energy.ravel(),
            }
        )


@dataclass(frozen=True)
class Order:
    """Rows among themselves, those of each query from lowest to highest energy: which `row` (n,), its `rank` in the
    query from 1, its `energy`, and its `query` (None: all are of one)."""

    row: np.ndarray
    rank: np.ndarray
    energy: np.ndarray
    query: pa.Array | None = None

    def to_table(self) -> pa.Table:
        columns = {"row": self.row, "rank": self.rank, "energy": self.energy}
        return pa.table(columns if self.query is None else {"query": self.query, **columns})


_PAIRS = pa.schema(
    {
        "row": pa.int64(),
        "columns": pa.string(),
        "value": pa.string(),
        "release": pa.float64(),
        "suggestion": pa.string(),
    }
)


@dataclass(frozen=True)
class Explanation:
    """Which cell is wrong.

    `energy` (n,); `release` (n, d) the nats that each cell of `columns` would release if it were re-inferred from
    the rest of its row (0 for missing cells); `value` and `proposal` the rows as they are and with each of these cells
    replaced by what it would become. `columns` are all, or of a model of some given the others these alone. `pairs` has
    one record a pair of cells, where asked for.
    """

    energy: np.ndarray
    release: np.ndarray
    columns: tuple[str, ...]
    value: pa.Table
    proposal: pa.Table
    pairs: list[dict[str, Any]] | None = None

    def to_table(self, top: int | None = None) -> pa.Table:
        """One line a cell, the worst cells of each row first; `top` of them for each row."""
        n, d = self.release.shape
        order = np.argsort(-self.release, axis=1, kind="stable")[:, : top or d]
        if self.pairs is not None:
            return pa.Table.from_pylist(self.pairs, schema=_PAIRS)
        value, proposal = (
            [list(map(str_or_none, table[name].to_pylist())) for name in self.columns]
            for table in (self.value, self.proposal)
        )
        rows = np.repeat(np.arange(n), order.shape[1])
        cells = list(zip(rows.tolist(), order.ravel().tolist(), strict=True))
        return pa.table(
            {
                "row": rows,
                "energy": self.energy[rows],
                "column": [self.columns[j] for _, j in cells],
                "value": pa.array([value[j][i] for i, j in cells], pa.string()),
                "release": np.array([self.release[i, j] for i, j in cells], np.float64),
                "suggestion": pa.array([proposal[j][i] for i, j in cells], pa.string()),
            }
        )


@dataclass(frozen=True)
class Labels:
    r"""The labels of sequences of rows.

    `paths` has the rows' labels in each of the best labellings, the best first, and `energy` (k, s) those labellings'
    \(F = -\log p(y \mid x)\) of every sequence, in nats; `sequence` (n,) numbers the sequences of the rows.
    `probability` (n,) is that of each row's label in the best, whatever its neighbours' are. `held` (n,) are the labels
    that the rows came with, which were kept: theirs is 1.
    """

    target: str
    paths: list[pa.Array]
    probability: np.ndarray
    sequence: np.ndarray
    energy: np.ndarray
    held: np.ndarray

    @property
    def value(self) -> pa.Array:
        """The labels of least energy."""
        return self.paths[0]

    def to_table(self) -> pa.Table:
        columns: dict[str, Any] = {"sequence": self.sequence, self.target: self.value, "p": self.probability}
        columns["held"] = self.held
        # Sequences of few labellings have no more than these.
        energies = self.energy[:, self.sequence]
        there = np.isfinite(energies)
        for i, path in enumerate(self.paths[1:], 2):
            columns[f"{self.target} {i}"] = pc.if_else(
                pa.array(there[i - 1]), path, pa.scalar(None, path.type)
            )
        for i, of_rows in enumerate(energies, 1):
            columns["energy" if i == 1 else f"energy {i}"] = pa.array(of_rows, mask=~there[i - 1])
        return pa.table(columns)


@dataclass(frozen=True)
class Codes:
    """The latent of each row, (n, k)."""

    z: np.ndarray

    def to_table(self) -> pa.Table:
        return pa.table({f"z{i}": column for i, column in enumerate(self.z.T)})


def str_or_none(value: Any) -> str | None:
    """A cell as people read it."""
    if value is None:
        return None
    return f"{value:.6g}" if isinstance(value, float) else str(value)
