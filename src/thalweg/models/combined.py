r"""Energies of fitted models, added: a product of experts, each vetoing what it finds unlikely.

\[ F(y) = \sum_i \beta_i F_i(y) \]

over the codes of the first model's table; a model of another table reads its own codes of the same cells.

Hinton (2002), *Training products of experts by minimizing contrastive divergence*.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import numpy as np

from thalweg.data.column import ColumnSchema
from thalweg.data.schema import Schema
from thalweg.energy.algebra import Scaled, Sum
from thalweg.energy.base import AbstractEnergy
from thalweg.energy.spaces import Record
from thalweg.errors import SettingsError
from thalweg.models.custom import on_record
from thalweg.models.recipe import Recipe

#: What a combination is called where a recipe's name stands, and an energy of a user's own.
COMBINED, OWN = "combined", "custom"
#: Energies in a combination at most.
MOST_PARTS = 64


class Recoded(AbstractEnergy):
    """An energy over the codes of one table, read over those of another: its columns are found at `order`, and its
    codes are `scale` times these plus `shift`."""

    energy: AbstractEnergy
    space: Record = eqx.field(static=True)
    order: tuple[int, ...] = eqx.field(static=True)
    scale: tuple[float, ...] = eqx.field(static=True)
    shift: tuple[float, ...] = eqx.field(static=True)

    def __call__(self, y, x=None):
        own = y[np.array(self.order)] * np.array(self.scale, np.float32) + np.array(self.shift, np.float32)
        return self.energy(own, x)


@dataclass(frozen=True)
class Part:
    """One energy of a combination: its recipe and settings, its own schema (None: that of the whole), its weight."""

    recipe: str
    settings: dict[str, Any]
    schema: Schema | None
    weight: float

    def to_dict(self) -> dict[str, Any]:
        schema = None if self.schema is None else self.schema.to_dict()
        return {"recipe": self.recipe, "settings": self.settings, "schema": schema, "weight": self.weight}


def combined(schema: Schema, energies: Sequence[AbstractEnergy], parts: Sequence[Part]) -> Sum:
    """The weighted sum of the parts' energies over the space of `schema`.

    Raises `SettingsError` where the columns of a part are others.
    """
    terms = [
        Scaled(energy if part.schema is None else recoded(energy, part.schema, schema), part.weight)
        for energy, part in zip(energies, parts, strict=True)
    ]
    return Sum(tuple(terms))


def recoded(energy: AbstractEnergy, own: Schema, schema: Schema) -> AbstractEnergy:
    """An energy over the codes of `own`, read over those of `schema`."""
    check_agreement(own, schema)
    if has_codes_of(own, schema):
        return energy
    columns = {column.name: i for i, column in enumerate(schema.variables)}
    order = tuple(columns[column.name] for column in own.variables)
    pairs = [_affine(schema.variables[i], column) for i, column in zip(order, own.variables, strict=True)]
    return Recoded(energy, schema.space, order, tuple(a for a, _ in pairs), tuple(b for _, b in pairs))


def has_codes_of(own: Schema, schema: Schema) -> bool:
    """Whether tables that agree also have the same codes for the same cells, and the same space."""
    if own.space != schema.space:
        return False
    pairs = zip(schema.variables, own.variables, strict=True)
    return all(_affine(column, other) == (1.0, 0.0) for column, other in pairs)


def check_agreement(own: Schema, schema: Schema) -> None:
    """Raise `SettingsError`, naming the column, unless both have the same columns of the same kinds and levels."""
    theirs = {column.name: column for column in own.variables}
    ours = {column.name: column for column in schema.variables}
    if other := sorted(theirs.keys() ^ ours.keys()):
        raise SettingsError(
            f"models of different columns cannot be combined: only one of them sees {other[0]!r} vary; fit both to "
            "the same columns"
        )
    for name, column in ours.items():
        if _nature(column) != _nature(theirs[name]):
            raise SettingsError(
                f"column {name!r} is {_described(column)} in one model and {_described(theirs[name])} in another, so "
                "their energies are of different things: fit both with the same kinds, and to tables that show every "
                "level"
            )


def _nature(column: ColumnSchema) -> tuple[Any, ...]:
    if column.has_levels:
        return "levels", column.levels
    return (column.kind, column.type if column.kind == "datetime" else "")


def _described(column: ColumnSchema) -> str:
    return f"{column.kind} with the levels {list(column.levels[:6])}" if column.has_levels else column.kind


def _affine(column: ColumnSchema, own: ColumnSchema) -> tuple[float, float]:
    """Factor and summand from the codes of `column` to those of `own`; differences first, for they are exact."""
    if column.has_levels:
        return 1.0, 0.0
    if column.kind == "integer":
        return 1.0, float((column.minimum or 0) - (own.minimum or 0))
    apart = float(column.origin - own.origin) + (column.center - own.center)
    return column.std / own.std, apart / own.std


def read_parts(settings: Mapping[str, Any]) -> tuple[Part, ...]:
    """The parts in the settings of a combination; raises `SettingsError` or `DataError` where they are none."""
    listed = settings.get("parts")
    if settings.keys() != {"parts"} or not isinstance(listed, list) or not 1 <= len(listed) <= MOST_PARTS:
        raise SettingsError(f"a combination lists 1 to {MOST_PARTS} parts and nothing else")
    return tuple(_read_part(entry) for entry in listed)


def _read_part(entry: Any) -> Part:
    wanted = {"recipe": str, "settings": dict, "weight": float}
    entry = entry if isinstance(entry, dict) else {}
    if entry.keys() != {*wanted, "schema"} or any(
        type(entry[name]) is not kind for name, kind in wanted.items()
    ):
        raise SettingsError("each part of a combination has a recipe, settings, a schema and a weight")
    content = entry["schema"]
    schema = None if content is None else Schema.from_dict(content if isinstance(content, dict) else {})
    return Part(entry["recipe"], entry["settings"], schema, entry["weight"])


def skeleton(schema: Schema, parts: Sequence[Part], recipes: Sequence[Recipe]) -> Sum:
    """A combination of the right shapes, the energies as their recipes build them."""
    energies = []
    for part, recipe in zip(parts, recipes, strict=True):
        space = (part.schema or schema).space
        energies.append(recipe.skeleton(space, recipe.configure(part.settings)))
    return combined(schema, energies, parts)


def own_energy(energy: Any, schema: Schema) -> AbstractEnergy:
    """A user's own energy over the space of a table."""
    return on_record(energy, schema.space, jax.random.key(0))


def unread_codes(energy: AbstractEnergy) -> AbstractEnergy:
    """The energy over its own codes."""
    return energy.energy if isinstance(energy, Recoded) else energy
