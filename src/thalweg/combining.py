"""`combine`: the weighted sum of fitted energies, as a model that answers."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from thalweg.data.rows import Rows
from thalweg.data.schema import Schema
from thalweg.energy.algebra import Scaled, Sum
from thalweg.energy.base import AbstractEnergy
from thalweg.errors import SettingsError
from thalweg.model import Calibration, Model, load_rows, origin
from thalweg.models.combined import (
    COMBINED,
    MOST_PARTS,
    OWN,
    Part,
    check_agreement,
    combined,
    has_codes_of,
    own_energy,
    read_parts,
    unread_codes,
)
from thalweg.questions.score import usual_energies

Member = Model | AbstractEnergy | Callable[..., AbstractEnergy]


def combine(members: Sequence[Member], weights: Sequence[float] | None = None, *, data: Any = None) -> Model:
    r"""A model whose energy is \(F(y) = \sum_i \beta_i F_i(y)\): what is likely is what all of them find likely.

    `members` are fitted models of the same columns, the first of which is a model and says what rows look like, and at
    most one energy of your own (`energy_of(…)`, or a function of `(space, key)`). Models of other tables read the same
    cells in their own codes. `weights` \(\beta_i\) are 1 where they are not given; a negative one subtracts.

    P-values of `score` are among the first model's calibration rows, scored anew: they keep their promise only where
    no member was fitted to those rows. `data`, rows that no member has seen, takes their place.

    Raises `SettingsError` for columns that differ in name, kind or levels, and for weights that are no finite numbers
    or as many as the members.
    """
    members = list(members)
    if not members or not isinstance(members[0], Model):
        raise SettingsError(
            "the first of what is combined must be a fitted model: it says what a row looks like"
        )
    schema = members[0].schema
    betas = _weights(weights, len(members))
    found = [
        pair for member, beta in zip(members, betas, strict=True) for pair in _parts(member, beta, members[0])
    ]
    parts, energies = [part for part, _ in found], [energy for _, energy in found]
    if len(parts) > MOST_PARTS:
        raise SettingsError(f"at most {MOST_PARTS} energies are combined, not {len(parts)}")
    if sum(part.recipe == OWN for part in parts) > 1:
        raise SettingsError("at most one energy of your own is combined: add yours first, f + g")
    model = Model(
        F=combined(schema, energies, parts),
        recipe=COMBINED,
        settings={"parts": [part.to_dict() for part in parts]},
        schema=schema,
        calibration=_unscored(members[0] if data is None else None, data, members[0]),
        card=_card(members, parts, energies, data),
    )
    return _scored(model)


def _weights(weights: Sequence[float] | None, count: int) -> list[float]:
    betas = [1.0] * count if weights is None else [float(weight) for weight in weights]
    if len(betas) != count:
        raise SettingsError(f"{count} energies need {count} weights, not {len(betas)}")
    if wrong := [beta for beta in betas if not math.isfinite(beta) or beta == 0]:
        raise SettingsError(f"a weight is a finite number other than 0, not {wrong[0]:g}")
    return betas


def _parts(member: Member, beta: float, first: Model) -> list[tuple[Part, AbstractEnergy]]:
    """What a member adds to the sum: itself, or the parts of a combination."""
    if not isinstance(member, Model):
        if not callable(member):
            raise SettingsError(f"models and energies are combined, not {type(member).__name__}")
        return [(Part(OWN, {}, None, beta), own_energy(member, first.schema))]
    own = _other(member.schema, first.schema)
    if member.recipe != COMBINED:
        return [(Part(member.recipe, dict(member.settings), own, beta), member.F)]
    assert isinstance(member.F, Sum)
    inner = []
    for part, term in zip(read_parts(member.settings), member.F.terms, strict=True):
        assert isinstance(term, Scaled)
        schema = _other(part.schema or member.schema, first.schema)
        part = replace(part, schema=schema, weight=beta * part.weight)
        inner.append((part, unread_codes(term.energy)))
    return inner


def _other(own: Schema, schema: Schema) -> Schema | None:
    """The schema of a part where its codes are not those of the whole."""
    check_agreement(own, schema)
    return None if has_codes_of(own, schema) else own


def _unscored(source: Model | None, data: Any, first: Model) -> Calibration:
    rows: Rows = source.calibration.rows if source else first.schema.encode(load_rows(data).table)
    return Calibration(rows, np.zeros(len(rows)), np.zeros(len(rows)), np.array([[0.0, 1.0], [0.0, 1.0]]))


def _scored(model: Model) -> Model:
    """The model with the energies of its calibration rows."""
    rows = model.calibration.rows
    if not len(rows):
        return model
    energies = model._code_energies(rows)
    usual = usual_energies(model.F, energies, rows)
    # A sum has no smoother energy beside it, so what is odd is the energy itself.
    evidence = {name: {"held-out": energies.tolist()} for name in ("energies", "surprises")}
    return replace(model, calibration=Calibration(rows, energies, energies, usual), evidence=evidence)


def _card(
    members: Sequence[Member], parts: Sequence[Part], energies: Sequence[AbstractEnergy], data: Any
) -> dict[str, Any]:
    first = members[0]
    assert isinstance(first, Model)
    names = [str(m.card.get("data", "data")) if isinstance(m, Model) else "an own energy" for m in members]
    return {
        "data": " + ".join(dict.fromkeys(names)),
        "rows": first.card.get("rows"),
        "columns": first.card.get("columns"),
        "recipe": COMBINED,
        "title": "Combination of energies",
        "code": "-",
        "paper": "Hinton (2002), Training products of experts by minimizing contrastive divergence",
        "formula": "F(y) = " + " + ".join(f"{part.weight:g}·{part.recipe}(y)" for part in parts),
        "status": f"combined of {len(parts)} energies",
        "calibrated on": "the first model's calibration rows, scored anew"
        if data is None
        else "rows given for it",
        "members": "; ".join(_described(m) for m in members),
        **origin(energies),
    }


def _described(member: Member) -> str:
    if not isinstance(member, Model):
        return "an energy of its maker's own"
    return f"{member.recipe} of {member.card.get('data', 'data')}, {member.card.get('created', 'at a time unknown')}"
