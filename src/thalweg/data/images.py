"""A folder of PNG and JPEG pictures, all of one size; subfolders are labels."""

from pathlib import Path

import numpy as np
from PIL import Image

from thalweg.data.limits import check_bytes, check_columns
from thalweg.data.reading import reading
from thalweg.errors import DataError

_SUFFIXES = (".png", ".jpg", ".jpeg")
_GREY = ("1", "L")


def read_images(folder: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """(n, h, w) uint8 where every picture is grey, else (n, h, w, 3), in the order of their names.

    Pictures in subfolders (and none beside them) take the subfolder's name as label. Raises `DataError`
    naming the picture that does not open or has another size.
    """
    labels = None
    with reading(folder, "check that the folder may be read"):
        paths = _pictures(folder)
        if not paths:
            paths = [
                path for child in sorted(folder.iterdir()) if child.is_dir() for path in _pictures(child)
            ]
            labels = np.array([path.parent.name for path in paths])
    if not paths:
        raise DataError(f"{folder} has no pictures in it (PNG or JPEG): give a folder that has, or a file")
    sizes = [_probe(path) for path in paths]
    grey = all(mode in _GREY for _, mode in sizes)
    _check_sizes(paths, sizes, 1 if grey else 3)
    return np.stack([_pixels(path, "L" if grey else "RGB") for path in paths]), labels


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES and path.is_file())


def _probe(path: Path) -> tuple[tuple[int, int], str]:
    with reading(path), Image.open(path) as image:
        if image.mode.startswith(("I", "F")):
            raise DataError(
                f"{path} has pixels of mode {image.mode}, not 8 bits: convert it to 8 bits a channel"
            )
        return image.size, image.mode


def _check_sizes(paths: list[Path], sizes: list[tuple[tuple[int, int], str]], channels: int) -> None:
    width, height = sizes[0][0]
    for path, (size, _) in zip(paths, sizes, strict=True):
        if size != (width, height):
            raise DataError(
                f"{path} is {size[0]}×{size[1]} pixels where {paths[0].name} is {width}×{height}: "
                "resize them all to one size, for example with: mogrify -resize "
                f"'{width}x{height}!' *{path.suffix}"
            )
    check_columns(width * height * channels, f"{paths[0].parent}: a picture of {width}×{height} pixels")
    check_bytes(
        len(paths) * width * height * channels,
        f"{paths[0].parent} holds {len(paths):,} pictures",
        "use fewer",
    )


def _pixels(path: Path, mode: str) -> np.ndarray:
    with reading(path), Image.open(path) as image:
        return np.asarray(image.convert(mode))
