"""From cells to codes: names, types and ranges checked, all arithmetic in int64 or float64 on the host."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.types as is_

from thalweg.data.arrays import table_of
from thalweg.data.cells import Cells, cells, first, plain
from thalweg.data.column import FARTHEST, ColumnSchema
from thalweg.data.csvfile import check_names
from thalweg.data.dataset import Dataset, is_nameless
from thalweg.data.infer import sequence_ids
from thalweg.data.levels import places
from thalweg.data.rows import Rows
from thalweg.data.text import as_dates, as_numbers, clean
from thalweg.data.types import is_number, is_supported, is_temporal, is_text
from thalweg.errors import DataError, DataWarning, SchemaError

if TYPE_CHECKING:
    from thalweg.data.schema import Schema

_NAMED = 5


@dataclass
class Remarks:
    """What is worth a warning, gathered over the columns so that each kind is one warning."""

    where: str
    unknown: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)

    def warn(self) -> None:
        for remarks, text in (
            (self.unknown, "categories that training never saw are taken as not observed"),
            (self.outside, "values outside the range of training (they are used all the same)"),
            (self.changed, "values in columns that were constant in training are ignored"),
        ):
            if remarks:
                warnings.warn(DataWarning(f"{self.where}: {text}: {_some(remarks, '; ')}"), stacklevel=4)


def encode(
    schema: Schema,
    table: pa.Table | np.ndarray,
    *,
    first_row: int = 0,
    name: str = "data",
    partial: bool | Collection[str] = False,
    counted: Collection[int] | None = None,
    unread: Collection[str] = (),
) -> Rows:
    """The rows of `table` in the codes of `schema`; `partial` where columns, any or these, are left out on purpose.

    Columns are matched by name (those of a nameless array by position), text is parsed by the schema, missing
    columns are unobserved, unknown ones ignored, unknown categories unobserved and counted in `Rows.unseen`
    (None: of all columns, else of those `counted`); each of these with one `DataWarning`. Columns that are `unread` are
    unobserved, without a word. Messages count rows as answers do, the first of the table as `first_row`. Raises
    `SchemaError` for cells of the wrong type and `DataError` for infinite ones, naming column and row.
    """
    table = _match(schema, _table(table, name), name, partial, unread)
    n, d = table.num_rows, len(schema.variables)
    values, observed = np.zeros((d, n), np.float32), np.zeros((d, n), bool)
    unseen, uncounted = np.zeros((2, n), np.int64)
    remarks = Remarks(name)
    columns = dict(zip(table.column_names, table.columns, strict=True))
    for i, column in enumerate(schema.variables):
        if column.name in columns and column.name not in unread:
            count = unseen if counted is None or i in counted else uncounted
            _encode_column(column, columns[column.name], values[i], observed[i], count, first_row, remarks)
    for column in schema.columns:
        if column.kind == "constant" and column.name in columns and column.levels[0] is not None:
            _compare_constant(column, columns[column.name], first_row, remarks)
    remarks.warn()
    sequence = None
    if schema.sequence in columns:
        here = f"{name}, column {schema.sequence!r}"
        sequence = sequence_ids(plain(columns[schema.sequence]), here, first_row)
    return Rows(np.ascontiguousarray(values.T), np.ascontiguousarray(observed.T), unseen, sequence)


def _table(table: pa.Table | np.ndarray | Dataset, name: str) -> pa.Table:
    if isinstance(table, Dataset):
        return table.table
    return table_of(table, name)[0] if isinstance(table, np.ndarray) else table


def _match(
    schema: Schema, table: pa.Table, where: str, partial: bool | Collection[str], unread: Collection[str]
) -> pa.Table:
    """The table with the schema's names, once it is known to be about the same things."""
    if is_nameless(table):
        table = _by_position(schema, table, where)
    check_names(list(table.column_names), where)
    have, want = set(table.column_names), [column.name for column in schema.variables]
    if not have & set(want):
        raise SchemaError(
            f"{where} has none of the columns of the model: it has {_some(table.column_names)}, the model "
            f"was fitted on {_some(want)}"
        )
    left_out = (want if partial else ()) if isinstance(partial, bool) else partial
    absent = [name for name in want if name not in {*have, *unread, *left_out, schema.target}]
    known = set(schema.names)
    extra = [name for name in table.column_names if name not in known]
    if absent:
        warnings.warn(DataWarning(f"{where} lacks {_some(absent)}: taken as not observed"), stacklevel=4)
    if extra:
        warnings.warn(
            DataWarning(f"{where} has columns the model does not know, ignored: {_some(extra)}"), stacklevel=4
        )
    return table


def _by_position(schema: Schema, table: pa.Table, where: str) -> pa.Table:
    names, count = schema.names, table.num_columns
    known = [name for name in names if name != schema.target]
    pixels = list(names[: math.prod(schema.grid)]) if schema.grid else []
    for expected in (list(names), known, pixels):
        if len(expected) == count:
            return table.rename_columns(expected)
    # An array of the inputs alone, where labels had lain beside them; or one from which columns were dropped.
    if list(names[:count]) == table.column_names and f"x{count}" not in names:
        return table
    if set(known) <= set(table.column_names):
        return table
    raise SchemaError(
        f"{where} has {count} columns without names, the model was fitted on {len(names)}: {_some(names)}"
    )


def _encode_column(
    column: ColumnSchema,
    cells_: pa.ChunkedArray,
    values: np.ndarray,
    observed: np.ndarray,
    unseen: np.ndarray,
    first_row: int,
    remarks: Remarks,
) -> None:
    if not is_supported(cells_.type):
        raise SchemaError(
            f"{remarks.where}, column {column.name!r}: cells of type {cells_.type} cannot be {column.kind}"
        )
    cells_ = plain(cells_)
    if is_.is_null(cells_.type):
        return
    if column.has_levels:
        codes, known, unknown = places(column, cells_)
        if unknown.any() and column.kind != "word":
            unseen += unknown
            remarks.unknown.append(_example(column, cells_, unknown, first_row))
    else:
        found = _numbers(column, cells_, first_row, remarks.where)
        codes, known = column.encode(found), found.present
        _note_outside(column, cells_, codes, known, first_row, remarks)
    observed[:] = known
    np.copyto(values, np.clip(codes, -FARTHEST, FARTHEST), where=known, casting="same_kind")


def _numbers(column: ColumnSchema, cells_: pa.ChunkedArray, first_row: int, where: str) -> Cells:
    """The cells of a real or integer column, of whatever type they arrive in."""
    here = f"{where}, column {column.name!r}"
    typed = cells_
    if is_text(cells_.type):
        parse: Callable[..., pa.ChunkedArray] = as_dates if column.kind == "datetime" else as_numbers
        typed = parse(clean(cells_), column.name, where=where, error=SchemaError, first_row=first_row)
    if column.kind == "datetime":
        if not is_temporal(typed.type):
            raise SchemaError(f"{here}: cells of type {cells_.type} where training had dates ({column.type})")
        return cells(_as_time(typed, column, here))
    if not (is_number(typed.type) or is_.is_boolean(typed.type)):
        raise SchemaError(f"{here}: cells of type {cells_.type} where training had numbers ({column.type})")
    found = cells(typed)
    _refuse_infinite(found, here, first_row)
    if column.whole and not found.whole:
        found = _whole(found, column, here, first_row)
    return found


def _as_time(typed: pa.ChunkedArray, column: ColumnSchema, here: str) -> pa.ChunkedArray:
    try:
        return typed.cast(column.arrow_type, safe=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise SchemaError(f"{here}: cells of type {typed.type} where training had {column.type}") from error


def _refuse_infinite(found: Cells, here: str, first_row: int) -> None:
    if found.whole:
        return
    infinite = np.isinf(found.values) & found.present
    if infinite.any():
        row = first(infinite)
        raise DataError(
            f"{here}, row {first_row + row}: the value is {found.values[row]}, not a finite number: "
            "replace it, or leave the cell empty"
        )


def _whole(found: Cells, column: ColumnSchema, here: str, first_row: int) -> Cells:
    """Floats as the whole numbers that they are: pandas makes integers floats where cells are missing."""
    fraction = found.present & (found.values != np.rint(found.values))
    if fraction.any():
        if column.kind != "integer":
            return found
        row = first(fraction)
        raise SchemaError(
            f"{here}, row {first_row + row}: {found.values[row]} is not a whole number, as all were in "
            "training: round it, or fit again with it as continuous"
        )
    if np.any(np.abs(found.values[found.present]) >= 2.0**63):
        return found
    return Cells(np.where(found.present, found.values, 0.0).astype(np.int64), found.present)


def _note_outside(
    column: ColumnSchema,
    cells_: pa.ChunkedArray,
    codes: np.ndarray,
    known: np.ndarray,
    first_row: int,
    remarks: Remarks,
) -> None:
    low, high = (
        (0.0, column.size - 1.0) if column.kind == "integer" else (column.quantiles[0], column.quantiles[-1])
    )
    with np.errstate(invalid="ignore"):
        outside = known & ((codes < low) | (codes > high))
    if outside.any():
        remarks.outside.append(_example(column, cells_, outside, first_row))


def _compare_constant(
    column: ColumnSchema, cells_: pa.ChunkedArray, first_row: int, remarks: Remarks
) -> None:
    if not is_supported(cells_.type) or is_.is_null(cells_.type):
        return
    _, _, other = places(column, plain(cells_))
    if other.any():
        example = _example(column, cells_, other, first_row)
        remarks.changed.append(f"{example}, always {column.levels[0]!r} in training")


def _example(column: ColumnSchema, cells_: pa.ChunkedArray, mask: np.ndarray, first_row: int) -> str:
    row = first(mask)
    value = (
        cells_.slice(row, 1).cast(pa.string())[0].as_py() if is_temporal(cells_.type) else cells_[row].as_py()
    )
    count = int(mask.sum())
    others = f" and {count - 1:,} more" if count > 1 else ""
    return f"{column.name} = {value!r} (row {first_row + row}{others})"


def _some(names: list[str] | tuple[str, ...], between: str = ", ") -> str:
    shown = between.join(map(str, names[:_NAMED]))
    return shown + (f"{between}… ({len(names)} in all)" if len(names) > _NAMED else "")
