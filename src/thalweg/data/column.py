"""What the schema knows of one column, and the codes of its numbers."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from thalweg.data.cells import Cells
from thalweg.data.types import is_temporal, parse_type, value_type

Kind = Literal["continuous", "integer", "categorical", "binary", "word", "datetime", "constant", "sequence"]
KINDS: tuple[str, ...] = get_args(Kind)
#: Codes are kept where their squares are still finite in float32.
FARTHEST = 1e18
#: How many quantiles a column keeps.
QUANTILES = 65


@dataclass(frozen=True)
class ColumnSchema:
    r"""One column as training saw it.

    A continuous or datetime cell has the code \((v - origin - center) / std\), an integer \(v - minimum\), a
    category its place among `levels`. `type` names its Arrow type, `whole` says that every value was a whole
    number (of the type's unit, for times), `step` the largest one that all distances from the minimum are
    multiples of: decoded dates and large integers keep to it. `minimum`, `maximum`, `std` are in the user's
    units (times: in the type's unit), `quantiles` are 65 evenly spaced quantiles in codes, `missing` counts
    missing cells. `levels` are the original values, sorted (dates as ISO text); a constant has one, None
    if all are missing, and a word those that are not rare: others are as missing. A `sequence` column says which
    rows belong together, those beside each other with one value, and is in no row's code.
    """

    name: str
    kind: Kind
    type: str
    whole: bool = False
    step: int = 1
    center: float = 0.0
    std: float = 1.0
    minimum: int | float | None = None
    maximum: int | float | None = None
    levels: tuple[Any, ...] = ()
    quantiles: tuple[float, ...] = ()
    missing: int = 0

    @property
    def mean(self) -> float:
        """The mean in the user's units."""
        return float(self.origin + self.center)

    @property
    def origin(self) -> int | float:
        """What is subtracted first, exactly: the minimum of whole numbers, 0 of others."""
        return self.minimum if self.whole and self.minimum is not None else 0

    @property
    def is_real(self) -> bool:
        return self.kind in ("continuous", "datetime")

    @property
    def has_levels(self) -> bool:
        return self.kind in ("categorical", "binary", "word", "constant")

    @property
    def size(self) -> int:
        """How many values an integer or categorical column has; 0 for a real one."""
        if self.is_real:
            return 0
        return len(self.levels) if self.has_levels else int(self.maximum or 0) - int(self.minimum or 0) + 1

    @cached_property
    def arrow_type(self) -> pa.DataType:
        return parse_type(self.type)

    @cached_property
    def level_values(self) -> pa.Array:
        """The levels as an Arrow array of the column's own value type (times: of int64)."""
        return level_array(self.levels, value_type(self.arrow_type))

    def encode(self, cells: Cells) -> np.ndarray:
        """Codes in float64 of the numbers of a real or integer column; anything where not present."""
        delta = cells.less(self.origin)
        if self.kind == "integer":
            return delta
        # Halves, because the difference of two numbers near 1.8e308 is not finite.
        with np.errstate(over="ignore", invalid="ignore"):
            return (delta / 2 - self.center / 2) / (self.std / 2)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """`value - origin` in float64, rounded where every value was whole."""
        if self.kind == "integer":
            return np.rint(codes)
        with np.errstate(over="ignore"):
            delta = codes * self.std + self.center
        return np.rint(delta / self.step) * self.step if self.whole else delta


def level_array(levels: tuple[Any, ...], type_: pa.DataType) -> pa.Array:
    """Levels as JSON knows them (text, numbers, booleans; text for times and decimals) as Arrow's `type_`."""
    if pa.types.is_decimal(type_):
        return pa.array(list(levels), pa.string()).cast(type_)
    if not is_temporal(type_):
        return pa.array(list(levels), type_)
    text = pa.array(list(levels), pa.string())
    if pa.types.is_time(type_):
        return pc.binary_join_element_wise("1970-01-01", text, " ").cast(pa.timestamp(type_.unit)).cast(type_)
    if pa.types.is_duration(type_):
        return text.cast(pa.int64()).cast(type_)
    if pa.types.is_timestamp(type_) and type_.tz:
        return text.cast(pa.timestamp(type_.unit)).cast(pa.int64()).cast(type_)
    return text.cast(type_)


def level_tuple(values: pa.Array) -> tuple[Any, ...]:
    """The inverse of `level_array`."""
    type_ = values.type
    if pa.types.is_decimal(type_):
        return tuple(values.cast(pa.string()).to_pylist())
    if not is_temporal(type_):
        return tuple(values.to_pylist())
    if pa.types.is_duration(type_):
        values = values.cast(pa.int64())
    elif pa.types.is_timestamp(type_) and type_.tz:
        values = values.cast(pa.int64()).cast(pa.timestamp(type_.unit))
    return tuple(values.cast(pa.string()).to_pylist())
