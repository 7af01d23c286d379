"""From pictures with boxes to a table of small windows with labels, one of which says that there is nothing."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from thalweg.data.arrays import add_labels, table_of
from thalweg.data.boxes import Boxes, check_inside, overlaps, read_boxes
from thalweg.data.dataset import Dataset
from thalweg.data.pictures import open_pictures
from thalweg.data.resample import cut
from thalweg.errors import DataError, OutputError, SettingsError
from thalweg.files import atomic_file

#: A window that overlaps every box by less is background.
APART = 0.3
#: By how much windows on an object are moved and scaled at random: as far as those of a detector lie apart.
SHIFT, ZOOM = 0.08, 1.12
#: What boxes without labels hold.
OBJECT = "object"


class Windows(NamedTuple):
    """Windows (n, h, w) or (n, h, w, c), and the text (n,) that says what each holds."""

    pixels: np.ndarray
    labels: np.ndarray

    def to_dataset(self) -> Dataset:
        """The windows as a table of pixels with a column `label`, as `thalweg.fit` takes it."""
        table, grid = table_of(self.pixels, "the windows")
        table, kinds = add_labels(table, self.labels, "the windows")
        return Dataset(table, "windows", grid, kinds=kinds)

    def save(self, path: str | Path, *, force: bool = False) -> Path:
        """Write a .npz file that `thalweg.data.load` reads; refuses an existing one unless `force`."""
        if Path(path).suffix != ".npz":
            raise OutputError(f"{path}: windows are written as .npz: name the file so")
        with atomic_file(path, force=force) as temporary:
            np.savez_compressed(temporary, X=self.pixels, y=self.labels)
        return Path(path)


def windows(
    pictures: Any,
    boxes: Any,
    size: tuple[int, int] = (28, 28),
    *,
    background: str = "background",
    copies: int = 3,
    negatives: int = 20,
    hard: Any = None,
    channels: int | None = None,
    seed: int = 0,
) -> Windows:
    """What a detector learns from: windows of a `size` (height, width) on objects and beside them.

    `pictures` are what `open_pictures` reads, `boxes` what `read_boxes` does. The window of a box has its centre and
    its area; it is cut out `copies` times, moved and scaled a little at random. In each picture `negatives` windows of
    any scale that overlap no box by 0.3 or more get the label `background`, half of them near a box. `hard` are boxes
    that a model found: where none was, they are background too.

    Raises `DataError` for boxes beyond their picture and pictures smaller than the window, `SettingsError` for counts
    below 0 and a label that is the background's.
    """
    if copies < 1 or negatives < 0:
        raise SettingsError(
            f"each box gives at least one window, each picture at least 0, not {copies} and {negatives}"
        )
    shown = open_pictures(pictures, channels)
    names = shown.names or ()
    known = read_boxes(boxes, names)
    found = None if hard is None else read_boxes(hard, names)
    if known.label is not None and background in known.label:
        raise SettingsError(f"boxes are labelled {background!r}: name the background otherwise, background=…")
    if len(known) and known.picture.max() >= len(shown):
        raise DataError(
            f"a box lies in picture {known.picture.max()}, and there are {len(shown)}, counted from 0"
        )
    rng = np.random.default_rng(seed)
    pixels, labels = [], []
    for i, picture in enumerate(shown):
        check_inside(known, i, picture.shape[:2])
        own = known.of(i)
        _check_size(picture, size, shown.name(i))
        for place, label in _placed(picture, own, found and found.of(i), size, copies, negatives, rng):
            pixels.append(_as(picture.dtype, cut(picture, place, size)))
            labels.append(background if label is None else label)
    stacked = np.stack(pixels)
    return Windows(stacked[..., 0] if stacked.shape[-1] == 1 else stacked, np.array(labels))


def window_of(place: Float[np.ndarray, "... 4"], size: tuple[int, int]) -> Float[np.ndarray, "... 4"]:
    """The rectangles with the shape of a window (h, w), and the centres and areas of those at `place`."""
    centre = place[..., :2] + place[..., 2:] / 2
    scale = np.sqrt(place[..., 2] * place[..., 3] / (size[0] * size[1]))
    sides = scale[..., None] * np.array([size[1], size[0]], float)
    return np.concatenate([centre - sides / 2, sides], axis=-1)


def _placed(
    picture: np.ndarray,
    boxes: Boxes,
    found: Boxes | None,
    size: tuple[int, int],
    copies: int,
    negatives: int,
    rng: np.random.Generator,
) -> Iterator[tuple[np.ndarray, str | None]]:
    """Where the windows of one picture lie, and the label of each; None for the background."""
    places = window_of(boxes.place, size)
    for i, place in enumerate(places):
        label = OBJECT if boxes.label is None else boxes.label[i]
        for _ in range(copies):
            yield _moved(place, SHIFT, ZOOM, rng), label
    apart = _Apart(boxes.place, places)
    for _ in range(negatives):
        near = len(places) and rng.random() < 0.5
        place = (
            _moved(places[rng.integers(len(places))], 0.7, 2.0, rng)
            if near
            else _anywhere(picture, size, rng)
        )
        if apart(place):
            yield place, None
    for place in () if found is None else window_of(found.place, size):
        if apart(place):
            yield place, None


class _Apart:
    """Whether a window is background: it overlaps no box, and no window of a box."""

    def __init__(self, boxes: np.ndarray, windows: np.ndarray):
        self.taken = np.concatenate([boxes, windows])

    def __call__(self, place: np.ndarray) -> bool:
        return not len(self.taken) or bool(overlaps(self.taken, place).max() < APART)


def _moved(place: np.ndarray, shift: float, zoom: float, rng: np.random.Generator) -> np.ndarray:
    """A window moved by up to so many of its sides, and scaled by up to a factor either way."""
    factor = zoom ** rng.uniform(-1, 1)
    sides = place[2:] * factor
    centre = place[:2] + place[2:] / 2 + rng.uniform(-shift, shift, 2) * sides
    return np.concatenate([centre - sides / 2, sides])


def _anywhere(picture: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A window of any scale, from `size` to as large as the picture, all scales alike."""
    height, width = picture.shape[:2]
    sides = np.array([size[1], size[0]]) * min(width / size[1], height / size[0]) ** rng.random()
    return np.concatenate([rng.random(2) * (np.array([width, height]) - sides), sides])


def _check_size(picture: np.ndarray, size: tuple[int, int], name: str) -> None:
    if picture.shape[0] < size[0] or picture.shape[1] < size[1]:
        raise DataError(
            f"{name} is {picture.shape[1]}×{picture.shape[0]} pixels, smaller than a window of {size[1]}×{size[0]}: "
            "leave it out, or take smaller windows"
        )


def _as(kind: np.dtype, pixels: np.ndarray) -> np.ndarray:
    """Pixels of the same type as the picture's, rounded where they are whole numbers."""
    if kind.kind not in "iu":
        return pixels
    return np.clip(np.rint(pixels), np.iinfo(kind).min, np.iinfo(kind).max).astype(kind)
