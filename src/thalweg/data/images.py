"""A folder of PNG and JPEG pictures, all of one size; subfolders are labels."""

from pathlib import Path

import numpy as np
from PIL import Image

from thalweg.data.limits import check_bytes, check_columns
from thalweg.data.reading import reading
from thalweg.errors import DataError

_SUFFIXES = (".png", ".jpg", ".jpeg")
#: The modes of grey pictures.
GREY = ("1", "L")


def read_images(folder: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """(n, h, w) uint8 where every picture is grey, else (n, h, w, 3), in the order of their names.

    Pictures in subfolders (and none beside them) take the subfolder's name as label. Raises `DataError`
    naming the picture that does not open or has another size.
    """
    labels = None
    with reading(folder, "check that the folder may be read"):
        paths = pictures_in(folder)
        if not paths:
            paths = [
                path for child in sorted(folder.iterdir()) if child.is_dir() for path in pictures_in(child)
            ]
            labels = np.array([path.parent.name for path in paths])
    if not paths:
        raise DataError(f"{folder} has no pictures in it (PNG or JPEG): give a folder that has, or a file")
    sizes = [size_and_mode(path) for path in paths]
    grey = all(mode in GREY for _, mode in sizes)
    _check_sizes(paths, sizes, 1 if grey else 3)
    return np.stack([pixels_of(path, "L" if grey else "RGB") for path in paths]), labels


def pictures_in(folder: Path) -> list[Path]:
    """The paths of the PNG and JPEG pictures in a folder, sorted."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES and path.is_file())


def size_and_mode(path: Path) -> tuple[tuple[int, int], str]:
    """(width, height) of a picture and how its pixels are stored. Raises `DataError` for more than 8 bits."""
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


def pixels_of(path: Path, mode: str) -> np.ndarray:
    """The pixels of a picture, uint8: (h, w) of mode "L", (h, w, 3) of "RGB"."""
    with reading(path), Image.open(path) as image:
        return np.asarray(image.convert(mode))
