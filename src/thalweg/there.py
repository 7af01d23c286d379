"""Whether what is named is there, before anything heavy is imported: data and models, and what may be meant instead."""

import difflib
import os
from pathlib import Path

from thalweg.errors import DataError, did_you_mean

#: The built-in data sets: densities to draw from, and real tables that ship with scikit-learn.
TOYS = ("two_moons", "rings", "pinwheel", "eight_gaussians", "grid_25", "checkerboard", "banana", "funnel")
SETS = ("digits", "wine", "breast_cancer", "diabetes", *TOYS)


def check_data(source: str) -> None:
    """Raise `DataError` where the source (a path, `file.npz::key` or a built-in name) is not there."""
    if os.path.exists(source) or source in SETS:
        return
    path = Path(source.partition("::")[0])
    if not path.suffix and len(path.parts) <= 1 and not os.path.exists(path):
        hint = did_you_mean(source, SETS, "the built-in ones are")
        raise DataError(f"there is no file and no built-in data set named {source!r}: {hint}")
    check_file(path)


def check_file(path: Path) -> None:
    """Raise `DataError` unless the path is a file."""
    try:
        if path.is_file():
            return
        folder = path.parent
        near = (
            difflib.get_close_matches(path.name, [p.name for p in folder.iterdir()], 1)
            if folder.is_dir()
            else []
        )
    except (OSError, ValueError) as error:
        raise DataError(f"{str(path)[:200]!r} cannot be opened: {error}") from error
    hint = f"did you mean {near[0]!r}?" if near else "check the path"
    raise DataError(f"there is no file {path}: {hint}")


def no_model(directory: Path) -> str | None:
    """Why there is no model in this place; None where it is a directory."""
    if directory.is_dir():
        return None
    if directory.is_file():
        return "this is a file, and a model is a directory: name the one that `fit` wrote"
    parent = directory.absolute().parent
    names = [path.name for path in parent.iterdir() if path.is_dir()] if parent.is_dir() else []
    near = difflib.get_close_matches(directory.name, names, 1)
    hint = f"did you mean {parent / near[0]}?" if near else "`thalweg fit DATA --out DIR` makes one"
    return f"there is no such directory: {hint}"
