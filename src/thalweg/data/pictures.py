"""Pictures of any size, one at a time: a folder of files, one file, or arrays."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from thalweg.data.arrays import read_idx, read_npy, read_npz
from thalweg.data.images import GREY, pictures_in, pixels_of, size_and_mode
from thalweg.data.reading import reading
from thalweg.data.sniff import format_of
from thalweg.errors import DataError

_FILES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class Pictures:
    """Pictures in order, each (height, width, channels) when it is asked for; `names` where they are files."""

    where: str
    count: int
    read: Callable[[int], np.ndarray]
    names: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> np.ndarray:
        return self.read(i)

    def __iter__(self) -> Iterator[np.ndarray]:
        return map(self.read, range(self.count))

    def name(self, i: int) -> str:
        """What messages call a picture."""
        return self.names[i] if self.names else f"{self.where}, picture {i}"


def open_pictures(source: Any, channels: int | None = None) -> Pictures:
    """The pictures of a folder of PNG and JPEG files, of one such file, of a .npy, .npz or idx file, of an array
    (n, height, width), (n, height, width, channels) or, of one picture, (height, width), or of a list of arrays.

    Files are turned into grey for 1 of `channels`, into colours for 3, and into what they are where it is None. Raises
    `DataError` where there is no picture, and for arrays of another number of channels.
    """
    if isinstance(source, Pictures):
        return source
    if isinstance(source, str | os.PathLike):
        return _of_path(Path(source), channels)
    if isinstance(source, np.ndarray):
        return _of_array(source, "the array", channels)
    if isinstance(source, list | tuple):
        arrays = [np.asarray(one) for one in source]
        return _checked(Pictures("the list", len(arrays), lambda i: _picture(arrays[i])), channels)
    raise DataError(
        f"{type(source).__name__} is not something to look for objects in: give a folder of pictures, an array "
        "(n, height, width[, channels]), or a list of arrays"
    )


def _of_path(path: Path, channels: int | None) -> Pictures:
    if path.is_dir() or path.suffix.lower() in _FILES:
        with reading(path, "check that it may be read"):
            paths = pictures_in(path) if path.is_dir() else [path]
        if not paths:
            raise DataError(f"{path} has no pictures in it (PNG or JPEG): give a folder that has, or a file")
        mode = {None: _mode_of(paths), 1: "L", 3: "RGB"}.get(channels)
        if mode is None:
            raise DataError(
                f"{path}: the model is for pictures of {channels} channels, and files have 1 or 3"
            )
        names = tuple(one.name for one in paths)
        return Pictures(str(path), len(paths), lambda i: _picture(pixels_of(paths[i], mode)), names)
    name, _, key = str(path).partition("::")
    match format_of(Path(name)):
        case "npy":
            array = read_npy(Path(name))
        case "npz":
            array = read_npz(Path(name), key or None)[0]
        case "idx":
            array = read_idx(Path(name))[0]
        case _:
            raise DataError(f"{path} is a table: give a folder of pictures, or an array of them (.npy, .npz)")
    return _of_array(array, str(path), channels)


def _mode_of(paths: list[Path]) -> str:
    return "L" if all(size_and_mode(path)[1] in GREY for path in paths) else "RGB"


def _of_array(array: np.ndarray, where: str, channels: int | None) -> Pictures:
    one = array.ndim == 2 or (array.ndim == 3 and channels not in (None, 1) and array.shape[2] == channels)
    stack = array[None] if one else array
    if stack.ndim not in (3, 4) or not stack.size:
        raise DataError(
            f"{where}: an array of shape {array.shape} holds no pictures: give (n, height, width) or "
            "(n, height, width, channels)"
        )
    return _checked(Pictures(where, len(stack), lambda i: _picture(stack[i])), channels)


def _checked(pictures: Pictures, channels: int | None) -> Pictures:
    """The pictures, of which the array of each is looked at."""
    if not len(pictures):
        raise DataError(f"{pictures.where} is empty: there is no picture in it")
    for i, picture in enumerate(pictures):
        if picture.ndim != 3 or picture.dtype.kind not in "biuf" or not picture.size:
            raise DataError(
                f"{pictures.name(i)} is an array of {picture.dtype} of shape {picture.shape}, not of numbers of shape "
                "(height, width) or (height, width, channels)"
            )
        if channels is not None and picture.shape[2] != channels:
            raise DataError(
                f"{pictures.name(i)} has {picture.shape[2]} channels where the model's windows have {channels}: "
                "turn it into grey or colours as they are"
            )
        if picture.dtype.kind == "f" and not np.isfinite(picture).all():
            raise DataError(f"{pictures.name(i)} has pixels that are not finite: fill them in")
    return pictures


def _picture(array: np.ndarray) -> np.ndarray:
    return array[..., None] if array.ndim == 2 else array
