"""What each column of a table is: constant, binary, categorical, integer, continuous or a time."""

import warnings
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as is_

from thalweg.data.cells import Cells, cells, first, plain
from thalweg.data.column import QUANTILES, ColumnSchema, level_tuple
from thalweg.data.types import is_temporal, is_text
from thalweg.errors import DataError, DataWarning

LARGEST_INTEGER_RANGE = 100_000
MOST_LEVELS = 1_000
#: How often a word occurs at least that counts as one, and how many count.
LEAST_WORDS, MOST_WORDS = 2, 100_000
MOST_TARGET_CLASSES = 20
_IDENTIFIER_ROWS = 50
_LARGEST_WHOLE_FLOAT = float(1 << 53)
_SAMPLE = 10_000


def infer_column(
    name: str, column: pa.ChunkedArray, *, decided: str | None, target: bool, where: str
) -> ColumnSchema:
    """The schema of one column; `decided` is the kind the user asked for. Raises `DataError`."""
    here = f"{where}, column {name!r}"
    type_ = str(column.type)
    column = plain(column)
    if decided == "sequence":
        sequence_ids(column, here)
        return ColumnSchema(name, "sequence", type_)
    if is_text(column.type) or is_.is_boolean(column.type) or is_.is_null(column.type):
        found = _words(name, column, decided, here)
    else:
        found = _numbers(name, column, decided, target, here)
    return replace(found, type=type_)


def _words(name: str, column: pa.ChunkedArray, decided: str | None, here: str) -> ColumnSchema:
    if decided in ("continuous", "integer", "datetime"):
        raise DataError(f"{here}: cells of type {column.type} cannot be {decided}: convert the column first")
    # string_view has no sorting kernel everywhere.
    values = column.cast(pa.string()) if is_text(column.type) else column
    if decided == "word" and is_text(column.type):
        return _vocabulary(name, values, here)
    levels = pc.unique(values.drop_null())
    levels = levels.take(pc.sort_indices(levels)) if len(levels) > 1 else levels
    return _levels(name, levels, len(column), column.null_count, decided, here)


def _vocabulary(name: str, values: pa.ChunkedArray, here: str) -> ColumnSchema:
    """The values that occur at least `LEAST_WORDS` times, the most frequent `MOST_WORDS` of them, sorted; a constant
    where they are not two."""
    counted = pc.value_counts(values.drop_null())
    words, counts = counted.field("values"), counted.field("counts")
    frequent = pc.filter(words, pc.greater_equal(counts, LEAST_WORDS))
    if len(frequent) > MOST_WORDS:
        order = pc.sort_indices(counts, sort_keys=[("", "descending")])
        frequent = words.take(order.slice(0, MOST_WORDS))
    if len(frequent) < 2:
        return ColumnSchema(name, "constant", "null", levels=(None,), missing=len(values))
    levels = frequent.take(pc.sort_indices(frequent))
    missing = len(values) - pc.sum(pc.is_in(values, value_set=levels)).as_py()
    return ColumnSchema(name, "word", "null", levels=level_tuple(levels), missing=missing)


def sequence_ids(column: pa.ChunkedArray, here: str, first_row: int = 0) -> np.ndarray:
    """Which sequence each row is of, counted from 0: rows beside each other with one value.

    Raises `DataError` for an empty cell, and where the rows of one sequence lie apart.
    """
    if column.null_count:
        row = pc.index(pc.is_null(column), True).as_py()
        raise DataError(
            f"{here}, row {first_row + row}: the cell is empty, and says of no sequence which it is"
        )
    codes = np.asarray(pc.dictionary_encode(column.combine_chunks()).indices)
    new = np.concatenate([[True], codes[1:] != codes[:-1]]) if len(codes) else np.zeros(0, bool)
    ids = np.cumsum(new) - 1
    if len(codes) and ids[-1] > codes.max():
        again = np.flatnonzero(new & (codes < np.maximum.accumulate(codes)))[0]
        raise DataError(
            f"{here}, row {first_row + again}: {column[int(again)].as_py()!r} comes up a second time, apart from "
            "its other rows: sort the table by this column, each sequence in its order"
        )
    return ids.astype(np.int64)


def _numbers(
    name: str, column: pa.ChunkedArray, decided: str | None, target: bool, here: str
) -> ColumnSchema:
    found = cells(column)
    infinite = np.isinf(found.values) & found.present
    if infinite.any():
        row = first(infinite)
        raise DataError(
            f"{here}, row {row}: the value is {found.values[row]}, not a finite number: "
            "replace it, or leave the cell empty"
        )
    values = np.sort(found.values[found.present])
    new = np.ones(len(values), bool)
    new[1:] = values[1:] != values[:-1]
    distinct = values[new]
    missing = len(column) - len(values)
    kind = decided or _kind(column.type, found, distinct, target)
    if len(distinct) <= 1 or kind in ("binary", "categorical"):
        levels = plain(pc.unique(pc.drop_null(_typed(distinct, found, column.type))))
        return _levels(name, levels, len(column), missing, decided or kind, here)
    if (kind == "datetime") != is_temporal(column.type):
        raise DataError(f"{here}: cells of type {column.type} cannot be {kind}: convert the column first")
    return _measured(
        name, kind, Cells(values, np.ones(len(values), bool), found.bias), distinct, missing, here
    )


def _kind(type_: pa.DataType, found: Cells, distinct: np.ndarray, target: bool) -> str:
    if len(distinct) == 2:
        return "binary"
    if is_temporal(type_):
        return "datetime"
    if not _is_whole(distinct) or len(distinct) == 0:
        return "continuous"
    if target and len(distinct) <= MOST_TARGET_CLASSES:
        return "categorical"
    return "integer" if int(distinct[-1]) - int(distinct[0]) <= LARGEST_INTEGER_RANGE else "continuous"


def _is_whole(values: np.ndarray) -> bool:
    if values.dtype.kind == "i":
        return True
    small = np.abs(values) < _LARGEST_WHOLE_FLOAT
    return bool(np.all(small) and np.all(values == np.rint(values)))


def _typed(distinct: np.ndarray, found: Cells, type_: pa.DataType) -> pa.Array:
    if found.bias:
        return pa.array((distinct.view(np.uint64) ^ np.uint64(1 << 63)), pa.uint64())
    if is_.is_decimal(type_):
        return pa.array(distinct).cast(type_, safe=False)
    values = pa.array(distinct)
    if is_temporal(type_) and type_.bit_width == 32:
        values = values.cast(pa.int32())
    return values.cast(type_)


def _levels(
    name: str, levels: pa.Array, rows: int, missing: int, decided: str | None, here: str
) -> ColumnSchema:
    count = len(levels)
    if count == 0:
        warnings.warn(
            DataWarning(f"{here}: every cell is missing, so nothing is learned about it"), stacklevel=2
        )
        return ColumnSchema(name, "constant", "null", levels=(None,), missing=missing)
    if decided == "binary" and count > 2:
        raise DataError(f"{here}: {count} different values cannot be binary: say categorical")
    if decided == "word":
        raise DataError(f"{here}: cells of that type cannot be words: convert the column to text first")
    if count > MOST_LEVELS:
        raise DataError(
            f"{here}: {count:,} different values are too many categories (at most {MOST_LEVELS:,}), it looks "
            f"like an identifier or free text: drop it with --drop {name} (drop=[{name!r}]), or group values"
        )
    filled = rows - missing
    if decided not in ("categorical", "binary") and filled > _IDENTIFIER_ROWS and count > filled / 2:
        raise DataError(
            f"{here}: {count:,} different values in {filled:,} cells look like an identifier: drop it with "
            f"--drop {name} (drop=[{name!r}]), or keep it with --kind {name}=categorical"
        )
    kind = "constant" if count == 1 else "binary" if count == 2 else "categorical"
    return ColumnSchema(name, kind, "null", levels=level_tuple(levels), missing=missing)  # type: ignore[arg-type]


def _measured(
    name: str, kind: str, values: Cells, distinct: np.ndarray, missing: int, here: str
) -> ColumnSchema:
    whole = _is_whole(distinct)
    if kind == "integer" and not whole:
        raise DataError(f"{here}: not every value is a whole number, so it cannot be integer: say continuous")
    low, high = ((int(v) + values.bias if whole else float(v)) for v in (distinct[0], distinct[-1]))
    if kind == "integer" and high - low > LARGEST_INTEGER_RANGE:
        raise DataError(
            f"{here}: its values range over {high - low:,}, more than the {LARGEST_INTEGER_RANGE:,} that are "
            "counted one by one: say continuous"
        )
    column = ColumnSchema(name, kind, "null", whole, minimum=low, maximum=high, missing=missing)  # type: ignore[arg-type]
    center, std = _moments(values.less(column.origin))
    column = replace(column, center=center, std=std)
    if column.is_real:
        column = replace(column, step=_step(distinct) if whole else 1)
        _refuse_collapse(column, Cells(distinct, np.ones(len(distinct), bool), values.bias), here)
    places = np.rint(np.linspace(0, len(values.values) - 1, QUANTILES)).astype(int)
    chosen = Cells(values.values[places], np.ones(QUANTILES, bool), values.bias)
    return replace(column, quantiles=tuple(column.encode(chosen).tolist()))


def _moments(values: np.ndarray) -> tuple[float, float]:
    """Mean and deviation, safe where sums and squares would overflow float64."""
    scale = float(np.max(np.abs(values))) or 1.0
    scaled = values / scale
    return float(scaled.mean() * scale), float(scaled.std() * scale)


def _step(distinct: np.ndarray) -> int:
    """The greatest common divisor of the gaps between whole numbers, where float64 can still count in it."""
    gaps = np.diff(distinct.astype(np.int64))
    step = int(np.gcd.reduce(gaps)) if np.all(gaps > 0) else 1
    return step if step < _LARGEST_WHOLE_FLOAT else 1


def _refuse_collapse(column: ColumnSchema, distinct: Cells, here: str) -> None:
    """Raise `DataError` where float32 codes would merge values that are not nearly equal."""
    some = distinct.values[:: max(1, len(distinct.values) // _SAMPLE)]
    sample = Cells(some, np.ones(len(some), bool), distinct.bias)
    fraction, exponent = np.frexp(sample.less(0))
    different = len(np.unique(np.ldexp(np.rint(fraction * (1 << 22)), exponent - 22)))
    usable = np.isfinite(column.std) and column.std > 0
    codes = len(np.unique(column.encode(sample).astype(np.float32))) if usable else 0
    if codes < 0.75 * different:
        raise DataError(
            f"{here}: its values range from {column.minimum} to {column.maximum}, so far apart that others "
            "become equal in 32 bits: take logarithms, correct the extreme values, or leave it out with "
            f"--drop {column.name} (drop=[{column.name!r}])"
        )
