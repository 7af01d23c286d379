r"""detect: what is where in a picture?

Every window of a pyramid is judged by \(E(Y, c, Z, X) = Y\,G_c(X_Z) + (1 - Y)\,T\); of those in which something is
probable, the ones that overlap a better one go.

Osadchy, LeCun & Miller (2007), *Synergistic face detection and pose estimation with energy-based models*.
"""

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.data.boxes import Boxes
from thalweg.data.pictures import Pictures
from thalweg.data.schema import Schema
from thalweg.energy.base import AbstractEnergy
from thalweg.energy.capabilities import AbstractSliding
from thalweg.errors import DataError, DataWarning, NotAnswered, SettingsError
from thalweg.inference.suppression import suppress
from thalweg.questions.pyramid import Piece, Place, levels, packed, pieces, sheets, side_of

#: Sheets a dispatch.
SHEETS = 4
#: A picture whose pixels differ by less than this share of those of training may be in other units.
NARROW = 0.02


def method(kind: type[AbstractEnergy]) -> str | None:
    return "exact: every window of a pyramid" if issubclass(kind, AbstractSliding) else None


@dataclass(frozen=True)
class WindowSearch:
    """What is looked for: boxes from `smallest` to `largest` times the size of the window, by factors of `step`, with a
    probability of at least `threshold`, which overlap each other by at most `overlap`.

    Raises `SettingsError` for what cannot be.
    """

    threshold: float = 0.5
    overlap: float = 0.3
    smallest: float = 1.0
    largest: float = math.inf
    step: float = 1.2

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise SettingsError(f"the threshold is a probability above 0 and up to 1, not {self.threshold:g}")
        if not 0 <= self.overlap <= 1:
            raise SettingsError(f"the overlap of two boxes is a share from 0 to 1, not {self.overlap:g}")
        if not 0 < self.smallest <= self.largest:
            raise SettingsError(
                "objects are from smallest to largest times the size of the window, above 0, not "
                f"{self.smallest:g} to {self.largest:g}"
            )
        if not self.step > 1.01:
            raise SettingsError(
                f"the step from one scale to the next is a factor above 1.01, not {self.step:g}"
            )


def check(F: AbstractEnergy) -> None:
    """Raise `NotAnswered` for an energy that does not slide over pictures."""
    if not isinstance(F, AbstractSliding):
        raise NotAnswered(
            f"{type(F).__name__} judges whole rows and does not look for objects in pictures: fit detector, to windows "
            "that `thalweg windows` cuts out of pictures with boxes"
        )


def labels_of(F: AbstractEnergy, schema: Schema) -> tuple[str, ...]:
    """The labels that windows may have, the background's left out."""
    assert isinstance(F, AbstractSliding)
    shown = [str(level) for level in schema[schema.target].levels] if schema.target else []
    return tuple(level for i, level in enumerate(shown) if i != F.nothing)


def shades_of(schema: Schema) -> tuple[float, float]:
    """The least and the greatest pixel of the windows of training."""
    shown = [column.levels or (column.minimum, column.maximum) for column in schema.columns]
    ends = np.array([(min(values), max(values)) for values in shown[: math.prod(schema.grid)]], float)
    return float(ends[:, 0].min()), float(ends[:, 1].max())


def detect(
    F: AbstractEnergy,
    pictures: Pictures,
    labels: tuple[str, ...],
    search: WindowSearch,
    shades: tuple[float, float] | None = None,
) -> Boxes:
    """What is found in each picture, the most probable first; `labels` are those of the energies that slide.

    Warns of pictures whose pixels are in other units than the `shades` of training. Raises `NotAnswered` for an energy
    that does not slide, `DataError` for a picture smaller than the window.
    """
    check(F)
    assert isinstance(F, AbstractSliding)
    if shades is not None:
        _check_units(pictures, shades)
    found = [
        _boxes(number, windows, labels, search, size)
        for number, (size, windows) in enumerate(_windows(F, pictures, search))
    ]
    picture, place, label, energy, probability = (np.concatenate(part) for part in zip(*found, strict=True))
    return Boxes(picture, place, label, energy, probability, pictures.names)


def _windows(
    F: AbstractSliding, pictures: Pictures, search: WindowSearch
) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
    """Of each picture its (height, width), and the windows with something in them: (n, 7), x, y, width, height, label,
    energy, probability."""
    side = side_of(F.window, F.stride)
    waiting: list[Piece] = []
    shapes: list[tuple[int, int]] = []
    for number, picture in enumerate(pictures):
        sizes = levels(picture.shape[:2], F.window, search.smallest, search.largest, search.step)
        if not sizes:
            raise DataError(_too_small(pictures.name(number), picture, F, search))
        shapes.append(picture.shape[:2])
        waiting.extend(pieces(picture, number, sizes, F.window, F.stride))
        full = sum(piece.pixels[..., 0].size for piece in waiting) > SHEETS * side * side
        if full or number == len(pictures) - 1:
            lines = _judged(F, waiting, search)
            of = np.repeat([piece.picture for piece in waiting], list(map(len, lines)))
            together = np.concatenate(lines)
            first = number + 1 - len(shapes)
            yield from ((shape, together[of == first + i]) for i, shape in enumerate(shapes))
            waiting, shapes = [], []


def _judged(F: AbstractSliding, parts: list[Piece], search: WindowSearch) -> list[np.ndarray]:
    """The windows of each piece with something in them."""
    side = side_of(F.window, F.stride)
    places = packed([piece.pixels.shape[:2] for piece in parts], side, F.stride)
    paper = sheets(parts, places, side, SHEETS)
    judged = [_slide(F, paper[i : i + SHEETS]) for i in range(0, len(paper), SHEETS)]
    label, energy, probability = (
        np.concatenate(list(map(np.asarray, each))) for each in zip(*judged, strict=True)
    )
    return [
        _lines(F, piece, place, label, energy, probability, search.threshold)
        for piece, place in zip(parts, places, strict=True)
    ]


@eqx.filter_jit
def _slide(F: AbstractSliding, paper: Any) -> tuple[Any, Any, Any]:
    """Of every window of some sheets: the most probable label, its energy and its probability."""

    def one(sheet):
        energies, nothing, beta = F.slide(sheet)
        best = jnp.argmin(energies, axis=-1)
        lowest = jnp.take_along_axis(energies, best[..., None], axis=-1)[..., 0]
        log_sum = jax.nn.logsumexp(-beta * energies, axis=-1)
        return best, lowest, jnp.exp(-beta * lowest - jnp.logaddexp(log_sum, -beta * nothing))

    return jax.vmap(one)(paper)


def _lines(
    F: AbstractSliding,
    piece: Piece,
    place: Place,
    label: np.ndarray,
    energy: np.ndarray,
    probability: np.ndarray,
    threshold: float,
) -> np.ndarray:
    """The windows of one piece with something in them."""
    rows, columns = (
        slice(start // F.stride, start // F.stride + (length - window) // F.stride + 1)
        for start, length, window in zip(place[1:], piece.pixels.shape, F.window, strict=False)
    )
    here = (place.sheet, rows, columns)
    i, j = np.nonzero(probability[here] >= threshold)
    down, across = piece.factor
    return np.stack(
        [
            (piece.corner[1] + j * F.stride) * across,
            (piece.corner[0] + i * F.stride) * down,
            np.full(len(i), F.window[1] * across),
            np.full(len(i), F.window[0] * down),
            *(values[here][i, j] for values in (label, energy, probability)),
        ],
        axis=-1,
    )


def _boxes(
    number: int, windows: np.ndarray, labels: tuple[str, ...], search: WindowSearch, size: tuple[int, int]
) -> tuple[np.ndarray, ...]:
    """The columns of the boxes in one picture, without those that overlap a better one."""
    kept = windows[suppress(windows[:, :4], -windows[:, 6], search.overlap)]
    upper = np.minimum(kept[:, :2] + kept[:, 2:4], [size[1], size[0]])
    places = np.concatenate([kept[:, :2], upper - kept[:, :2]], axis=1)
    names = np.array(labels, object)[kept[:, 4].astype(int)]
    return np.full(len(kept), number, np.int64), places, names, kept[:, 5], kept[:, 6]


def _check_units(pictures: Pictures, shades: tuple[float, float]) -> None:
    """Warn where the first picture is nearly flat in the units of training, or far beyond them."""
    low, high = float(pictures[0].min()), float(pictures[0].max())
    width = shades[1] - shades[0]
    if high - low < NARROW * width or max(high - shades[1], shades[0] - low) > width:
        warnings.warn(
            f"{pictures.name(0)} has pixels from {low:g} to {high:g}, and the windows of training had {shades[0]:g} to "
            f"{shades[1]:g}: bring them to the same units",
            DataWarning,
            stacklevel=4,
        )


def _too_small(name: str, picture: np.ndarray, F: AbstractSliding, search: WindowSearch) -> str:
    height, width = (math.ceil(search.smallest * n) for n in F.window[:2])
    return (
        f"{name} is {picture.shape[1]}×{picture.shape[0]} pixels, smaller than the least window of {width}×{height}: "
        "leave it out, or look for smaller objects with smallest=…"
    )
