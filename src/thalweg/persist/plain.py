"""JSON that means one thing: no repeated names, NaN, infinities or halves of characters, and one way of writing it."""

import json
import math
from typing import Any

import numpy as np

from thalweg.errors import ModelDirectoryError
from thalweg.persist.layout import MOST_VALUES


def to_json(value: Any) -> bytes:
    """The canonical bytes of plain values."""
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def from_json(blob: bytes, name: str) -> dict[str, Any]:
    """The object in `blob`; raises `ModelDirectoryError`, calling the file `name`."""
    check_values(blob, name)
    try:
        value = json.loads(
            blob.decode("utf-8"), object_pairs_hook=_unique, parse_float=_finite, parse_constant=_finite
        )
        if rb"\ud" in blob.lower():  # half of a pair, which could be read and not be written again
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ModelDirectoryError(f"{name} is not valid JSON: {str(error)[:200]}") from None
    if not isinstance(value, dict):
        raise ModelDirectoryError(f"{name} must hold one JSON object")
    return value


def check_values(blob: bytes, name: str) -> None:
    """Raise `ModelDirectoryError` where the JSON has too many values to be read."""
    if (values := sum(map(blob.count, (b",", b"[", b"{")))) > MOST_VALUES:
        raise ModelDirectoryError(
            f"{name} holds {values:,} values, more than the {MOST_VALUES:,} that are read"
        )


def plain(value: Any, where: str) -> Any:
    """`value` as JSON can hold it: arrays become lists, numbers that are not finite become None.

    Raises `ModelDirectoryError` for anything else than numbers, text, lists and mappings.
    """
    match value:
        case None | bool() | str():
            return value
        case int() | np.integer():
            return int(value)
        case float() | np.floating():
            return float(value) if math.isfinite(value) else None
        case np.bool_():
            return bool(value)
        case dict():
            return {str(key): plain(item, f"{where}/{key}") for key, item in value.items()}
        case list() | tuple():
            return [plain(item, where) for item in value]
    if hasattr(value, "__array__"):
        return plain(np.asarray(value).tolist(), where)
    raise ModelDirectoryError(
        f"{where} holds a {type(value).__name__}, which a model directory cannot keep: "
        "use numbers, text, lists and mappings"
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return record


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is not a finite number")
    return number
