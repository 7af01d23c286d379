"""The schema: what the columns of a table are, and the way from cells to codes and back."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int

from thalweg.data.codec import encode
from thalweg.data.column import ColumnSchema
from thalweg.data.dataset import Dataset
from thalweg.data.decode import cells_of, decode
from thalweg.data.infer import infer_column
from thalweg.data.load import near_name
from thalweg.data.rows import Rows
from thalweg.data.wire import schema_from_dict, schema_to_dict
from thalweg.energy.spaces import Column, Record
from thalweg.errors import DataError, SettingsError

_FEW_VALUES = 256
_EVEN = 64


@dataclass(frozen=True)
class Schema:
    """The columns of a table of `rows` rows, the image `grid` that the first ones form, and the `target`."""

    columns: tuple[ColumnSchema, ...]
    rows: int
    grid: tuple[int, ...] = ()
    target: str | None = None

    @classmethod
    def infer(cls, dataset: Dataset, target: str | None = None, *, classes: bool = True) -> "Schema":
        """What each column of `dataset` is; a target of few whole numbers is one of `classes`, unless they are not.

        Raises `DataError` for fewer than two rows, nothing but constants, an absent or constant target,
        infinite values, text that looks like an identifier and numbers that float32 cannot tell apart.
        """
        names = dataset.table.column_names
        if target is not None and target not in names:
            raise DataError(
                f"{dataset.where} has no column {target!r} to predict: {near_name(target, names)}"
            )
        if len(dataset) < 2:
            raise DataError(
                f"{dataset.where} has {len(dataset)} row, which does not show what varies: an energy is "
                "learned from at least 2 rows"
            )

        def column_as(name: str, decided: str | None) -> ColumnSchema:
            column = dataset.table.column(name)
            few = name == target and classes
            return infer_column(name, column, decided=decided, target=few, where=dataset.where)

        found = {name: column_as(name, dataset.kinds.get(name)) for name in names}
        pixels = names[: math.prod(dataset.grid)] if dataset.grid else []
        kinds = {found[name].kind for name in pixels}
        shared = next((kind for kind in ("continuous", "integer") if kind in kinds), None)
        for name in pixels:
            # A pixel at the edge of an image of many grey levels may have shown two of them.
            if shared and found[name].kind == "binary" and name not in dataset.kinds:
                found[name] = column_as(name, shared)
        columns = tuple(found.values())
        _check_something_varies(columns, target, dataset.where)
        return cls(columns, len(dataset), tuple(int(size) for size in dataset.grid), target)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """All column names, constants too, in their original order."""
        return tuple(column.name for column in self.columns)

    @cached_property
    def variables(self) -> tuple[ColumnSchema, ...]:
        """The columns of the space: all that are not constant and do not tell sequences apart."""
        return tuple(column for column in self.columns if column.kind not in ("constant", "sequence"))

    @cached_property
    def sequence(self) -> str | None:
        """The column that says which rows belong together; None where each row is by itself."""
        return next((column.name for column in self.columns if column.kind == "sequence"), None)

    def __getitem__(self, name: str) -> ColumnSchema:
        for column in self.columns:
            if column.name == name:
                return column
        raise SettingsError(f"there is no column {name!r}: {near_name(name, self.names)}")

    def index(self, name: str) -> int:
        """The position of a column in the space; raises `SettingsError` with the nearest name."""
        if self[name].kind == "sequence":
            raise SettingsError(
                f"column {name!r} says which rows belong together, and is not to be asked for"
            )
        if self[name].kind == "constant":
            raise SettingsError(f"column {name!r} was constant in training, so the energy does not see it")
        return [column.name for column in self.variables].index(name)

    @cached_property
    def space(self) -> Record:
        """The record space of the codes."""
        places = dict(zip(self.names, np.ndindex(*self.grid), strict=False)) if self.grid else {}
        return Record(tuple(_space_column(column, places.get(column.name, ())) for column in self.variables))

    def encode(
        self,
        table: pa.Table | np.ndarray,
        *,
        first_row: int = 0,
        name: str = "data",
        partial: bool | Collection[str] = False,
        counted: Collection[int] | None = None,
        unread: Collection[str] = (),
    ) -> Rows:
        """Cells as codes: see `thalweg.data.codec.encode`."""
        return encode(
            self, table, first_row=first_row, name=name, partial=partial, counted=counted, unread=unread
        )

    def decode(
        self,
        values: Float[np.ndarray, "n d"],
        *,
        observed: Bool[np.ndarray, "n d"] | None = None,
        like: pa.Table | None = None,
        sequence: Int[np.ndarray, "n"] | None = None,
    ) -> pa.Table:
        """Codes as cells: see `thalweg.data.decode.decode`."""
        return decode(self, values, observed=observed, like=like, sequence=sequence)

    def decode_column(self, index: int, codes: Float[np.ndarray, "n"]) -> pa.Array:
        """Codes of one column of the space as cells of its own type."""
        return cells_of(self.variables[index], np.asarray(codes)).combine_chunks()

    def number(self, index: int, codes: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
        """Codes of a number column in the user's units, not rounded; a date is a count of its own unit."""
        column = self.variables[index]
        codes = np.asarray(codes, np.float64)
        delta = codes if column.kind == "integer" else codes * column.std + column.center
        return float(column.origin) + delta

    def candidates(self, index: int) -> Float[np.ndarray, "v"]:
        """Codes of one column of the space worth trying: every value where there are at most 256, else the 65
        quantiles of training and an even grid over its range, at most 129 in all, sorted."""
        column = self.variables[index]
        if 0 < column.size <= _FEW_VALUES or column.has_levels:
            return np.arange(column.size, dtype=np.float32)
        quantiles = np.asarray(column.quantiles)
        even = np.linspace(quantiles[0], quantiles[-1], _EVEN + 2)[1:-1]
        codes = np.concatenate([quantiles, even if column.is_real else np.rint(even)])
        return np.unique(codes.astype(np.float32))

    def log_units(self, observed: Bool[np.ndarray, "n d"]) -> Float[np.ndarray, "n"]:
        r"""\(\sum_{observed\ real} \log unit\): added to an energy in codes, nats in the user's units."""
        units = np.array([math.log(column.std) if column.is_real else 0.0 for column in self.variables])
        if observed.all():
            return np.full(len(observed), units.sum())
        return np.asarray(observed, np.float64) @ units

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, exact."""
        return schema_to_dict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Schema":
        """The schema in plain JSON, every part of it checked; raises `DataError`."""
        return schema_from_dict(content)


def _space_column(column: ColumnSchema, place: tuple[int, ...]) -> Column:
    name, size = column.name, column.size
    if column.has_levels:
        found = Column(name, "categorical", size=size)
        if place and column.kind == "binary":
            black, white = map(float, column.levels)
            found = replace(found, origin=black, unit=white - black)
    elif column.kind == "integer":
        found = Column(
            name, "integer", size=size, center=column.center, spread=column.std, origin=float(column.origin)
        )
    else:
        low, high = column.quantiles[0], column.quantiles[-1]
        margin = (high - low) / 2
        found = Column(
            name, "real", lower=low - margin, upper=high + margin, origin=column.mean, unit=column.std
        )
    return replace(found, pixel=bool(place), place=place)


def _check_something_varies(columns: tuple[ColumnSchema, ...], target: str | None, where: str) -> None:
    constant = {column.name for column in columns if column.kind == "constant"}
    if target in constant:
        raise DataError(
            f"{where}: the target {target!r} is the same in every row, there is nothing to predict"
        )
    named = [column.name for column in columns if column.kind == "sequence"]
    if len(named) > 1:
        raise DataError(f"{where}: one column tells sequences apart, not {', '.join(map(repr, named))}")
    if len(constant) + len(named) == len(columns):
        raise DataError(f"{where}: every column is constant or missing, there is nothing to learn")
