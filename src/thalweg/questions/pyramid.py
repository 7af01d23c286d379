"""A picture at many scales, cut and packed onto sheets of one size, so that one compiled program sees pictures of any.

What lies next to each other on a sheet has nothing to do with each other; no window is looked at that is not within one
piece. Dubout & Fleuret (2012), *Exact acceleration of linear object detectors*.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from thalweg.data.resample import resized

#: The least side of a sheet, and how many windows have to fit along it.
SIDE, WINDOWS = 256, 4
#: A level of the pyramid is added for what fills a picture where the last one is farther from it than by this.
CLOSE = 1.05


class Piece(NamedTuple):
    """Part of a picture at one scale: its pixels, where they lie at that scale (row, column), and how many pixels of
    the picture one of them is (down, across)."""

    picture: int
    pixels: Float[np.ndarray, "h w c"]
    corner: tuple[int, int]
    factor: tuple[float, float]


class Place(NamedTuple):
    """Where a piece lies: its sheet, and its corner there."""

    sheet: int
    row: int
    column: int


def side_of(window: tuple[int, int, int], stride: int) -> int:
    """The side of the sheets: a multiple of the stride."""
    least = max(SIDE, WINDOWS * max(window[:2]))
    return -(-least // stride) * stride


def levels(
    size: tuple[int, int], window: tuple[int, int, int], smallest: float, largest: float, step: float
) -> list[tuple[int, int]]:
    """The sizes (h, w) in which a picture is looked at: what is as large as the window there is from `smallest` to
    `largest` times as large in the picture, by factors of `step`; none where no window fits."""
    fills = min(size[0] / window[0], size[1] / window[1])
    last = min(fills, largest)
    factors = []
    factor = smallest
    while factor <= last * (1 + 1e-9):
        factors.append(factor)
        factor *= step
    if factors and factors[-1] < last / CLOSE:
        factors.append(last)
    return [
        (max(round(size[0] / factor), window[0]), max(round(size[1] / factor), window[1]))
        for factor in factors
    ]


def pieces(
    picture: np.ndarray, number: int, sizes: list[tuple[int, int]], window: tuple[int, int, int], stride: int
) -> Iterator[Piece]:
    """The picture in these sizes, cut where it is larger than a sheet; each window lies in at least one piece."""
    side = side_of(window, stride)
    for size in sizes:
        pixels = resized(picture, size)
        factor = (picture.shape[0] / size[0], picture.shape[1] / size[1])
        # A row or column of windows that the stride would leave out at the end looks beyond the border.
        pixels = np.pad(
            pixels, (*(_rest(n, w, stride) for n, w in zip(size, window, strict=False)), (0, 0)), "edge"
        )
        for row in _starts(pixels.shape[0], window[0], side, stride):
            for column in _starts(pixels.shape[1], window[1], side, stride):
                part = pixels[row : row + side, column : column + side]
                yield Piece(number, part, (row, column), factor)


def _rest(length: int, window: int, stride: int) -> tuple[int, int]:
    return 0, -(length - window) % stride


def _starts(length: int, window: int, side: int, stride: int) -> range:
    """Where pieces of a side begin, so that they overlap by all but the stride of a window."""
    step = side - -(-(window - stride) // stride) * stride
    return range(0, max(length - window, 0) + 1, step)


def packed(sizes: list[tuple[int, int]], side: int, stride: int) -> list[Place]:
    """A place for each rectangle (h, w) on as many square sheets as it takes: on shelves, the highest first; at
    multiples of the stride."""
    places: list[Place] = [Place(0, 0, 0)] * len(sizes)
    shelves: list[tuple[int, int, int, int]] = []  # sheet, row, height, and how much of it is taken
    top = [0]
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i][0]):
        height, width = (-(-n // stride) * stride for n in sizes[i])
        fitting = (
            j for j, (_, _, tall, taken) in enumerate(shelves) if tall >= height and taken + width <= side
        )
        j = next(fitting, None)
        if j is None:
            if top[-1] + height > side:
                top.append(0)
            shelves.append((len(top) - 1, top[-1], height, 0))
            top[-1] += height
            j = len(shelves) - 1
        sheet, row, tall, taken = shelves[j]
        places[i] = Place(sheet, row, taken)
        shelves[j] = (sheet, row, tall, taken + width)
    return places


def sheets(
    parts: list[Piece], places: list[Place], side: int, most: int
) -> Float[np.ndarray, "n side side c"]:
    """The sheets with the pieces on them, filled up with empty ones to a multiple of `most`."""
    count = -(-(1 + max(place.sheet for place in places)) // most) * most
    out = np.zeros((count, side, side, parts[0].pixels.shape[2]), np.float32)
    for piece, place in zip(parts, places, strict=True):
        height, width = piece.pixels.shape[:2]
        out[place.sheet, place.row : place.row + height, place.column : place.column + width] = piece.pixels
    return out
