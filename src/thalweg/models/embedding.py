r"""Codes to real coordinates: what an energy over \(\mathbb{R}^E\) sees of a table's row.

\[ u_c = f_c\,(y_c - m_c) \ \text{for numbers}, \qquad u_{c,j} = [y_c = j] \ \text{for categories} \]
"""

import math
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from thalweg.data.rows import Rows
from thalweg.energy.base import Scalar
from thalweg.energy.spaces import Column, Record
from thalweg.errors import DataError, SettingsError

SCALES = ("auto", "column", "common", "none")


class Layout(NamedTuple):
    """The constants of an embedding, in NumPy: static, so nothing trains them.

    By coordinate: the `column` it comes from, the `value` it indicates (-1 for a number). By column:
    `position` of its first coordinate, `numeric`, `center`, `factor`. `blocks` (categories, widest) holds
    the coordinates of each category, padded with the width of the embedding.
    """

    column: np.ndarray
    value: np.ndarray
    position: np.ndarray
    numeric: np.ndarray
    center: np.ndarray
    factor: np.ndarray
    categories: np.ndarray
    blocks: np.ndarray


class Embedding(eqx.Module):
    r"""Numbers as coordinates of comparable size, and a block of 0 and 1 for each category.

    `scale` is "column" (\((y - m)/s\), every column at deviation 1), "none" (the user's own units, centred),
    "common" (the user's own units over one deviation for all columns) or "auto": pixels of an image share one
    scale, all other columns have their own.

    Raises `SettingsError` for any other scale.
    """

    space: Record = eqx.field(static=True)
    scale: str = eqx.field(static=True, default="auto")

    def __check_init__(self):
        if self.scale not in SCALES:
            raise SettingsError(f"scale {self.scale!r} is not known: choose one of {', '.join(SCALES)}")

    @property
    def layout(self) -> Layout:
        return _layout(self.space.columns, self.scale)

    @property
    def rounding(self) -> Float[np.ndarray, "e"]:
        """The variance of a coordinate over the unit bin of its count, the least that a density of counts may have:
        1/12 of a squared count; 0 for real columns and indicators."""
        layout = self.layout
        counts = np.array([column.kind == "integer" for column in self.space.columns])
        return np.where(counts, layout.factor**2 / 12, 0.0)[layout.column]

    @property
    def width(self) -> int:
        """The number of real coordinates, E."""
        return len(self.layout.column)

    def embed(
        self, y: Float[Array, "d"], observed: Bool[Array, "d"] | None = None
    ) -> tuple[Float[Array, "e"], Bool[Array, "e"]]:
        """The coordinates of a row and which of them are seen; 0 where they are not."""
        return _embed(jnp, self.layout, y, jnp.ones(y.shape, bool) if observed is None else observed)

    def unembed(self, u: Float[Array, "e"]) -> Float[Array, "d"]:
        """Codes: numbers not rounded, a category the largest of its block."""
        layout = self.layout
        numbers = u[layout.position] / layout.factor + layout.center
        if not len(layout.blocks):
            return numbers
        padded = jnp.append(u, -jnp.inf)
        largest = jnp.argmax(padded[layout.blocks], axis=-1).astype(u.dtype)
        return numbers.at[layout.categories].set(largest)

    def log_volume(self, observed: Bool[Array, "d"] | None = None) -> Scalar:
        r"""\(\sum_c \log f_c\) over the observed numbers: takes a log density of `u` to one of codes."""
        volumes = np.where(self.layout.numeric, np.log(self.layout.factor), 0.0).astype(np.float32)
        return jnp.sum(volumes if observed is None else jnp.where(observed, volumes, 0))

    def mean_log_volume(self, rows: Rows) -> float:
        """`log_volume` of a row on average."""
        volumes = np.where(self.layout.numeric, np.log(self.layout.factor), 0.0)
        return float(np.mean(rows.observed, axis=0) @ volumes)

    def rows(self, rows: Rows) -> tuple[Float[Array, "n e"], Bool[Array, "n e"]]:
        """The coordinates of many rows, float32. Raises `DataError` where there are none."""
        if not len(rows):
            raise DataError("there are no rows to fit: give at least one")
        # On the host: compiling takes longer than the arithmetic.
        u, seen = _embed(np, self.layout, rows.values, rows.observed)
        return jnp.asarray(u), jnp.asarray(seen)

    def bare(self) -> "Embedding":
        """The same coordinates of a space without names, bounds and the units that they do not depend on."""
        return _bare(self.space.columns, self.scale)

    def noise(self, deviations: Float[Array, "d"]) -> Float[Array, "e"]:
        """Deviations in codes as deviations of the coordinates; 0 for categories."""
        layout = self.layout
        scaled = jnp.where(layout.numeric, deviations * layout.factor, 0)
        return scaled[layout.column]


def _embed(xp: Any, layout: Layout, y: Any, observed: Any) -> tuple[Any, Any]:
    """`Embedding.embed` of one row or of many, in NumPy or in JAX."""
    codes = xp.where(observed, y, layout.center)[..., layout.column]
    numbers = (codes - layout.center[layout.column]) * layout.factor[layout.column]
    indicators = (xp.round(codes) == layout.value).astype(y.dtype)
    seen = observed[..., layout.column]
    return xp.where(seen, xp.where(layout.value < 0, numbers, indicators), xp.zeros((), y.dtype)), seen


@lru_cache(maxsize=64)
def _bare(columns: tuple[Column, ...], scale: str) -> Embedding:
    def essential(i: int, column: Column) -> Column:
        shared = scale in ("common", "none") or (scale == "auto" and column.pixel)
        unit = column.unit if shared else 1.0
        plain = replace(column, name=str(i), lower=-math.inf, upper=math.inf, place=())
        return replace(plain, origin=0.0, unit=unit)

    return Embedding(Record(tuple(essential(i, column) for i, column in enumerate(columns))), scale)


@lru_cache(maxsize=64)
def _layout(columns: tuple[Column, ...], scale: str) -> Layout:
    numeric = np.array([column.kind != "categorical" for column in columns])
    widths = np.array([1 if column.kind != "categorical" else column.size for column in columns])
    position = np.cumsum(widths) - widths
    value = np.concatenate(
        [[-1] if is_number else np.arange(width) for is_number, width in zip(numeric, widths, strict=True)]
    )
    categories = np.flatnonzero(~numeric)
    total, widest = int(widths.sum()), int(max(widths[categories], default=0))
    offsets = np.arange(widest)
    blocks = np.where(offsets < widths[categories, None], position[categories, None] + offsets, total)
    return Layout(
        column=np.repeat(np.arange(len(columns)), widths),
        value=value.astype(np.float32),
        position=position,
        numeric=numeric,
        center=np.where(numeric, [column.center for column in columns], 0.0).astype(np.float32),
        factor=np.where(numeric, factors(columns, scale), 1.0).astype(np.float32),
        categories=categories,
        blocks=blocks,
    )


def factors(columns: tuple[Column, ...], scale: str) -> np.ndarray:
    """What a code's distance from its centre is multiplied by."""
    unit = np.array([column.unit for column in columns], np.float64)
    spread = np.array([column.spread for column in columns], np.float64)
    own = 1 / np.where(spread > 0, spread, 1.0)
    if scale == "column":
        return own
    if scale == "none":
        return unit
    shared = np.array([column.kind != "categorical" for column in columns])
    if scale == "auto":
        shared &= np.array([column.pixel for column in columns])
    deviation = np.sqrt(np.mean((spread * unit)[shared] ** 2)) if shared.any() else 1.0
    return np.where(shared, unit / (deviation or 1.0), own)
