"""The schema as plain JSON, and back: exact, and never trusted."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from thalweg.data.column import KINDS, QUANTILES, ColumnSchema, level_array
from thalweg.data.infer import LARGEST_INTEGER_RANGE, MOST_LEVELS, MOST_WORDS
from thalweg.data.types import parse_type, value_type
from thalweg.errors import DataError

if TYPE_CHECKING:
    from thalweg.data.schema import Schema

_FIELDS = tuple(field.name for field in fields(ColumnSchema))


def schema_to_dict(schema: Schema) -> dict[str, Any]:
    """Plain JSON: numbers, text, booleans, lists and None."""
    return {
        "rows": schema.rows,
        "grid": list(schema.grid),
        "target": schema.target,
        "columns": [_column_to_dict(column) for column in schema.columns],
    }


def schema_from_dict(content: Mapping[str, Any]) -> Schema:
    """The schema, once all of it has been checked; raises `DataError` naming the part that is wrong."""
    from thalweg.data.schema import Schema

    _check(isinstance(content, Mapping), "it is not an object")
    _check(
        set(content) == {"rows", "grid", "target", "columns"},
        "its keys are not rows, grid, target and columns",
    )
    rows, grid, target = content["rows"], content["grid"], content["target"]
    _check(_is_int(rows) and rows >= 2, "rows is not a count of at least 2")
    _check(
        isinstance(grid, list) and all(_is_int(size) and size > 0 for size in grid),
        "grid is not a list of sizes",
    )
    _check(isinstance(content["columns"], list) and len(content["columns"]) > 0, "columns is not a list")
    columns = tuple(map(_column_from_dict, content["columns"]))
    names = [column.name for column in columns]
    _check(len(set(names)) == len(names), "two columns have one name")
    _check(not grid or math.prod(grid) <= len(columns), "grid has more pixels than there are columns")
    _check(any(column.kind not in ("constant", "sequence") for column in columns), "every column is constant")
    _check(sum(column.kind == "sequence" for column in columns) <= 1, "two columns tell sequences apart")
    _check(target is None or target in names, "target is not one of the columns")
    return Schema(columns, rows, tuple(grid), target)


def _column_to_dict(column: ColumnSchema) -> dict[str, Any]:
    content = {name: getattr(column, name) for name in _FIELDS}
    return {**content, "levels": list(column.levels), "quantiles": list(column.quantiles)}


def _column_from_dict(content: Any) -> ColumnSchema:
    _check(
        isinstance(content, Mapping) and set(content) == set(_FIELDS),
        f"a column's keys are not {', '.join(_FIELDS)}",
    )
    name = content["name"]
    _check(isinstance(name, str) and bool(name.strip()), f"a column is named {name!r}")
    column = ColumnSchema(
        **{**content, "levels": _tuple(content, "levels"), "quantiles": _tuple(content, "quantiles")}
    )
    here = f"column {name!r}: "
    _check(column.kind in KINDS, f"{here}there is no kind {column.kind!r}")
    _check(isinstance(column.type, str), f"{here}its type is not text")
    type_ = parse_type(column.type)
    _check(isinstance(column.whole, bool), f"{here}whole is not true or false")
    _check(_is_int(column.step) and 1 <= column.step < 1 << 53, f"{here}step is not a distance")
    _check(_is_int(column.missing) and column.missing >= 0, f"{here}missing is not a count")
    _check(
        _is_finite(column.center) and _is_finite(column.std) and column.std > 0,
        f"{here}center or std is not usable",
    )
    if column.kind == "sequence":
        _check(
            not column.levels and not column.quantiles,
            f"{here}a sequence column has no levels and no quantiles",
        )
        return column
    if column.has_levels:
        return _with_levels(column, type_, here)
    _check_measured(column, type_, here)
    return column


def _with_levels(column: ColumnSchema, type_: pa.DataType, here: str) -> ColumnSchema:
    count = len(column.levels)
    allowed = {
        "constant": count == 1,
        "binary": count == 2,
        "categorical": 2 <= count <= MOST_LEVELS,
        "word": 2 <= count <= MOST_WORDS,
    }
    _check(allowed[column.kind], f"{here}{count} levels do not make it {column.kind}")
    _check(not column.quantiles, f"{here}a {column.kind} column has no quantiles")
    _check(column.kind == "constant" or None not in column.levels, f"{here}a level is null")
    _check(
        all(isinstance(v, str | bool | int | float | None) for v in column.levels),
        f"{here}a level is no plain value",
    )
    _check(
        not any(isinstance(v, float) and not math.isfinite(v) for v in column.levels),
        f"{here}a level is not finite",
    )
    try:
        values = level_array(column.levels, value_type(type_))
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"the schema is damaged: {here}its levels are not of type {column.type} ({error})"
        ) from error
    _check(len(values.unique()) == count, f"{here}two levels are equal")
    return column


def _check_measured(column: ColumnSchema, type_: pa.DataType, here: str) -> None:
    low, high = column.minimum, column.maximum
    number = _is_int if column.whole else _is_finite
    _check(number(low) and number(high) and low < high, f"{here}minimum and maximum are not a range")  # type: ignore[operator]
    _check(not column.levels, f"{here}a {column.kind} column has no levels")
    quantiles = column.quantiles
    _check(
        len(quantiles) == QUANTILES and all(map(_is_finite, quantiles)),
        f"{here}not {QUANTILES} finite quantiles",
    )
    _check(
        all(a <= b for a, b in itertools.pairwise(quantiles)),
        f"{here}its quantiles are not sorted",
    )
    _check(quantiles[0] < quantiles[-1], f"{here}its quantiles are all equal")
    if column.kind == "integer":
        _check(
            column.whole and column.size - 1 <= LARGEST_INTEGER_RANGE,
            f"{here}its range is too large to count",
        )
        widest = column.size - 1
        _check(
            0 <= column.center <= widest and 1e-9 <= column.std <= widest,
            f"{here}center or std is not one of counts up to {widest:,}",
        )
    temporal = pa.types.is_temporal(type_)
    _check(
        (column.kind == "datetime") == temporal, f"{here}{column.kind} does not go with type {column.type}"
    )
    numeric = pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_decimal(type_)
    _check(temporal or numeric, f"{here}{column.kind} does not go with type {column.type}")
    within = not column.whole or -(1 << 63) <= int(low or 0) <= int(high or 0) < 1 << 64
    _check(within, f"{here}minimum and maximum are no 64-bit integers")


def _tuple(content: Mapping[str, Any], key: str) -> tuple[Any, ...]:
    _check(isinstance(content[key], list), f"column {content['name']!r}: {key} is not a list")
    return tuple(content[key])


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def _check(condition: bool, what: str) -> None:
    if not condition:
        raise DataError(f"the schema is damaged: {what}; copy the model again, or fit it again")
