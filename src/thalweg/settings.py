"""The settings of a recipe, read from what a user gives: values, or the text of a command line."""

from collections.abc import Mapping
from typing import Any

from thalweg.errors import SettingsError, did_you_mean

_TRUTHS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def configured(recipe: str, defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What is given, each value in the type of its default.

    Raises `SettingsError` for an unknown name or a value of the wrong type.
    """
    for name in given:
        if name not in defaults:
            hint = did_you_mean(name, defaults, "it has")
            raise SettingsError(f"recipe {recipe!r} has no setting {name!r}: {hint}")
    return {name: _coerced(recipe, name, defaults[name], value) for name, value in given.items()}


def _coerced(recipe: str, name: str, default: Any, value: Any) -> Any:
    kind = type(default)
    try:
        if kind is bool and isinstance(value, str):
            return _TRUTHS[value.lower()]
        if kind is int and not isinstance(value, bool) and float(value) == int(float(value)):
            return int(float(value))
        if kind is float and not isinstance(value, bool):
            return float(value)
        if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
            return value
    except (KeyError, ValueError, TypeError, OverflowError):
        pass
    raise SettingsError(
        f"setting {name!r} of recipe {recipe!r} needs a value of type {kind.__name__}, not {value!r} "
        f"(default {default!r})"
    )
