"""Looking categories up: which level each cell is, whatever type it arrives in."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as is_

from thalweg.data.column import ColumnSchema
from thalweg.data.text import clean, is_numeric
from thalweg.data.types import is_number, is_temporal, is_text


def places(column: ColumnSchema, cells: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The level of each cell (0 where none), which are known, and which hold a value that is no level."""
    levels = column.level_values
    if is_text(cells.type):
        cells = clean(cells) if not is_text(levels.type) else cells
    matched = _alike(cells, levels.type)
    if is_.is_floating(levels.type):
        levels = pc.add(levels.cast(pa.float64()), 0.0)
    elif is_text(levels.type):
        levels = levels.cast(pa.string())
    found = pc.index_in(matched, value_set=levels)
    known = np.asarray(pc.is_valid(found), bool)
    present = np.asarray(pc.is_valid(cells), bool)
    if is_.is_floating(cells.type):
        present &= ~np.asarray(pc.fill_null(pc.is_nan(cells), False), bool)
    codes = np.asarray(found.fill_null(0).to_numpy(), np.float64)
    return codes, known & present, present & ~known


def _alike(cells: pa.ChunkedArray, type_: pa.DataType) -> pa.ChunkedArray:
    """The cells as the type of the levels; null where a cell cannot be of that type."""
    if is_text(type_):
        return _as_text(cells)
    if is_.is_floating(type_):
        return pc.add(_as_number(cells), 0.0)  # -0.0 is 0.0
    if is_.is_boolean(type_) and is_text(cells.type):
        lower = pc.utf8_lower(cells)
        said = pc.is_in(lower, value_set=pa.array(["true", "false", "1", "0"]))
        return pc.if_else(said, lower, pa.scalar(None, pa.string())).cast(pa.bool_())
    if is_.is_boolean(type_) and is_number(cells.type):
        number = _as_number(cells)
        return pc.if_else(pc.is_in(number, value_set=pa.array([0.0, 1.0])), number, None).cast(pa.bool_())
    return _cast_or_null(cells, type_)


def _as_text(cells: pa.ChunkedArray) -> pa.ChunkedArray:
    if is_text(cells.type):
        return cells.cast(pa.string())
    if is_.is_floating(cells.type):
        # The 1.0 that pandas makes of a 1 beside a missing cell is the category "1".
        values = cells.cast(pa.float64())
        small = pc.less(pc.abs(values), 2.0**53)
        whole = pc.and_(small, pc.equal(values, pc.trunc(values)))
        integers = pc.if_else(whole, values, None).cast(pa.int64()).cast(pa.string())
        return pc.coalesce(integers, values.cast(pa.string()))
    return cells.cast(pa.string())


def _as_number(cells: pa.ChunkedArray) -> pa.ChunkedArray:
    if is_text(cells.type):
        cells = pc.if_else(is_numeric(cells), cells, pa.scalar(None, pa.string()))
    return _cast_or_null(cells, pa.float64())


def _cast_or_null(cells: pa.ChunkedArray, type_: pa.DataType) -> pa.ChunkedArray:
    if cells.type == type_:
        return cells
    if is_.is_duration(type_) and is_text(cells.type):
        return _cast_or_null(_cast_or_null(cells, pa.int64()), type_)
    if (
        is_.is_integer(type_)
        and (is_text(cells.type) or is_.is_floating(cells.type))
        and not is_temporal(cells.type)
    ):
        number = _as_number(cells)
        within = pc.and_(pc.equal(number, pc.trunc(number)), pc.less(pc.abs(number), 2.0**53))
        if is_.is_floating(cells.type):
            cells = pc.if_else(within, number, None).cast(pa.int64())
        else:
            cells = pc.if_else(within, cells, pa.scalar(None, pa.string()))
    try:
        return cells.cast(type_, safe=not is_temporal(type_))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return _one_by_one(cells, type_)


def _one_by_one(cells: pa.ChunkedArray, type_: pa.DataType) -> pa.ChunkedArray:
    """The slow way, for the rare column in which some cell cannot be cast: distinct values one at a time."""
    encoded = pc.dictionary_encode(cells).combine_chunks()
    cast = [_one(value, type_) for value in encoded.dictionary]
    values = pa.array([value.as_py() if value.is_valid else None for value in cast], type_)
    return pa.chunked_array([values.take(encoded.indices)])


def _one(value: pa.Scalar, type_: pa.DataType) -> pa.Scalar:
    try:
        return value.cast(type_)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError):
        return pa.scalar(None, type_)
