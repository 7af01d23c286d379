"""The rows that the page looks at: those the reader gave, or the held-out ones."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Int

#: More rows than this are thinned evenly before they are scored.
MOST_ROWS = 20_000


@dataclass(frozen=True)
class Look:
    """Rows to look at, their numbers, and what to call them.

    `held_out`: they calibrate the model; `fitted`: they are those that it was fitted to, held-out ones among
    them. `sequence` is the column that says which belong together, if any does.
    """

    table: pa.Table
    numbers: np.ndarray
    name: str
    held_out: bool = False
    fitted: bool = False
    sequence: str | None = None

    def __len__(self) -> int:
        return self.table.num_rows

    @property
    def title(self) -> str:
        return "held-out rows" if self.held_out else f"rows of {self.name}"

    def thinned(self, most: int) -> "Look":
        """At most about this many rows, evenly spaced; whole sequences, where rows are of some."""
        if self.sequence is not None and len(self) > most:
            number = sequence_numbers(self.table.column(self.sequence))
            count = number[-1] + 1
            kept = np.linspace(0, count - 1, max(1, count * most // len(self))).astype(int)
            return self.take(np.flatnonzero(np.isin(number, kept)))
        chosen = np.unique(np.linspace(0, max(len(self) - 1, 0), min(most, len(self))).astype(int))
        return self.take(chosen)

    def take(self, chosen: np.ndarray) -> "Look":
        return replace(self, table=self.table.take(chosen), numbers=self.numbers[chosen])


def look_at(model: Any, data: Any) -> Look | None:
    """The rows of `data`, or the model's held-out rows; None where there are neither."""
    if data is not None:
        # Tables in memory all have one name, so that their size must agree too.
        fitted = (data.name, len(data)) == (model.card.get("data"), model.card.get("rows"))
        sequence = model.schema.sequence
        return Look(data.table, np.arange(len(data)), data.name, fitted=fitted, sequence=sequence).thinned(
            MOST_ROWS
        )
    return held_out(model)


def unseen(model: Any, look: Look | None) -> Look | None:
    """The same rows, or the held-out ones where these are the rows that the model was fitted to."""
    return held_out(model) if look is not None and look.fitted else look


def held_out(model: Any) -> Look | None:
    """The rows that calibrate the model, which training never saw."""
    rows = model.calibration.rows
    if rows is None or not len(rows):
        return None
    table = hide(
        model.schema.decode(rows.values, sequence=rows.sequence), ~rows.observed, model.schema.space.names
    )
    return Look(table, np.arange(len(rows)), "held-out rows", held_out=True, sequence=model.schema.sequence)


def sequence_numbers(cells: pa.ChunkedArray) -> Int[np.ndarray, "n"]:
    """Which sequence each row is of, counted from 0: rows beside each other with one value."""
    codes = cells.combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    return np.cumsum(np.diff(codes, prepend=codes[:1]) != 0)


def hide(table: pa.Table, hidden: Bool[np.ndarray, "n d"], names: Sequence[str]) -> pa.Table:
    """The table with some cells emptied; `hidden` has a column for each of `names`."""
    for i, name in enumerate(names):
        if name in table.column_names and hidden[:, i].any():
            column = table.column(name)
            shown = pc.if_else(pa.array(~hidden[:, i]), column, pa.scalar(None, column.type))
            table = table.set_column(table.column_names.index(name), table.field(name), shown)
    return table


def standardised(schema: Any, rows: Any) -> np.ndarray:
    """Codes in deviations from each column's mean; nan where missing."""
    center = np.array([column.center for column in schema.space.columns])
    spread = np.array([column.spread for column in schema.space.columns])
    return np.where(rows.observed, (rows.values - center) / spread, np.nan)


def for_the_eye(schema: Any, rows: Any, table: pa.Table, index: int) -> np.ndarray:
    """One column's known values as numbers to draw: its own, a category's index, or years of a date."""
    name = schema.space.names[index]
    column = column_named(schema, name)
    known = rows.observed[:, index]
    if column.kind in ("categorical", "binary") or table.column(name).type in (
        pa.string(),
        pa.large_string(),
    ):
        return rows.values[known, index].astype(float)
    cells = table.column(name).to_numpy(zero_copy_only=False)
    if column.kind == "datetime" and np.issubdtype(cells.dtype, np.datetime64):
        days = cells.astype("datetime64[ms]").astype(float) / 86_400_000
        return 1970 + days[known] / 365.2425
    return rows.values[known, index].astype(float) if cells.dtype == object else cells[known].astype(float)


def column_named(schema: Any, name: str) -> Any:
    return next(column for column in schema.columns if column.name == name)
