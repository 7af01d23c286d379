"""The rows that the page looks at: those the reader gave, or the held-out ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool

#: More rows than this are thinned evenly before they are scored.
MOST_ROWS = 20_000


@dataclass(frozen=True)
class Look:
    """Rows to look at, what to call them, and whether training saw them: "no", "held out" or "perhaps"."""

    table: pa.Table
    numbers: np.ndarray
    name: str
    held_out: bool

    def __len__(self) -> int:
        return self.table.num_rows

    def thinned(self, most: int) -> "Look":
        """At most this many rows, evenly spaced."""
        chosen = np.unique(np.linspace(0, max(len(self) - 1, 0), min(most, len(self))).astype(int))
        return self.take(chosen)

    def take(self, chosen: np.ndarray) -> "Look":
        return Look(self.table.take(chosen), self.numbers[chosen], self.name, self.held_out)


def look_at(model: Any, data: Any) -> Look | None:
    """The rows of `data`, or the model's held-out rows; None where there are neither."""
    if data is not None:
        return Look(data.table, np.arange(len(data)), data.name, False).thinned(MOST_ROWS)
    rows = model.calibration.rows
    if rows is None or not len(rows):
        return None
    table = hide(model.schema.decode(rows.values), ~rows.observed, model.schema.space.names)
    return Look(table, np.arange(len(rows)), "held-out rows", True)


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
