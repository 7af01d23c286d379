"""The part about the worst rows: which cell is wrong, and what it should be."""

from typing import Any

import numpy as np
import pyarrow as pa

from thalweg.energy.capabilities import (
    AbstractConditional,
    AbstractScored,
    AbstractSequential,
    AbstractSliding,
)
from thalweg.report import pictures
from thalweg.report.html import LeftOut, Section, bar, escape, number, table
from thalweg.report.rows import Look
from thalweg.report.training import unit

#: How many rows are explained, and how many cells of each are listed.
WORST, CELLS = 6, 5
#: How many of a row's inputs are shown.
GIVEN = 6


def worst(model: Any, look: Look | None, scores: Any) -> Section | LeftOut:
    """The rows of highest energy with the release of each cell."""
    if look is None:
        return LeftOut(
            "Worst rows", "there are no rows to look at: `thalweg report MODEL DATA` explains those of DATA"
        )
    if isinstance(model.F, AbstractSliding):
        return LeftOut(
            "Worst rows", "single pixels do not explain what is in a window: look at what `detect` finds"
        )
    if isinstance(model.F, AbstractScored):
        return LeftOut("Worst rows", "the last of its query is not wrong")
    if scores is None:
        return LeftOut("Worst rows", "the model was fitted without rows that say what is usual")
    order = np.argsort(-np.nan_to_num(np.asarray(scores.energy), nan=np.inf), kind="stable")[:WORST]
    # A row of a sequence is explained among its neighbours, so all are.
    rows, places = (
        (look, order) if isinstance(model.F, AbstractSequential) else (look.take(order), range(WORST))
    )
    told = model.explain(rows.table)
    cards = [_card(model, rows, told, i, scores, place) for i, place in zip(places, order, strict=False)]
    kind = "images" if model.schema.grid else "tables"
    body = f'<div class="worst {kind}">{"".join(cards)}</div>'
    return Section(
        "worst",
        "Worst rows",
        f"The {len(order)} strangest of {len(look):,} {look.title}",
        _reading(model),
        body,
    )


def _reading(model: Any) -> str:
    released = (
        "A cell's release is the energy that the row would lose if that cell were inferred from the others"
    )
    if isinstance(model.F, AbstractConditional):
        given = "pixels" if model.schema.grid else "other columns"
        return (
            "An answer's release is the energy that the row would lose if it were the likeliest for what is given; the "
            f"suggestion is that answer. The {given} are given, and not judged."
        )
    if model.schema.grid:
        return f"{released}: the glow shows where. On the right, every pixel at the value it would take."
    return (
        f"{released}; the suggestion is the value it would take. One large release points at one wrong cell."
    )


def _card(model: Any, rows: Look, told: Any, i: int, scores: Any, place: int) -> str:
    """One row: its number, how strange it is, and why."""
    p = number(float(scores.p_value[place]), 2)
    head = f"row {number(int(rows.numbers[i]))}"
    facts = f"F = {number(round(float(scores.energy[place]), 2))} {_short(unit(model))} · p = {p}"
    pixels = _pictured(model, rows, told, i) if model.schema.grid else ""
    body = pixels + _given(model, rows, i) + _cells(model, rows, told, i, pixels=bool(pixels))
    return f"<article><h3>{escape(head)} <span>{escape(facts)}</span></h3>{body}</article>"


def _given(model: Any, rows: Look, i: int) -> str:
    """The first inputs of a model of some columns given the others."""
    if not isinstance(model.F, AbstractConditional) or model.schema.grid:
        return ""
    inputs = [name for k, name in enumerate(model.schema.space.names) if k not in model.F.answers]
    told = [f"{name} {number(_value(rows.table, name, i))}" for name in inputs[:GIVEN]]
    more = f", and {len(inputs) - GIVEN} more" if len(inputs) > GIVEN else ""
    return f"<p>given {escape(', '.join(told) + more)}</p>"


def _short(counted: str) -> str:
    return counted if counted == "nats" else ""


def _pictured(model: Any, rows: Look, told: Any, i: int) -> str:
    """The image, the heat of release, and every pixel at the value it would take."""
    schema = model.schema
    image = pictures.intensities(rows.table.slice(i, 1), schema)[0]
    if isinstance(model.F, AbstractConditional):
        return f'<div class="strip">{pictures.tile(image, "the row")}</div>'
    proposal = pictures.intensities(told.proposal.slice(i, 1), schema)[0]
    release = dict(zip(told.columns, np.asarray(told.release)[i], strict=True))
    pixel = np.array([[float(release.get(c.name, 0.0)) for c in pictures.pixel_columns(schema)]])
    hot = float(np.nan_to_num(pixel).max())
    glow = pictures.heat(pictures.shaped(pixel, schema.grid)[0], image)
    tiles = (
        pictures.tile(image, "the row"),
        pictures.tile(glow, f"release ≤ {number(round(hot, 1))}", "energy released by each pixel"),
        pictures.tile(proposal, "suggested", "each pixel at the value it would take"),
    )
    return f'<div class="strip">{"".join(tiles)}</div>'


def _cells(model: Any, rows: Look, told: Any, i: int, *, pixels: bool) -> str:
    """The cells that release most: value, release, suggestion; for an image those beside its pixels."""
    release = np.nan_to_num(np.asarray(told.release, float)[i])
    count = int(np.prod(model.schema.grid)) if pixels else 0
    beside = {c.name for c in model.schema.columns[count:]}
    chosen = [k for k in np.argsort(-release, kind="stable") if told.columns[k] in beside][:CELLS]
    if not chosen:
        return ""
    largest = float(release.max())
    lines = [
        (name, _value(rows.table, name, i), bar(release[k], largest), _value(told.proposal, name, i))
        for k, name in ((k, told.columns[k]) for k in chosen)
    ]
    return table(("column", "value", f"release ({_short(unit(model)) or 'energy'})", "suggestion"), lines)


def _value(source: pa.Table, name: str, row: int) -> Any:
    if name not in source.column_names:
        return None
    cell = source.column(name)[row].as_py()
    # A whole number may be a year or a code: no thousands are marked in it.
    return round(cell, 6) if isinstance(cell, float) else None if cell is None else str(cell)
