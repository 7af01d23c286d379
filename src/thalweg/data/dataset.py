"""A loaded data set: an Arrow table that remembers what it was, so that answers come back in kind."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

_POSITIONAL = b"thalweg.nameless"
_PIXEL = b"thalweg.pixel"
_GRID = re.compile(r"[1-9][0-9]{0,6}(x[1-9][0-9]{0,6}){0,7}")


@dataclass(frozen=True)
class Dataset:
    """Rows and where they came from.

    `grid` is the shape of the image whose pixels are the first `prod(grid)` columns, () for a plain table;
    `native` is the kind of object that was loaded ("arrow", "pandas", "polars" or "numpy"); `kinds` are the
    kinds the user decided, by column. `source` is the object itself, where answers must look like it; `path`
    the file or folder. `first_row` is the number of the first row, where these are a piece of more.
    """

    table: pa.Table
    name: str
    grid: tuple[int, ...] = ()
    native: str = "arrow"
    kinds: Mapping[str, str] = field(default_factory=dict)
    source: Any = field(default=None, repr=False, compare=False)
    path: str | None = None
    first_row: int = 0

    @property
    def where(self) -> str:
        """What messages call it: its path, or its name."""
        return self.path or self.name

    def __len__(self) -> int:
        return self.table.num_rows

    def restore(self, table: pa.Table) -> Any:
        """`table` as the kind of object that was loaded.

        A pandas frame keeps its column labels, types and (for the same number of rows) its index; an array of
        images comes back as images; paths and built-in names give the table itself.
        """
        match self.native:
            case "pandas":
                return _to_pandas(table.replace_schema_metadata(self.table.schema.metadata), self.source)
            case "polars":
                return _to_polars(table, self.source)
            case "numpy":
                return _to_numpy(table, self.source)
        return table


def mark_nameless(table: pa.Table) -> pa.Table:
    """The table with a note that its names were made up, so that its columns are matched by position."""
    return table.replace_schema_metadata({_POSITIONAL: str(table.num_columns)})


def is_nameless(table: pa.Table) -> bool:
    """Whether the names were made up, and no column was added or left out by name since."""
    return (table.schema.metadata or {}).get(_POSITIONAL) == str(table.num_columns).encode()


def mark_pixels(table: pa.Table, grid: tuple[int, ...]) -> pa.Table:
    """The table with a note on each of its first `prod(grid)` columns, so that parts of it are images too."""
    fields = list(table.schema)
    for place in range(math.prod(grid) if grid else 0):
        note = {_PIXEL: f"{place}/{'x'.join(map(str, grid))}"}
        fields[place] = fields[place].with_metadata({**(fields[place].metadata or {}), **note})
    return pa.Table.from_arrays(table.columns, schema=pa.schema(fields, table.schema.metadata))


def grid_of(table: pa.Table) -> tuple[int, ...]:
    """The shape of the image whose pixels, all of them and in order, are the first columns; () where there is none."""
    notes = [(field.metadata or {}).get(_PIXEL, b"").decode(errors="replace") for field in table.schema]
    place, _, shape = notes[0].partition("/")
    if place != "0" or not _GRID.fullmatch(shape):
        return ()
    grid = tuple(map(int, shape.split("x")))
    count = math.prod(grid)
    whole = count <= len(notes) and notes[:count] == [f"{i}/{shape}" for i in range(count)]
    return grid if whole else ()


def _to_pandas(table: pa.Table, source: Any) -> Any:
    frame = table.to_pandas()
    if source is None:
        return frame
    labels = {str(label): label for label in source.columns}
    for name in frame.columns.intersection(list(labels)):
        dtype = source[labels[name]].dtype
        if frame[name].dtype != dtype:
            try:
                frame[name] = frame[name].astype(dtype)
            except (TypeError, ValueError):
                continue  # a value the old type cannot hold: a fraction among integers, a new category
    frame.columns = [labels.get(name, name) for name in frame.columns]
    if len(frame) == len(source):
        frame.index = source.index
    return frame


def _to_polars(table: pa.Table, source: Any) -> Any:
    import polars

    frame: Any = polars.from_arrow(table.replace_schema_metadata(None))
    if source is None:
        return frame
    for name, dtype in source.schema.items():
        if name in frame.columns and frame.schema[name] != dtype:
            try:
                frame = frame.with_columns(frame[name].cast(dtype))
            except polars.exceptions.PolarsError:
                continue
    return frame


def _to_numpy(table: pa.Table, source: Any) -> np.ndarray:
    columns = [column.to_numpy() for column in table.columns]
    array = np.stack(columns, axis=1) if columns else np.empty((table.num_rows, 0))
    if source is None:
        return array
    if array.dtype != source.dtype and np.can_cast(array.dtype, source.dtype, "same_kind"):
        array = array.astype(source.dtype)
    same = source.ndim > 2 and array.shape[1] == int(np.prod(source.shape[1:]))
    return array.reshape(len(array), *source.shape[1:]) if same else array
