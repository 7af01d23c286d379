"""`load`: a model from a directory that nobody vouches for."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import PyTree
from safetensors import SafetensorError
from safetensors.numpy import load as from_safetensors

from thalweg.compiled import make_room
from thalweg.energy.base import AbstractEnergy
from thalweg.energy.spaces import Record
from thalweg.errors import DataError, ModelDirectoryError, SettingsError, ThalwegError
from thalweg.locks import in_turn
from thalweg.model import Model
from thalweg.models import RECIPES, combined
from thalweg.models.custom import recipe_for
from thalweg.models.recipe import Recipe
from thalweg.persist.arrays import (
    Kinds,
    check_finite,
    check_kinds,
    fill,
    kinds_of,
    named_arrays,
    named_constants,
    outline,
    read_header,
)
from thalweg.persist.directory import Snapshot
from thalweg.persist.document import Document, read_document, to_calibration
from thalweg.persist.layout import CARD_FILE, LARGEST_HEADER, MODEL_FILE, WEIGHTS_FILE
from thalweg.persist.plain import plain

#: A number that adds arrays is compared with how many there are from here on; below, building costs little.
DEEP = 1_000

#: How often a directory is read that was saved into meanwhile; the last time savers have to wait.
TRIES = 3

Template = AbstractEnergy | Callable[..., AbstractEnergy]


def load(path: str | Path, energy: Template | None = None) -> Model:
    """The model that `save` or `thalweg fit` wrote.

    `energy` is for a model of your own energy, whose code is not in the directory: an energy of the same
    structure, or the function of `(space, key)` that built it; its arrays are replaced by the saved ones.

    Raises `ModelDirectoryError`, naming the path and the reason, for all that is not as it was written.
    """
    make_room()
    directory = Path(path)
    try:
        for _ in range(TRIES - 1):
            snapshot = Snapshot(directory)
            try:
                return _load(snapshot, energy)
            except ModelDirectoryError:
                if snapshot.is_current():
                    raise
        with in_turn(directory, shared=True):
            return _load(Snapshot(directory), energy)
    except (ModelDirectoryError, OSError) as error:
        raise ModelDirectoryError(f"{directory}: {error}") from error


def _load(snapshot: Snapshot, energy: Template | None) -> Model:
    snapshot.text(CARD_FILE)
    document = read_document(snapshot.text(MODEL_FILE), snapshot.format)
    skeleton = _skeleton(document, energy)
    expected = {**kinds_of(named_arrays(skeleton)), **document.calibration}
    check_kinds(expected, document.arrays, MODEL_FILE)
    arrays = _read_arrays(snapshot, expected)
    calibration = to_calibration({name: arrays.pop(name) for name in document.calibration})
    check_finite(arrays)
    return Model(
        F=fill(skeleton, arrays),
        recipe=document.recipe,
        settings=document.settings,
        schema=document.schema,
        calibration=calibration,
        card=document.card,
        history=document.history,
        evidence=document.evidence,
    )


def _skeleton(document: Document, energy: Template | None) -> PyTree:
    """The outline of the energy: from the recipe and its settings, or from the user's own."""
    if document.recipe == combined.COMBINED:
        return _combined_skeleton(document, energy)
    recipe = _recipe(document.recipe, document.energy, energy)
    settings = _settings(recipe, document.settings)
    space = document.schema.space
    _check_depth(recipe, space, settings, len(document.arrays))
    skeleton = outline(lambda: recipe.skeleton(space, settings))
    if energy is not None:
        _check_constants(document.constants, plain(named_constants(skeleton), "constants"))
    return skeleton


def _combined_skeleton(document: Document, energy: Template | None) -> PyTree:
    """The outline of a combination, each of its parts checked as a model of its own would be."""
    try:
        parts = combined.read_parts(document.settings)
    except (SettingsError, DataError) as error:
        raise ModelDirectoryError(f"field 'settings' of {MODEL_FILE}: {error}") from error
    recipes = []
    for part in parts:
        own = energy if part.recipe == combined.OWN else None
        recipes.append(_recipe(part.recipe, "a part of the combination", own))
        settings = _settings(recipes[-1], part.settings)
        _check_depth(recipes[-1], (part.schema or document.schema).space, settings, len(document.arrays))
    if energy is not None and all(part.recipe != combined.OWN for part in parts):
        raise ModelDirectoryError("the combination is made by recipes alone and needs no energy=")
    skeleton = outline(lambda: combined.skeleton(document.schema, parts, recipes))
    _check_constants(document.constants, plain(named_constants(skeleton), "constants"))
    return skeleton


def _check_constants(saved: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    def shown(constants: Mapping[str, Any]) -> str:
        return ", ".join(f"{name} = {value!r}" for name, value in constants.items())[:200] or "none"

    if saved != given:
        raise ModelDirectoryError(
            f"the energy given as energy= has other numbers ({shown(given)}) than the saved one "
            f"({shown(saved)}): build it with the same"
        )


def _recipe(name: str, kind: str, energy: Template | None) -> Recipe:
    """The recipe of this name, or one around the user's own energy, of which `kind` was saved."""
    if energy is not None:
        if name in RECIPES:
            raise ModelDirectoryError(f"the model is made by recipe {name!r} and needs no energy=")
        return recipe_for(energy, None)
    if name in RECIPES:
        return RECIPES[name]
    if name == combined.OWN:
        raise ModelDirectoryError(
            f"the model has an energy of its maker's own ({kind[:100]}), whose code is not in the "
            "directory: load it in Python with thalweg.load(path, energy=…), an energy of the same structure"
        )
    raise ModelDirectoryError(
        f"the model is made by recipe {name[:60]!r}, which this Thalweg does not have "
        f"(it has {', '.join(RECIPES)}): upgrade Thalweg"
    )


def _settings(recipe: Recipe, given: Mapping[str, Any]) -> Any:
    try:
        settings = recipe.configure(dict(given))
    except ThalwegError as error:
        raise ModelDirectoryError(f"field 'settings' of {MODEL_FILE}: {error}") from error
    for name, value in given.items():
        if type(value) is not type(getattr(settings, name)):
            raise ModelDirectoryError(f"setting {name!r} in {MODEL_FILE} has the wrong type")
    return settings


def _check_depth(recipe: Recipe, space: Record, settings: Any, arrays: int) -> None:
    """Refuse a number of layers that the arrays cannot have, before so many are outlined one by one."""
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if type(value) is int and value > max(DEEP, arrays) and _adds_arrays(recipe, space, field.name):
            raise ModelDirectoryError(
                f"setting {field.name!r} is {value:,}, and the model has only {arrays:,} arrays: "
                f"{MODEL_FILE} is damaged"
            )


def _adds_arrays(recipe: Recipe, space: Record, name: str) -> bool:
    def count(value: int) -> int:
        settings = recipe.configure({name: value})
        return len(named_arrays(outline(lambda: recipe.skeleton(space, settings))))

    try:
        return count(2) != count(3)
    except (SettingsError, ModelDirectoryError):
        return False


def _read_arrays(snapshot: Snapshot, expected: Kinds) -> dict[str, np.ndarray]:
    """The arrays of the weights file: its header is checked before the rest is read."""
    with snapshot.open(WEIGHTS_FILE) as (file, size):
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, LARGEST_HEADER):
            reason = (
                "the file is cut off" if length > size - 8 else f"more than {LARGEST_HEADER:,} are not read"
            )
            raise ModelDirectoryError(f"the header of {WEIGHTS_FILE} has {length:,} bytes: {reason}")
        listed = read_header(file.read(length), size - 8 - length, WEIGHTS_FILE)
        check_kinds(expected, listed, WEIGHTS_FILE)
        file.seek(0)
        blob = file.read(size)
    snapshot.check(WEIGHTS_FILE, blob)
    try:
        arrays = from_safetensors(blob)
    except SafetensorError as error:
        raise ModelDirectoryError(f"{WEIGHTS_FILE} cannot be read: {error}") from error
    check_kinds(expected, kinds_of(arrays), WEIGHTS_FILE)
    return arrays
