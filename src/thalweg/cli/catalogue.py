"""The catalogue as the command line shows it, written ahead of time: reading it imports no recipe, and no JAX.

`python -m thalweg.cli.catalogue` writes it anew where recipes have changed; a test says when.
"""

import dataclasses
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

_FILE = "catalogue.json"


def catalogue() -> dict[str, dict[str, Any]]:
    """Every recipe by its name: its words, its settings, and how it answers each question."""
    recipes = json.loads((files("thalweg.cli") / _FILE).read_text(encoding="utf-8"))
    return {recipe["name"]: recipe for recipe in recipes}


def defaults(recipe: dict[str, Any]) -> dict[str, Any]:
    """The settings of a recipe of the catalogue, each with its default."""
    return {item["name"]: item["default"] for item in recipe["settings"]}


def text() -> str:
    """What the file should hold, from the recipes themselves."""
    from thalweg.models import RECIPES

    lines = [json.dumps(_described(recipe), ensure_ascii=False) for recipe in RECIPES.values()]
    return "[\n" + ",\n".join(lines) + "\n]\n"


def _described(recipe: Any) -> dict[str, Any]:
    """A recipe as plain values."""
    from thalweg.questions import methods

    settings = [
        {"name": item.name, "default": item.default, "help": item.metadata.get("help", "")}
        for item in dataclasses.fields(recipe.settings)
    ]
    words = {key: getattr(recipe, key) for key in ("name", "code", "title", "about", "formula", "paper")}
    return {**words, "settings": settings, "questions": methods(recipe.energy)}


if __name__ == "__main__":
    Path(__file__).with_name(_FILE).write_text(text(), encoding="utf-8")
