"""The cells of a column as NumPy arrays, exact: int64 for whole numbers and times, float64 for the rest."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as is_

from thalweg.data.types import is_temporal, value_type


@dataclass(frozen=True)
class Cells:
    """`values` where `present`, anything elsewhere; a whole number is `values + bias` (2**63 for uint64)."""

    values: np.ndarray
    present: np.ndarray
    bias: int = 0

    @property
    def whole(self) -> bool:
        return self.values.dtype.kind == "i"

    def less(self, origin: int | float) -> np.ndarray:
        """`value - origin` in float64, with the difference of whole numbers taken exactly."""
        if not self.whole:
            return self.values - np.float64(origin)
        shift = int(origin) - self.bias
        if not -(1 << 63) <= shift < 1 << 63:
            return self.values.astype(np.float64) - np.float64(shift)
        with np.errstate(over="ignore"):
            difference = self.values - np.int64(shift)
        # Differences that wrapped around have the wrong sign.
        wrapped = ((self.values ^ np.int64(shift)) & (self.values ^ difference)) < 0
        if wrapped.any():
            return np.where(wrapped, self.values.astype(np.float64) - np.float64(shift), difference)
        return difference.astype(np.float64)


def cells(column: pa.ChunkedArray) -> Cells:
    """A column of numbers, booleans, dates or times; NaN is missing."""
    type_ = column.type
    present = (
        np.asarray(pc.is_valid(column).to_numpy(zero_copy_only=False), bool) if column.null_count else None
    )
    if is_.is_floating(type_) or is_.is_decimal(type_):
        values = _numpy(column if type_ == pa.float64() else column.cast(pa.float64()), 0.0)
        known = ~np.isnan(values)
        return Cells(values, known if present is None else known & present)
    bias = 0
    if is_.is_uint64(type_):
        values, bias = (_numpy(column, 0) ^ np.uint64(1 << 63)).view(np.int64), 1 << 63
    else:
        values = _numpy(_as_int64(column), 0)
    return Cells(values, np.ones(len(column), bool) if present is None else present, bias)


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column without dictionary encoding."""
    return column.cast(value_type(column.type)) if is_.is_dictionary(column.type) else column


def first(mask: np.ndarray) -> int:
    """The position of the first True."""
    return int(np.argmax(mask))


def _as_int64(column: pa.ChunkedArray) -> pa.ChunkedArray:
    type_ = column.type
    if is_temporal(type_) and type_.bit_width == 32:
        column = column.cast(pa.int32())
    return column.cast(pa.int64())


def _numpy(column: pa.ChunkedArray, missing: float | int) -> np.ndarray:
    filled = column.fill_null(missing) if column.null_count else column
    return np.asarray(filled.to_numpy())
