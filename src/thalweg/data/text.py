"""Cells of text and what they say: missing, whole numbers, numbers, dates, booleans or categories."""

from collections.abc import Callable
from typing import TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from thalweg.data.types import is_text
from thalweg.errors import DataError, SchemaError

#: What people write where there is no value, in any case.
MISSING = ("", "na", "n/a", "nan", "null", "none", "?")
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
# 007 and 0x1F are codes: as numbers they would not come back as they were.
_CODE = r"^[+-]?0[0-9xX]"
_COMMA = r"^[+-]?\d+,\d+$"
_MOSTLY = 0.9
_FEW = 20

Text: TypeAlias = pa.ChunkedArray


def clean(column: Text) -> Text:
    """The text without surrounding blanks, null where it says that there is no value."""
    trimmed = pc.utf8_trim_whitespace(column.cast(pa.string()))
    missing = pc.is_in(pc.utf8_lower(trimmed), value_set=pa.array(MISSING))
    return pc.if_else(missing, pa.scalar(None, pa.string()), trimmed)


def clean_table(table: pa.Table) -> pa.Table:
    """A table whose every column is clean text."""
    return pa.table([clean(column) for column in table.columns], names=table.column_names)


def typed(column: Text, name: str, *, kind: str | None, where: str) -> pa.ChunkedArray:
    """Clean text as the first of int64, uint64, double, date, timestamp, bool and text that it fits.

    `kind` is what the user decided, if anything. Raises `DataError` naming `where`, the column, the row and
    the word for a column of numbers with a few words in it.
    """
    if column.null_count == len(column):
        return pa.chunked_array([pa.nulls(len(column))])
    if kind in ("continuous", "integer"):
        return as_numbers(column, name, where=where, error=DataError)
    if kind == "datetime":
        return as_dates(column, name, where=where, error=DataError)
    for attempt in (_numbers, _dates, _booleans):
        found = attempt(column)
        if found is not None:
            return found
    if kind is None:
        _refuse_words_among_numbers(column, name, where)
    return column


def as_numbers(
    column: Text, name: str, *, where: str, error: type[DataError] = SchemaError, first_row: int = 0
) -> pa.ChunkedArray:
    """Clean text as int64, uint64 or double; raises `error` naming the first cell that is no number."""
    for type_ in (pa.int64(), pa.uint64(), pa.float64()):
        found = _cast(column, type_)
        if found is not None:
            return found
    row = _first_failure(column, lambda part: _cast(part, pa.float64()) is not None)
    raise error(
        f"{where}, column {name!r}, row {first_row + row}: {column[row].as_py()!r} is not a number: "
        "fix the cell, or leave it empty if the value is not known"
    )


def as_dates(
    column: Text, name: str, *, where: str, error: type[DataError] = SchemaError, first_row: int = 0
) -> pa.ChunkedArray:
    """Clean text as dates or timestamps; raises `error` naming the first cell that is not one."""
    found = _dates(column)
    if found is not None:
        return found
    row = _first_failure(column, lambda part: _dates(part) is not None)
    raise error(
        f"{where}, column {name!r}, row {first_row + row}: {column[row].as_py()!r} is not an ISO date or "
        "time (2026-01-31 or 2026-01-31T12:30:00): fix the cell, or leave it empty"
    )


def is_numeric(column: Text) -> pa.ChunkedArray:
    """Which cells of clean text are written as a number."""
    return pc.match_substring_regex(column, _NUMBER)


def _numbers(column: Text) -> pa.ChunkedArray | None:
    if not is_text(column.type) or pc.any(pc.match_substring_regex(column, _CODE)).as_py():
        return None
    for type_ in (pa.int64(), pa.uint64(), pa.float64()):
        found = _cast(column, type_)
        if found is not None:
            return found
    return None


def _dates(column: Text) -> pa.ChunkedArray | None:
    types = (pa.date32(), pa.timestamp("us"), pa.timestamp("ns"), pa.timestamp("us", "UTC"))
    return next((found for type_ in types if (found := _cast(column, type_)) is not None), None)


def _booleans(column: Text) -> pa.ChunkedArray | None:
    lower = pc.utf8_lower(column)
    said = pc.is_in(pc.drop_null(lower), value_set=pa.array(["true", "false"]))
    return lower.cast(pa.bool_()) if pc.all(said).as_py() else None


def _cast(column: Text, type_: pa.DataType) -> pa.ChunkedArray | None:
    try:
        return column.cast(type_)
    except pa.ArrowInvalid:
        return None


def _first_failure(column: Text, succeeds: Callable[[Text], bool]) -> int:
    """The first cell that alone makes a conversion fail, by bisection."""
    low, high = 0, len(column)
    while high - low > 1:
        middle = (low + high) // 2
        if succeeds(column.slice(low, middle - low)):
            low = middle
        else:
            high = middle
    return low


def _refuse_words_among_numbers(column: Text, name: str, where: str) -> None:
    _refuse_commas(column, name, where)
    numeric = is_numeric(column)
    share = pc.mean(numeric.cast(pa.float64())).as_py()
    if share < _MOSTLY or pc.count_distinct(column.filter(numeric)).as_py() <= _FEW:
        return
    row = pc.index(numeric, False).as_py()
    if row < 0 or pc.any(pc.match_substring_regex(column, _CODE)).as_py():
        return
    raise DataError(
        f"{where}, column {name!r}, row {row}: {column[row].as_py()!r} is not a number, and {share:.1%} "
        f"of the column are: fix the cell (empty means missing), or say --kind {name}=categorical "
        f"(kinds={{{name!r}: 'categorical'}})"
    )


def _refuse_commas(column: Text, name: str, where: str) -> None:
    commas = pc.match_substring_regex(column, _COMMA)
    if pc.mean(commas.cast(pa.float64())).as_py() < _MOSTLY:
        return
    row = pc.index(commas, True).as_py()
    raise DataError(
        f"{where}, column {name!r}, row {row}: {column[row].as_py()!r} has a comma: write decimals with "
        f"a point and thousands without a mark, or say --kind {name}=categorical"
    )
