"""The Arrow types that a column may have, by family and by name."""

import re

import pyarrow as pa
import pyarrow.types as is_

from thalweg.errors import DataError

_UNITS = ("s", "ms", "us", "ns")
_SIMPLE = {
    str(t): t
    for t in (
        *(pa.int8(), pa.int16(), pa.int32(), pa.int64()),
        *(pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()),
        *(pa.float16(), pa.float32(), pa.float64(), pa.bool_(), pa.null()),
        *(pa.string(), pa.large_string(), pa.string_view(), pa.date32(), pa.date64()),
        *(pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns")),
        *(pa.timestamp(unit) for unit in _UNITS),
        *(pa.duration(unit) for unit in _UNITS),
    )
}
_ZONED = re.compile(r"timestamp\[(s|ms|us|ns), tz=([\w+\-:/]{1,64})\]")
_DECIMAL = re.compile(r"decimal(128|256)\((\d{1,2}), (-?\d{1,2})\)")
_DICTIONARY = re.compile(r"dictionary<values=(.+), indices=(u?int(?:8|16|32|64)), ordered=([01])>")


def is_text(type_: pa.DataType) -> bool:
    return is_.is_string(type_) or is_.is_large_string(type_) or is_.is_string_view(type_)


def is_temporal(type_: pa.DataType) -> bool:
    """Dates, times and durations: whole numbers of their own unit."""
    return is_.is_temporal(type_) and not is_.is_interval(type_)


def is_number(type_: pa.DataType) -> bool:
    return is_.is_integer(type_) or is_.is_floating(type_) or is_.is_decimal(type_)


def value_type(type_: pa.DataType) -> pa.DataType:
    """The type of the values of a dictionary, or the type itself."""
    return type_.value_type if is_.is_dictionary(type_) else type_


def is_supported(type_: pa.DataType) -> bool:
    inner = value_type(type_)
    known = (
        is_text(inner)
        or is_temporal(inner)
        or is_number(inner)
        or is_.is_boolean(inner)
        or is_.is_null(inner)
    )
    return known and str(type_) == str(_parse(str(type_)))


def parse_type(text: str) -> pa.DataType:
    """The Arrow type that prints as `text`; raises `DataError` for any other text."""
    parsed = _parse(text)
    if parsed is None:
        raise DataError(f"{text!r} is not a column type that Thalweg knows")
    return parsed


def _parse(text: str) -> pa.DataType | None:
    if text in _SIMPLE:
        return _SIMPLE[text]
    if found := _ZONED.fullmatch(text):
        return pa.timestamp(found[1], found[2])
    if found := _DECIMAL.fullmatch(text):
        make = pa.decimal128 if found[1] == "128" else pa.decimal256
        try:
            return make(int(found[2]), int(found[3]))
        except (ValueError, pa.ArrowException):
            return None
    if found := _DICTIONARY.fullmatch(text):
        values = _SIMPLE.get(found[1])
        return None if values is None else pa.dictionary(_SIMPLE[found[2]], values, found[3] == "1")
    return None
