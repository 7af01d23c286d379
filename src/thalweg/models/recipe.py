"""The recipe contract: how a named model is described, built, and fitted to a table.

A family's file ends with its recipes; `thalweg.models.RECIPES` is the catalogue.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxtyping import PRNGKeyArray

from thalweg.data.rows import Rows
from thalweg.data.schema import Schema
from thalweg.energy.base import AbstractEnergy
from thalweg.energy.spaces import Record
from thalweg.errors import SettingsError, did_you_mean
from thalweg.learning.run import Fit, Run
from thalweg.settings import configured


def place_of(space: Record, name: str) -> int:
    """The place of a column in a row. Raises `SettingsError` with the nearest name."""
    if name not in space.names:
        raise SettingsError(f"there is no column {name!r}: {did_you_mean(name, space.names, 'there are')}")
    return space.names.index(name)


def setting(default: Any, help: str) -> Any:
    """A field of a recipe's settings: its default and the line that `thalweg models NAME` shows."""
    return dataclasses.field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Problem:
    """What a recipe is asked to fit: rows of `space`, and `validation` rows for early stopping (may be empty)."""

    space: Record
    rows: Rows
    validation: Rows
    settings: Any
    key: PRNGKeyArray
    run: Run


@dataclass(frozen=True)
class Recipe:
    """A named way from a table to a fitted energy.

    `code` is the taxonomy code of LeCun's slide (`docs/design.md`); `skeleton` builds an energy of the right
    shapes from the space and the settings alone, which is what a saved model is checked against; `validates` asks
    for rows held out for early stopping; `settle(settings, schema, rows)` gives the settings that were left open the
    values that suit so many rows; `ordered` where the target is a number, however few values it has; `lists` names the
    setting that says whose rows belong together, column by column value, and are held out together.
    """

    name: str
    title: str
    code: str
    paper: str
    formula: str
    about: str
    energy: type[AbstractEnergy]
    settings: type
    skeleton: Callable[[Record, Any], AbstractEnergy]
    train: Callable[[Problem], Fit]
    validates: bool = False
    settle: Callable[[Any, Schema, int], Any] = lambda settings, schema, rows: settings
    ordered: bool = False
    lists: str = ""

    @property
    def conditional(self) -> bool:
        """Whether it is of one column given the others: then its settings have a `target`."""
        return any(field.name == "target" for field in dataclasses.fields(self.settings))

    def aimed(self, settings: Any, target: str | None) -> tuple[Any, str | None]:
        """The settings and the column to predict, where either says which it is.

        Raises `SettingsError` where both do and differ, or where neither does and the recipe needs one.
        """
        if not self.conditional:
            return settings, target
        named = settings.target or target
        if not named:
            raise SettingsError(
                f"recipe {self.name!r} predicts one column from the others: say which, target= (--target NAME)"
            )
        if target and target != named:
            raise SettingsError(
                f"the target is {target!r}, and the setting 'target' says {named!r}: give one"
            )
        return dataclasses.replace(settings, target=named), named

    def configure(self, given: dict[str, Any]) -> Any:
        """The settings with `given` in place of their defaults.

        Values may be strings, as the command line gives them. Raises `SettingsError` for an unknown name or a
        value of the wrong type.
        """
        defaults = {field.name: field.default for field in dataclasses.fields(self.settings)}
        return self.settings(**configured(self.name, defaults, given))
