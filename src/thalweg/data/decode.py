"""From codes back to cells: types, dates, categories and constants restored, observed cells untouched."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as is_

from thalweg.data.column import ColumnSchema
from thalweg.data.text import as_dates, as_numbers, clean
from thalweg.data.types import is_temporal, is_text, value_type
from thalweg.errors import DataError

if TYPE_CHECKING:
    from thalweg.data.schema import Schema

_DAY = {"s": 86_400, "ms": 86_400_000, "us": 86_400_000_000, "ns": 86_400_000_000_000}
_LIMIT = {64: (1 << 63) - 1, 32: (1 << 31) - 1}


def decode(
    schema: Schema,
    values: np.ndarray,
    *,
    observed: np.ndarray | None = None,
    like: pa.Table | None = None,
    sequence: np.ndarray | None = None,
) -> pa.Table:
    """Rows of codes (n, d) as a table with the columns, order and types of training; NaN is a missing cell.

    `like` is the table that the codes came from: where `observed` (by default: where it has a value) its own
    cell is kept untouched, its order and its other columns too. Integers are rounded, never clipped to the
    range of training. `sequence` numbers the sequences of the rows, where they are in some.
    """
    values = np.asarray(values)
    if values.ndim != 2 or values.shape[1] != len(schema.variables):
        raise DataError(
            f"codes of shape {values.shape} do not fit a schema of {len(schema.variables)} variables"
        )
    if like is not None and like.num_rows != len(values):
        raise DataError(
            f"{len(values)} rows of codes do not fit the {like.num_rows} rows of the original table"
        )
    place = {column.name: i for i, column in enumerate(schema.variables)}
    decoded = {}
    for column in schema.columns:
        i = place.get(column.name)
        if column.kind == "sequence":
            cells = _sequence(column, sequence, len(values))
        else:
            cells = _constant(column, len(values)) if i is None else cells_of(column, values[:, i])
        if like is not None and column.name in like.column_names:
            mask = None if observed is None or i is None else np.asarray(observed)[:, i]
            cells = _keep(like.column(column.name), mask, cells, column)
        decoded[column.name] = cells
    return _ordered(decoded, like)


def _ordered(decoded: dict[str, pa.ChunkedArray], like: pa.Table | None) -> pa.Table:
    if like is None:
        return pa.table(decoded)
    columns = {name: decoded[name] if name in decoded else like.column(name) for name in like.column_names}
    return pa.table(columns | decoded)


def _sequence(column: ColumnSchema, numbers: np.ndarray | None, n: int) -> pa.ChunkedArray:
    if numbers is None:
        return pa.chunked_array([pa.nulls(n, column.arrow_type)])
    type_ = (
        column.arrow_type if is_text(column.arrow_type) or is_.is_integer(column.arrow_type) else pa.int64()
    )
    return pa.chunked_array([pa.array(numbers).cast(type_)])


def _constant(column: ColumnSchema, n: int) -> pa.ChunkedArray:
    value = column.level_values.take(pa.array(np.zeros(n, np.int64)))
    return pa.chunked_array([_as(value, column.arrow_type)])


def cells_of(column: ColumnSchema, codes: np.ndarray) -> pa.ChunkedArray:
    """Codes of one column as cells."""
    codes = codes.astype(np.float64)
    missing = np.isnan(codes)
    codes = np.where(missing, 0.0, codes)
    if column.has_levels:
        index = np.clip(np.rint(codes), 0, column.size - 1).astype(np.int64)
        found = column.level_values.take(pa.array(index, mask=missing))
    elif column.whole:
        found = _whole(column, column.decode(codes), missing)
    else:
        found = pa.array(column.decode(codes), mask=missing)
    return pa.chunked_array([_as(found, column.arrow_type)])


def _whole(column: ColumnSchema, delta: np.ndarray, missing: np.ndarray) -> pa.Array:
    """`origin + delta`, exact, held within what the type can say."""
    type_ = column.arrow_type
    origin = int(column.origin)
    if is_.is_floating(type_) or is_.is_decimal(type_):
        return pa.array(origin + delta, mask=missing)
    low, high = _limits(type_)
    # A float64 at the edge of int64 rounds up beyond it: stay a little inside.
    inner = np.clip(delta, float(max(low - origin, -(1 << 62))), float(min(high - origin, 1 << 62)))
    steps = np.clip(inner.astype(np.int64), max(low - origin, -(1 << 62)), min(high - origin, 1 << 62))
    if is_.is_uint64(type_):
        moved = (steps.astype(np.uint64) + np.uint64(origin % (1 << 64))).astype(np.uint64)
        return pa.array(moved, mask=missing)
    total = steps + np.int64(origin)
    if is_.is_date64(type_):
        total = total // _DAY["ms"] * _DAY["ms"]
    if is_temporal(type_) and type_.bit_width == 32:
        return pa.array(total.astype(np.int32), mask=missing).cast(type_)
    return pa.array(total, mask=missing)


def _limits(type_: pa.DataType) -> tuple[int, int]:
    if is_.is_integer(type_):
        info = np.iinfo(type_.to_pandas_dtype())
        return int(info.min), int(info.max)
    if is_.is_time(type_):
        return 0, _DAY[type_.unit] - 1
    return -_LIMIT[type_.bit_width], _LIMIT[type_.bit_width]


def _as(values: pa.Array, type_: pa.DataType) -> pa.Array:
    return values if values.type == type_ else values.cast(type_, safe=False)


def _keep(
    own: pa.ChunkedArray, observed: np.ndarray | None, decoded: pa.ChunkedArray, column: ColumnSchema
) -> pa.ChunkedArray:
    """The original cell where observed, in the original type wherever that type can hold the new cells."""
    own = _typed(own, column)
    if is_.is_floating(own.type):
        own = pc.if_else(pc.fill_null(pc.is_nan(own), True), pa.scalar(None, own.type), own)
    kept = pc.is_valid(own)
    if observed is not None:
        kept = pc.and_(kept, pa.chunked_array([pa.array(observed, pa.bool_())]))
    if pc.all(kept).as_py():
        return own
    for type_ in (own.type, decoded.type, pa.float64(), pa.string()):
        try:
            return pc.if_else(kept, _plain(own, type_), _plain(decoded, type_)).cast(type_)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            continue
    raise DataError(
        f"column {column.name!r}: cells of type {own.type} cannot be completed with {column.type}"
    )


def _plain(cells: pa.ChunkedArray, type_: pa.DataType) -> pa.ChunkedArray:
    # Dates may lose what the narrower type cannot say; a number that does not fit must fail.
    return cells.cast(value_type(type_), safe=not (is_.is_float32(type_) or is_temporal(type_)))


def _typed(own: pa.ChunkedArray, column: ColumnSchema) -> pa.ChunkedArray:
    """Text from a file in pieces as what the schema says it is; null where it is not."""
    type_ = value_type(column.arrow_type)
    if not is_text(own.type) or is_text(type_):
        return own
    own = clean(own)
    if is_temporal(type_) and not is_.is_duration(type_):
        return as_dates(own, column.name, where="data").cast(type_, safe=False)
    if is_.is_boolean(type_):
        own = pc.utf8_lower(own)
    elif column.is_real or column.kind == "integer":
        own = as_numbers(own, column.name, where="data")
    try:
        return own.cast(column.arrow_type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return own
