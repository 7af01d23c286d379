"""Rectangles in pictures: what a person drew, or what a model found."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from thalweg.data.dataset import Dataset
from thalweg.data.load import load, near_name
from thalweg.data.reading import reading
from thalweg.data.types import is_number, is_text
from thalweg.errors import DataError

#: The columns that say where a box lies, in pixels.
SIDES = ("x", "y", "width", "height")
#: How far beyond the border of its picture a box may reach, in pixels: rounding.
SLACK = 1.0


@dataclass(frozen=True)
class Boxes:
    """n rectangles: the `picture` (n,) int64 that each lies in, counted from 0, and its `place` (n, 4) float64, x and y
    of the upper left corner from that of the picture, width and height, in pixels.

    `label` (n,) is what it holds, as text. What a model found has the `energy` (n,) of its window and the `probability`
    (n,) that the label is there. `names` are those of the pictures.
    """

    picture: np.ndarray
    place: np.ndarray
    label: np.ndarray | None = None
    energy: np.ndarray | None = None
    probability: np.ndarray | None = None
    names: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.picture)

    def __getitem__(self, index: Any) -> "Boxes":
        """Some of the boxes: a slice, numbers, or a mask."""

        def some(array: np.ndarray | None) -> Any:
            return None if array is None else array[index]

        label, energy, probability = map(some, (self.label, self.energy, self.probability))
        return Boxes(self.picture[index], self.place[index], label, energy, probability, self.names)

    def of(self, picture: int) -> "Boxes":
        """The boxes in one picture."""
        return self[self.picture == picture]

    def to_table(self) -> pa.Table:
        """One line a box: image, x, y, width, height, and label, energy and probability where there are such."""
        image: Any = self.picture
        if self.names is not None:
            image = pa.array([self.names[i] for i in self.picture], pa.string())
        columns = {"image": image, **dict(zip(SIDES, self.place.T, strict=True))}
        if self.label is not None:
            columns["label"] = pa.array(self.label.tolist(), pa.string())
        for name in ("energy", "probability"):
            if getattr(self, name) is not None:
                columns[name] = getattr(self, name)
        return pa.table(columns)


def read_boxes(source: Any, names: Sequence[str] = ()) -> Boxes:
    """The boxes in a table with the columns image, x, y, width, height and, where there are labels, label; or in a COCO
    file (.json).

    `source` is anything that `thalweg.data.load` reads, `names` are those of the pictures: an image is one of them, or
    its number, counted from 0. Raises `DataError` naming the row for a picture that there is not, a missing cell and a
    box without extent.
    """
    if isinstance(source, Boxes):
        return source
    if isinstance(source, str | os.PathLike) and Path(source).suffix.lower() == ".json":
        dataset = Dataset(_coco(Path(source)), Path(source).stem, path=os.fspath(source))
    else:
        dataset = load(source)
    table, where = dataset.table, dataset.where
    for name in ("image", *SIDES):
        if name not in table.column_names:
            raise DataError(
                f"{where} has no column {name!r}, which boxes need: {near_name(name, table.column_names)}"
            )
    place = np.stack([_numbers(table.column(name), name, where) for name in SIDES], axis=1)
    flat = np.flatnonzero((place[:, 2:] <= 0).any(axis=1))
    if len(flat):
        width, height = place[flat[0], 2:]
        raise DataError(f"{where}, row {flat[0]}: a box of {width:g}×{height:g} pixels holds nothing")
    label = None
    if "label" in table.column_names:
        label = np.array(list(map(str, table.column("label").to_pylist())), object)
    return Boxes(
        _pictures(table.column("image"), names, where), place, label, names=tuple(names) if names else None
    )


def overlaps(a: Any, b: Any) -> Any:
    """Intersection over union of rectangles x, y, width, height along the last axis, by broadcasting; of NumPy's arrays
    or of JAX's."""
    xp = a.__array_namespace__()
    lower = xp.maximum(a[..., :2], b[..., :2])
    upper = xp.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:])
    sides = xp.maximum(upper - lower, 0.0)
    common = sides[..., 0] * sides[..., 1]
    return common / (a[..., 2] * a[..., 3] + b[..., 2] * b[..., 3] - common)


def check_inside(boxes: Boxes, picture: int, size: tuple[int, int]) -> None:
    """Raise `DataError` where a box reaches beyond its picture of (height, width)."""
    place = boxes.of(picture).place
    height, width = size
    beyond = (place[:, :2] < -SLACK) | (place[:, :2] + place[:, 2:] > np.array([width, height]) + SLACK)
    if beyond.any():
        x, y, w, h = place[np.flatnonzero(beyond.any(axis=1))[0]]
        name = boxes.names[picture] if boxes.names else f"picture {picture}"
        raise DataError(
            f"{name}: the box {w:g}×{h:g} at ({x:g}, {y:g}) reaches beyond the picture of {width}×{height} pixels: "
            "are its numbers in pixels of this picture? cut it off at the border, or leave it out"
        )


def _numbers(column: pa.ChunkedArray, name: str, where: str) -> np.ndarray:
    if not is_number(column.type):
        raise DataError(f"{where}, column {name!r}: cells of type {column.type} are not numbers of pixels")
    values = pc.cast(column, pa.float64()).to_numpy()
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values))[0])
        raise DataError(f"{where}, column {name!r}, row {row}: the number is missing or not finite")
    return values


def _pictures(column: pa.ChunkedArray, names: Sequence[str], where: str) -> np.ndarray:
    """The number of the picture that each row names."""
    if is_text(column.type):
        number = {name: i for i, name in enumerate(names)}
        cells = column.to_pylist()
        for row, cell in enumerate(cells):
            if cell not in number:
                raise DataError(
                    f"{where}, row {row}: there is no picture {cell!r}: {near_name(str(cell), names[:20])}"
                )
        return np.array([number[cell] for cell in cells], np.int64)
    found = _numbers(column, "image", where)
    most = len(names) or np.inf
    wrong = np.flatnonzero((found < 0) | (found >= most) | (found != np.rint(found)))
    if len(wrong):
        raise DataError(
            f"{where}, row {wrong[0]}: there is no picture {found[wrong[0]]:g}: they count from 0"
            + (f" to {len(names) - 1}" if names else "")
        )
    return found.astype(np.int64)


def _coco(path: Path) -> pa.Table:
    """The annotations of a COCO file as a table (Lin et al. 2014, *Microsoft COCO: common objects in context*)."""
    with reading(path, "a COCO file has images, annotations and categories"):
        content: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        files = {image["id"]: str(image["file_name"]) for image in content["images"]}
        labels = {category["id"]: str(category["name"]) for category in content.get("categories", ())}
        rows = [
            (files[one["image_id"]], *map(float, one["bbox"]), labels.get(one.get("category_id"), "object"))
            for one in content["annotations"]
        ]
        if not rows:
            raise DataError(f"{path} has no annotations: there is no box in it")
        image, *sides, label = zip(*rows, strict=True)
        columns: dict[str, Any] = {"image": image, **dict(zip(SIDES, sides, strict=True)), "label": label}
        return pa.table({name: list(column) for name, column in columns.items()})
