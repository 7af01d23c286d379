"""Damage: bytes flipped, cut, moved and inserted, and JSON whose values have become something else."""

from collections.abc import Callable
from typing import Any

import numpy as np

Generator = np.random.Generator

#: Numbers at which decoders have gone wrong before.
WORDS = [
    *(value.to_bytes(4, order) for order in ("little", "big") for value in (0, 1, 0x7FFFFFFF, 0xFFFFFFFF)),
    *((1 << power).to_bytes(8, "little") for power in (31, 32, 40, 62)),
    (2**64 - 1).to_bytes(8, "little"),
]


def damaged(blob: bytes, rng: Generator) -> bytes:
    """One to four changes of one of the kinds below."""
    change = pick(rng, (flip, flip, overwrite, cut, insert, repeat, swap, zero))
    for _ in range(int(rng.integers(1, 5))):
        blob = change(blob, rng)
    return blob


def damaged_end(blob: bytes, rng: Generator) -> bytes:
    """Damage within the last bytes, where Parquet, Arrow and zip have their tables of contents."""
    length = min(len(blob), int(pick(rng, (12, 60, 400, 2000))))
    return blob[:-length] + pick(rng, (flip, overwrite))(blob[-length:], rng)


def flip(blob: bytes, rng: Generator) -> bytes:
    changed = bytearray(blob)
    for _ in range(int(rng.integers(1, 6)) if blob else 0):
        changed[_place(blob, rng)] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def overwrite(blob: bytes, rng: Generator) -> bytes:
    start, word = _place(blob, rng), pick(rng, WORDS)
    return blob[:start] + word + blob[start + len(word) :]


def cut(blob: bytes, rng: Generator) -> bytes:
    return blob[: _place(blob, rng)]


def insert(blob: bytes, rng: Generator) -> bytes:
    start = _place(blob, rng)
    return blob[:start] + rng.bytes(int(rng.integers(1, 30))) + blob[start:]


def repeat(blob: bytes, rng: Generator) -> bytes:
    start, end = _part(blob, rng)
    return blob[:end] + blob[start:end] * int(rng.integers(1, 4)) + blob[end:]


def swap(blob: bytes, rng: Generator) -> bytes:
    start, end = _part(blob, rng)
    middle = (start + end) // 2
    return blob[:start] + blob[middle:end] + blob[start:middle] + blob[end:]


def zero(blob: bytes, rng: Generator) -> bytes:
    start, end = _part(blob, rng)
    return blob[:start] + bytes(end - start) + blob[end:]


def pick(rng: Generator, choices: Any) -> Any:
    return choices[int(rng.integers(len(choices)))]


def deep(levels: int) -> Any:
    nested: Any = []
    for _ in range(levels):
        nested = [nested]
    return nested


ODD_VALUES: tuple[Callable[[], Any], ...] = tuple(
    (lambda value=value: value)
    for value in (
        *(
            None,
            True,
            False,
            0,
            -1,
            1,
            2,
            1.5,
            -0.0,
            1e308,
            float("nan"),
            float("inf"),
            10**9,
            10**18,
            10**30,
        ),
        *("", "0", "x" * 5000, "../../etc/passwd", "\x00", "\ud800", "\u202e", "nan", "__class__", "a/b"),
        *([], {}, [[]], [None], {"": ""}, [1, 2, 3], {"a": 1}, deep(90), [10**400], [0] * 5000),
    )
)


def odd_json(value: Any, rng: Generator) -> Any:
    """The value with one of its parts replaced, dropped, doubled, renamed or exchanged for another."""
    places = list(_places(value))
    path = pick(rng, places) if places else ()
    return _changed(value, path, rng) if path else pick(rng, ODD_VALUES)()


def _places(value: Any, path: tuple = ()) -> list[tuple]:
    """Paths to the parts; of a long list only its ends, so that a curve does not outweigh all else."""
    if isinstance(value, dict):
        keys: list = list(value)
    elif isinstance(value, list):
        keys = list(range(len(value))) if len(value) < 8 else [0, 1, len(value) - 1]
    else:
        return []
    return [p for key in keys for p in ((*path, key), *_places(value[key], (*path, key)))]


def _changed(value: Any, path: tuple, rng: Generator) -> Any:
    value = dict(value) if isinstance(value, dict) else list(value)
    key, *rest = path
    if rest:
        value[key] = _changed(value[key], tuple(rest), rng)
        return value
    match pick(rng, ("replace", "replace", "nudge", "drop", "rename", "exchange")):
        case "drop":
            del value[key]
        case "rename" if isinstance(value, dict):
            value[pick(rng, (key + "x", key.upper(), "", "../" + key))] = value.pop(key)
        case "exchange":
            value[key] = value[pick(rng, list(value))] if isinstance(value, dict) else pick(rng, value)
        case "nudge" if type(value[key]) in (int, float):
            value[key] = pick(rng, (value[key] + 1, value[key] - 1, -value[key], value[key] * 1000, 0))
        case _:
            value[key] = pick(rng, ODD_VALUES)()
    return value


def _place(blob: bytes, rng: Generator) -> int:
    return int(rng.integers(len(blob))) if blob else 0


def _part(blob: bytes, rng: Generator) -> tuple[int, int]:
    start = _place(blob, rng)
    return start, min(len(blob), start + int(rng.integers(1, 200)))
