"""Where the pixels of a table's row lie in the picture, and the box in which all of them are noisy."""

from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from thalweg.energy.spaces import Record
from thalweg.errors import SettingsError
from thalweg.models.embedding import factors
from thalweg.models.relaxation import relaxed

#: The width of pixels without bounds, in their deviations.
WIDTH = 10.0


class Canvas(NamedTuple):
    """Where the pixels of a row lie, in NumPy: their columns, `place` of each in the picture of `shape`, and the
    `center` and `factor` that bring codes to a common scale; `others` are the columns beside them."""

    pixels: np.ndarray
    place: np.ndarray
    shape: tuple[int, int, int]
    center: np.ndarray
    factor: np.ndarray
    others: np.ndarray

    def picture(self, codes: Float[Array, "p"]) -> Float[Array, "h w c"]:
        """The picture; 0, their mean, where pixels never vary."""
        u = (codes - self.center) * self.factor
        size = int(np.prod(self.shape))
        if not np.array_equal(self.place, np.arange(size)):
            source = np.full(size, len(self.place))
            source[self.place] = np.arange(len(self.place))
            u = jnp.append(u, 0.0)[source]
        return u.reshape(self.shape)


@lru_cache(maxsize=64)
def canvas_of(space: Record) -> Canvas:
    """The picture in a row. Raises `SettingsError` where there is none."""
    pixels = [i for i, column in enumerate(space.columns) if column.pixel and len(column.place) in (2, 3)]
    if not pixels:
        raise SettingsError(
            "convolutions are for images: an array of (n, height, width) or (n, height, width, channels), a folder of "
            "pictures, or digits; for a table fit mlp-ebm, or take network=mlp"
        )
    columns = relaxed(Record(tuple(space.columns[i] for i in pixels))).columns
    coded = [column.name for column in columns if column.kind == "categorical"]
    if coded:
        raise SettingsError(
            f"the pixel {coded[0]!r} is a category, and convolutions are for shades: fit orderless, or take network=mlp"
        )
    places = np.array([(*column.place, 0)[:3] for column in columns])
    # Borders that never vary are not in the space, and need no room.
    places = places - places.min(axis=0)
    shape = tuple(int(n) for n in places.max(axis=0) + 1)
    return Canvas(
        np.array(pixels),
        np.ravel_multi_index(tuple(places.T), shape),
        (shape[0], shape[1], shape[2]),
        np.array([column.center for column in columns], np.float32),
        factors(columns, "auto").astype(np.float32),
        np.array([i for i in range(len(space.columns)) if i not in set(pixels)], int),
    )


def shared_box(space: Record) -> Record:
    """The same pixels in the one box that holds them all: a border that hardly varies is blurred like the middle."""
    lower, upper = min(c.lower for c in space.columns), max(c.upper for c in space.columns)
    return Record(tuple(replace(c, lower=lower, upper=upper) for c in space.columns))


@lru_cache(maxsize=64)
def widest(space: Record, least: float) -> float:
    """The noise of which nothing is left of a picture, in deviations of its pixels: as wide as their box, and well
    above the `least`."""
    canvas = canvas_of(space)
    box = shared_box(relaxed(Record(tuple(space.columns[i] for i in canvas.pixels)))).columns[0]
    return max((box.upper - box.lower) * float(canvas.factor[0]) if box.bounded else WIDTH, 2 * least)
