"""An energy's arrays by name, and the checks that they pass before they are loaded."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from thalweg.errors import ModelDirectoryError
from thalweg.persist.layout import MOST_ARRAYS
from thalweg.persist.plain import from_json

#: The names that safetensors has for types.
_CODES = {
    "bool": "BOOL",
    **{f"{sign}int{bits}": f"{sign or 'i'}{bits}".upper() for sign in ("", "u") for bits in (8, 16, 32, 64)},
    **{"float16": "F16", "float32": "F32", "float64": "F64"},
}


@dataclass(frozen=True)
class Kind:
    """The type and shape of an array, before there is one."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """In bytes."""
        return math.prod(self.shape) * (1 if self.dtype == "BOOL" else int(self.dtype[1:]) // 8)

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


Kinds = Mapping[str, Kind]


def kind_of(array: Any, name: str) -> Kind:
    """Raises `ModelDirectoryError` for a type that the format does not have."""
    code = _CODES.get(str(array.dtype))
    if code is None:
        raise ModelDirectoryError(
            f"array {name!r} has type {array.dtype}, which a model directory cannot keep: "
            f"use one of {', '.join(_CODES)}"
        )
    return Kind(code, tuple(array.shape))


def kinds_of(arrays: Mapping[str, Any]) -> dict[str, Kind]:
    return {name: kind_of(array, name) for name, array in arrays.items()}


def is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | jax.ShapeDtypeStruct)


def named_arrays(energy: PyTree) -> dict[str, Any]:
    """The arrays of an energy by their place in it, such as `trunk/weights/0`."""
    return _named(energy, is_array)


def named_constants(energy: PyTree) -> dict[str, Any]:
    """The numbers and words of an energy that are no arrays, by their place in it."""
    return _named(energy, lambda leaf: isinstance(leaf, bool | int | float | str))


def _named(tree: PyTree, wanted: Callable[[Any], bool]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if wanted(leaf):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            if name in found:
                raise ModelDirectoryError(f"two parts of the energy have the name {name!r}: rename one")
            found[name] = leaf
    return found


class _Kept:
    """A NumPy array as `eval_shape` leaves it alone: it would be taken for one of JAX's, with 32 bits."""

    def __init__(self, array: np.ndarray):
        self.array = array


def outline(build: Callable[[], PyTree]) -> PyTree:
    """What `build` would return, with shapes in place of JAX's arrays: none of them is allocated.

    Raises `ModelDirectoryError` where it fails, whatever the reason.
    """

    def kept() -> PyTree:
        return jax.tree.map(lambda leaf: _Kept(leaf) if isinstance(leaf, np.ndarray) else leaf, build())

    try:
        outlined = eqx.filter_eval_shape(kept)
        return jax.tree.map(lambda leaf: leaf.array if isinstance(leaf, _Kept) else leaf, outlined)
    except Exception as error:
        reason = str(error).strip().split("\n")[0][:200]
        raise ModelDirectoryError(f"no energy can be built from its settings and schema: {reason}") from error


def check_kinds(expected: Kinds, found: Kinds, where: str) -> None:
    """Raise `ModelDirectoryError`, naming an array, unless both have the same names, types and shapes."""
    if missing := sorted(expected.keys() - found.keys()):
        raise ModelDirectoryError(f"{where} lacks the array {missing[0]!r}" + _more(missing))
    if extra := sorted(found.keys() - expected.keys()):
        raise ModelDirectoryError(
            f"{where} has an array {extra[0][:80]!r} that the model has no place for" + _more(extra)
        )
    for name, kind in expected.items():
        if found[name] != kind:
            raise ModelDirectoryError(
                f"{where} says that array {name!r} is {found[name]}, and the model needs {kind}"
            )


def check_finite(arrays: Mapping[str, np.ndarray]) -> None:
    for name, array in arrays.items():
        if np.issubdtype(array.dtype, np.inexact) and not np.isfinite(array).all():
            raise ModelDirectoryError(f"array {name!r} holds NaN or infinities: the fit diverged, fit again")


def read_header(blob: bytes, body: int, where: str) -> dict[str, Kind]:
    """The arrays that a safetensors header lists, which must fill a body of `body` bytes without a gap.

    Raises `ModelDirectoryError` otherwise.
    """
    listed = from_json(blob, f"the header of {where}")
    if len(listed) > MOST_ARRAYS:
        raise ModelDirectoryError(
            f"{where} lists {len(listed):,} arrays: more than {MOST_ARRAYS:,} are not read"
        )
    kinds, places = {}, []
    for name, entry in listed.items():
        if not (isinstance(entry, dict) and entry.keys() == {"dtype", "shape", "data_offsets"}):
            raise ModelDirectoryError(f"the header of {where} is damaged at array {name[:80]!r}")
        kinds[name] = to_kind(entry["dtype"], entry["shape"], f"array {name[:80]!r} in {where}")
        places.append((_whole_numbers(entry["data_offsets"]), name))
    end = 0
    for place, name in sorted(places):
        if len(place) != 2 or place != (end, end + kinds[name].size):
            raise ModelDirectoryError(f"array {name!r} in {where} does not lie where its shape says")
        end = place[1]
    if end != body:
        raise ModelDirectoryError(f"{where} holds {body:,} bytes of numbers, and its arrays need {end:,}")
    return kinds


def to_kind(dtype: Any, shape: Any, where: str) -> Kind:
    """A type and shape read from a file; raises `ModelDirectoryError` where they are none."""
    dims = _whole_numbers(shape)
    sensible = isinstance(shape, list) and len(dims) == len(shape) <= 32
    if dtype not in _CODES.values() or not sensible:
        raise ModelDirectoryError(f"{where} has no type and shape that make sense")
    return Kind(dtype, dims)


def fill(outlined: PyTree, arrays: Mapping[str, np.ndarray]) -> PyTree:
    """The outline with its arrays; those that were NumPy's stay so."""

    def place(path, leaf):
        if not is_array(leaf):
            return leaf
        array = arrays[jax.tree_util.keystr(path, simple=True, separator="/")]
        return array if isinstance(leaf, np.ndarray) else jnp.asarray(array)

    return jax.tree_util.tree_map_with_path(place, outlined)


def _whole_numbers(value: Any) -> tuple[int, ...]:
    """The whole numbers from 0 of a list; () where it is not such a list."""
    if not isinstance(value, list) or not all(type(item) is int and item >= 0 for item in value):
        return ()
    return tuple(value)


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1:,} more)" if len(names) > 1 else ""
