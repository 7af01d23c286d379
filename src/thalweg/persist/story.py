"""The card, the training curve and the evidence of a model: what its report reads, checked for its form."""

from collections.abc import Mapping
from typing import Any

from thalweg.errors import ModelDirectoryError
from thalweg.persist.layout import MODEL_FILE

_NUMBERS = ("rows", "columns", "steps", "seconds", "memory_mb", "parameters")
_WORDS = ("data", "title", "code", "paper", "formula", "status")
_CURVES = ("step", "loss", "held_out")
_SETS = ("energies", "surprises")


def check_story(record: Mapping[str, Any]) -> None:
    """Raise `ModelDirectoryError`, naming the field, where a report would not find what it reads."""
    card = record["card"]
    _check(all(_is_number(card.get(name)) for name in _NUMBERS), "card", f"numbers for {', '.join(_NUMBERS)}")
    _check(
        all(isinstance(card.get(name), str | None) for name in _WORDS),
        "card",
        f"text for {', '.join(_WORDS)}",
    )
    _check(
        all(map(_is_measurement, record["history"])),
        "history",
        "a list of objects of numbers, with their step",
    )
    sets = [record["evidence"].get(name, {}) for name in _SETS]
    _check(all(map(_is_set, sets)), "evidence", f"lists of numbers in {' and '.join(_SETS)}")


def _is_measurement(record: Any) -> bool:
    if not isinstance(record, dict):
        return False
    return record.get("step") is not None and all(_is_number(record.get(name)) for name in _CURVES)


def _is_set(parts: Any) -> bool:
    return isinstance(parts, dict) and all(
        isinstance(part, list) and all(map(_is_number, part)) for part in parts.values()
    )


def _is_number(value: Any) -> bool:
    """A number that fits a float64, or None: not known, or not finite when it was written."""
    return value is None or type(value) is float or (type(value) is int and abs(value) < 1 << 63)


def _check(condition: bool, field: str, what: str) -> None:
    if not condition:
        raise ModelDirectoryError(f"field {field!r} of {MODEL_FILE} must hold {what}")
