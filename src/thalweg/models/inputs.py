r"""What a network reads of the input columns of a row: coordinates, a picture, and which cells are missing."""

from dataclasses import replace
from functools import lru_cache

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from thalweg.energy.spaces import Record
from thalweg.errors import SettingsError
from thalweg.models.canvas import Canvas, canvas_of
from thalweg.models.embedding import Embedding
from thalweg.models.layout import squash

#: Coordinates from which on categories are looked up.
LOOKED_UP = 256


class Seen(eqx.Module):
    """The input x of a conditional energy over a table: the cells of a row, which of them are known (its answers are
    not), and what drives the dropout of training (None: there is none)."""

    values: Float[Array, "d"]
    observed: Bool[Array, "d"]
    key: PRNGKeyArray | None = None


class Elements(eqx.Module):
    """The input x of an energy over sequences of rows: the rows one after another, which of them are there, and where a
    sequence begins (`thalweg.energy.packing`)."""

    seen: Seen
    mask: Bool[Array, "n"]
    starts: Bool[Array, "n"]


class Inputs(eqx.Module):
    r"""All columns of a row but the `answers`.

    Coordinates are those of `Embedding`, numbers `squashed` (\(\operatorname{arcsinh} u\)) where they are no pixels;
    beside them stands a 1 for each missing cell. A missing cell reads as the mean.
    """

    space: Record = eqx.field(static=True)
    answers: tuple[int, ...] = eqx.field(static=True)
    squashed: bool = eqx.field(static=True, default=True)

    def __check_init__(self):
        if len(self.answers) == len(self.space.columns):
            raise SettingsError("every column is to be predicted, and none is left to predict it from")

    @property
    def index(self) -> np.ndarray:
        """The places of the input columns in the row."""
        return np.setdiff1d(np.arange(len(self.space.columns)), self.answers)

    @property
    def embedding(self) -> Embedding:
        """The coordinates of the input columns."""
        return _embedding(self.space, self.answers)

    @property
    def is_picture(self) -> bool:
        """Whether some inputs are the pixels of a picture."""
        return any(len(column.place) in (2, 3) for column in self.embedding.space.columns)

    @property
    def canvas(self) -> Canvas:
        """Where the pixels among the inputs lie. Raises `SettingsError` where there are none."""
        return canvas_of(self.embedding.space)

    @property
    def beside(self) -> "Inputs":
        """The inputs without the pixels, as inputs of the same row."""
        pixels = self.index[self.canvas.pixels]
        return replace(self, answers=(*self.answers, *pixels.tolist()))

    @property
    def width(self) -> int:
        """How many numbers `read` gives."""
        return self.embedding.width + len(_flagged(self.embedding.space))

    def read(self, y: Float[Array, "d"], observed: Bool[Array, "d"]) -> Float[Array, "f"]:
        """The coordinates of the known inputs, and which of the others are missing."""
        known = observed[self.index]
        u, _ = self.embedding.embed(y[self.index], known)
        if self.squashed:
            u = jnp.where(_heavy(self.embedding), squash(u), u)
        return jnp.concatenate([u, 1 - known[_flagged(self.embedding.space)].astype(u.dtype)])

    def project(
        self, y: Float[Array, "d"], observed: Bool[Array, "d"], weights: Float[Array, "f h"]
    ) -> Float[Array, "h"]:
        """`read(y, observed) @ weights`; where there are many levels they are looked up, not multiplied by 0 or 1."""
        if self.embedding.width <= LOOKED_UP or not len(self.embedding.layout.categories):
            return self.read(y, observed) @ weights
        layout, known = self.embedding.layout, observed[self.index]
        codes = jnp.where(known, y[self.index], 0)
        flags = _flagged(self.embedding.space)
        missing = (1 - known[flags].astype(y.dtype)) @ weights[self.embedding.width :]
        looked = weights[
            layout.position[layout.categories] + jnp.round(codes[layout.categories]).astype(jnp.int32)
        ]
        found = missing + jnp.sum(jnp.where(known[layout.categories][:, None], looked, 0), axis=0)
        if not len(self.numeric):
            return found
        return found + self.numbers(y, observed) @ weights[layout.position[self.numeric]]

    @property
    def numeric(self) -> np.ndarray:
        """Which of the input columns are numbers."""
        return np.flatnonzero(self.embedding.layout.numeric)

    def numbers(self, y: Float[Array, "d"], observed: Bool[Array, "d"]) -> Float[Array, "n"]:
        """The coordinates of the numbers among the inputs, as `read` has them; 0 of a missing one."""
        layout = self.embedding.layout
        known = observed[self.index]
        u = jnp.where(known, (jnp.where(known, y[self.index], 0) - layout.center) * layout.factor, 0)
        if self.squashed:
            u = jnp.where(
                np.array([not column.pixel for column in self.embedding.space.columns]), squash(u), u
            )
        return u[self.numeric]

    @property
    def fan_in(self) -> int:
        """How many of the numbers that `read` gives differ from 0, about."""
        return len(self.index)

    def picture(self, y: Float[Array, "d"], observed: Bool[Array, "d"]) -> Float[Array, "h w c"]:
        """The pixels among the inputs, at deviation 1; a missing one is the mean of its column."""
        canvas = self.canvas
        pixels = self.index[canvas.pixels]
        return canvas.picture(jnp.where(observed[pixels], y[pixels], canvas.center))

    def bare(self) -> "Inputs":
        """The same of a space without names, bounds and units; of a picture itself, for places are no names."""
        if self.is_picture:
            return self
        columns = list(self.space.columns)
        for i, column in zip(self.index, self.embedding.bare().space.columns, strict=True):
            columns[i] = column
        for i in self.answers:
            columns[i] = replace(columns[i], name=str(i))
        return replace(self, space=Record(tuple(columns)))


@lru_cache(maxsize=64)
def _embedding(space: Record, answers: tuple[int, ...]) -> Embedding:
    return Embedding(Record(tuple(c for i, c in enumerate(space.columns) if i not in answers)))


@lru_cache(maxsize=64)
def _flagged(space: Record) -> np.ndarray:
    """The columns of which a network is told that they are missing: of a picture the mean says enough."""
    return np.array([i for i, column in enumerate(space.columns) if not column.pixel], int)


def _heavy(embedding: Embedding) -> np.ndarray:
    """Which coordinates are numbers that may lie far out."""
    layout = embedding.layout
    pixel = np.array([column.pixel for column in embedding.space.columns])
    return (layout.value < 0) & ~pixel[layout.column]
