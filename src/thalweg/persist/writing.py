"""`save`: a model into a directory, whole or not at all."""

import os
from pathlib import Path

import numpy as np
from jaxtyping import PyTree
from safetensors.numpy import save as to_safetensors

from thalweg.data.schema import Schema
from thalweg.errors import DataError, ModelDirectoryError, OutputError
from thalweg.files import atomic_directory, check_output
from thalweg.model import Model
from thalweg.models import RECIPES, combined
from thalweg.persist.arrays import check_finite, check_kinds, kinds_of, named_arrays, named_constants, outline
from thalweg.persist.card import write_card
from thalweg.persist.directory import write_ahead, write_new
from thalweg.persist.document import calibration_arrays, write_document
from thalweg.persist.layout import (
    CARD_FILE,
    CONTENTS,
    LARGEST_HEADER,
    LARGEST_TEXT,
    MANIFEST_FILE,
    MODEL_FILE,
    MOST_ARRAYS,
    NEXT,
    WEIGHTS_FILE,
)
from thalweg.persist.plain import check_values, to_json

#: What a training leaves in its directory, beside which its model belongs.
RUN_FILES = {"checkpoint.safetensors", "metrics.jsonl", "report.html"}


def save(model: Model, path: str | Path, *, force: bool = False) -> Path:
    """Write a model directory, and return its path.

    A directory that holds only the files of a run receives the model beside them; one that holds a model or
    anything else is refused unless `force`, which replaces the model and leaves all other files alone. After
    a kill or a full disk the old model is still there, or the new one is.

    Raises `OutputError` for a place that cannot be written, `ModelDirectoryError` for a model that could not
    be loaded again (NaN in its arrays, types that the format does not have).
    """
    path = Path(path)
    check_destination(path, force=force)
    contents = _contents(model)
    try:
        if path.is_dir() or not _write_first(path, contents, force=force):
            write_ahead(path, contents)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"{path} could not be written: {error}; a model that was there is whole") from error
    return path


def check_schema(schema: Schema) -> None:
    """Raise `DataError` where a model of this schema could not be saved: call it before a long training."""
    size, most = len(to_json(schema.to_dict())), LARGEST_TEXT[MODEL_FILE] * 3 // 4
    if size > most:
        raise DataError(
            f"the description of {len(schema.columns):,} columns takes {size:,} bytes, more than the {most:,} that a "
            "model directory keeps: leave columns out"
        )


def _write_first(path: Path, contents: dict[str, bytes], *, force: bool) -> bool:
    """Write a directory that was not there; False where, with `force`, somebody else's has come between."""
    try:
        with atomic_directory(path) as temporary:
            write_new(temporary, contents)
    except OSError:
        if force and path.is_dir():
            return False
        raise
    return True


def check_destination(path: str | Path, *, force: bool = False) -> None:
    """Raise `OutputError` where `save` would refuse: call it before a long training, not after."""
    path = Path(path)
    if not os.path.lexists(path):
        check_output(path)
        return
    if not path.is_dir():
        raise OutputError(f"{path} is a file, and a model is a directory: give another path")
    names = set(os.listdir(path))
    if len(names & {MODEL_FILE, WEIGHTS_FILE, MANIFEST_FILE}) > 1 or NEXT in names:
        if not force:
            raise OutputError(
                f"{path} exists already and holds a model: give another path, or --force (force=True) to "
                "replace it"
            )
    elif foreign := sorted(names & {*CONTENTS, MANIFEST_FILE}):
        raise OutputError(
            f"{path} is not a model directory, and its {foreign[0]} would be overwritten: give another path"
        )
    elif not force and (others := sorted(name for name in names - RUN_FILES if not name.startswith("."))):
        raise OutputError(
            f"{path} exists already and holds {others[0]}: give another path, or --force (force=True) to "
            "write the model beside it"
        )


def _contents(model: Model) -> dict[str, bytes]:
    """The files but the manifest; everything that `load` would refuse is refused here."""
    # safetensors reads the memory as it lies, so the arrays must lie in C order.
    energy = {name: np.asarray(leaf, order="C") for name, leaf in _arrays(model).items()}
    check_finite(energy)
    calibration = calibration_arrays(model.calibration)
    if clash := energy.keys() & calibration.keys():
        raise ModelDirectoryError(
            f"the array {min(clash)!r} of the energy has the calibration's name: rename it"
        )
    arrays = energy | {name: np.asarray(array, order="C") for name, array in calibration.items()}
    kinds = kinds_of(arrays)
    constants = named_constants(model.F) if model.recipe not in RECIPES else {}
    contents = {
        CARD_FILE: write_card(model),
        MODEL_FILE: write_document(model, kinds, constants),
        WEIGHTS_FILE: to_safetensors(arrays),
    }
    _check_sizes(contents, len(arrays))
    return contents


def _arrays(model: Model) -> dict[str, np.ndarray]:
    arrays = named_arrays(model.F)
    if skeleton := _skeleton(model):
        check_kinds(
            kinds_of(named_arrays(skeleton)), kinds_of(arrays), f"the energy of a {model.recipe!r} model"
        )
    return arrays


def _skeleton(model: Model) -> PyTree | None:
    """What the energy will be compared with when it is read; None where that takes the user's own code."""
    if model.recipe == combined.COMBINED:
        parts = combined.read_parts(model.settings)
        if any(part.recipe not in RECIPES for part in parts):
            return None
        recipes = [RECIPES[part.recipe] for part in parts]
        return outline(lambda: combined.skeleton(model.schema, parts, recipes))
    recipe = RECIPES.get(model.recipe)
    if recipe is None:
        return None
    return outline(lambda: recipe.skeleton(model.schema.space, recipe.configure(model.settings)))


def _check_sizes(contents: dict[str, bytes], arrays: int) -> None:
    header = int.from_bytes(contents[WEIGHTS_FILE][:8], "little")
    if arrays > MOST_ARRAYS or header > LARGEST_HEADER:
        raise ModelDirectoryError(f"the energy has {arrays:,} arrays: more than {MOST_ARRAYS:,} are not kept")
    check_values(contents[MODEL_FILE], MODEL_FILE)
    for name in (CARD_FILE, MODEL_FILE):
        if len(contents[name]) > LARGEST_TEXT[name]:
            raise ModelDirectoryError(
                f"{name} would have {len(contents[name]):,} bytes, more than the {LARGEST_TEXT[name]:,} that "
                "are read: keep less in card and evidence"
            )
