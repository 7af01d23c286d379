"""The parts about training: what was fitted, its curves, its energies, its p-values."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from thalweg.energy.base import AbstractDensity
from thalweg.energy.capabilities import AbstractConditional, AbstractScored
from thalweg.report import figures
from thalweg.report.html import LeftOut, Section, code, escape, facts, figure, number, table, tiles
from thalweg.report.judge import p_values
from thalweg.report.rows import Look
from thalweg.report.style import svg


def unit(model: Any) -> str:
    """What energies are counted in."""
    return "nats" if isinstance(model.F, AbstractDensity | AbstractConditional) else "up to a constant"


def headline(model: Any, parts: Sequence[Section] = ()) -> str:
    """The card: what was fitted to what, and the few numbers to read first: those of the parts, or energies."""
    card = model.card
    shown = {"rows": (number(card.get("rows")), f"of {number(card.get('columns'))} columns")}
    told = {name: tile for part in parts for name, tile in part.tiles.items()}
    shown |= told or _energy_tiles(model)
    if card.get("seconds") is not None:
        shown["time"] = (f"{card['seconds']:.1f} s", _memory(card))
    return (
        '<header><p class="name">Thalweg report</p>'
        f"<h1>{escape(card.get('title', model.recipe))} on {escape(card.get('data', 'data'))}</h1>"
        f'<p class="formula">{escape(card.get("formula", ""))}</p>{tiles(shown)}{_details(model)}</header>'
    )


def _energy_tiles(model: Any) -> dict[str, tuple[str, str]]:
    """The mean energies of held-out rows and, of a model of whole rows, of noise."""
    notes = {"held-out": "rows that training never saw", "uniform noise": "rows that mean nothing"}
    sets = _sets(model, "energies")
    return {
        f"energy, {name}": (number(float(np.mean(sets[name]))), f"{unit(model)} a row: {note}")
        for name, note in notes.items()
        if name in sets
    }


def _sets(model: Any, what: str) -> dict[str, np.ndarray]:
    """What the model was saved with of each set of rows; without uniform noise where it takes any input for granted."""
    sets = {name: np.asarray(values, float) for name, values in model.evidence.get(what, {}).items()}
    if isinstance(model.F, AbstractConditional):
        sets.pop("uniform noise", None)
    return {name: values for name, values in sets.items() if len(values)}


def _memory(card: Mapping[str, Any]) -> str:
    return f"peak memory {number(round(card['memory_mb']))} MB" if card.get("memory_mb") else "to fit"


def _details(model: Any) -> str:
    card = model.card
    known = ("title", "formula", "rows", "columns", "memory_mb", "seconds")
    order = (
        "data",
        "recipe",
        "code",
        "paper",
        "status",
        "settings",
        "seed",
        "split",
        "created",
        "platform",
        "versions",
    )
    rest = [key for key in card if key not in (*known, *order)]
    words = {"code": "taxonomy", "status": "training"}
    pairs = {
        words.get(key, key).replace("_", " "): card[key]
        for key in (*order, *rest)
        if card.get(key) is not None
    }
    return f"<details open><summary>The card</summary>{facts(pairs)}</details>"


COMMANDS = {
    "energy": "thalweg energy MODEL DATA",
    "score": "thalweg score MODEL DATA --alpha 0.01",
    "complete": "thalweg complete MODEL DATA -n 5",
    "denoise": "thalweg denoise MODEL DATA --noise 0.1",
    "sample": "thalweg sample MODEL -n 100 --given COL=VALUE",
    "predict": "thalweg predict MODEL DATA --target COL",
    "label": "thalweg label MODEL DATA -k 3",
    "retrieve": "thalweg retrieve MODEL DATA AMONG -k 10",
    "detect": "thalweg detect MODEL FOLDER",
    "rank": "thalweg rank MODEL DATA [CANDIDATES]",
    "explain": "thalweg explain MODEL DATA --top 3",
    "encode": "thalweg encode MODEL DATA",
}


def questions(model: Any) -> Section:
    """What this model answers, how, and the command for each."""
    from thalweg.questions import methods

    answers = methods(type(model.F))
    rows = [(name, how or "not answered", code(COMMANDS[name]) if how and name in COMMANDS else "–")
            for name, how in answers.items()]  # fmt: skip
    count = sum(1 for how in answers.values() if how)
    return Section(
        "questions",
        "Questions",
        f"This model answers {count} of {len(answers)} questions",
        "Exact: by a formula of this energy. Generic: by a procedure that works for any energy. In the "
        "commands, MODEL is the model's directory and DATA any file with these columns.",
        table(("question", "method", "command"), rows),
    )


def learning(model: Any) -> Section | LeftOut:
    """Loss against step."""
    history = [r for r in model.history if r.get("loss") is not None and np.isfinite(r["loss"])]
    if len(history) < 2:
        return LeftOut("Learning curves", "the training had no steps to draw: it is a formula")
    held_out = [(r["held_out"], r["step"]) for r in history if r.get("held_out") is not None]
    if held_out:
        best, step = min(held_out)
        title = f"The loss on validation rows was lowest, {number(best)}, at step {number(step)}"
        reading = (
            "Validation rows do not train; they say when to stop. Where their curve turns up while the training curve "
            "falls, the model learns by heart. Held-out rows, by which it is judged below, are others still."
        )
    else:
        title = f"The loss fell from {number(history[0]['loss'])} to {number(history[-1]['loss'])}"
        reading = "Each point is one pass; the curve of a healthy run falls and then lies flat."
    picture = svg(figures.learning_curves(history, unit(model)), "learning", "Loss against training step")
    return Section("learning", "Learning curves", title, reading, "", figure(picture))


def energies(model: Any) -> Section | LeftOut:
    """Energies of train, held-out and noise rows."""
    sets = {k: v[np.isfinite(v)] for k, v in _sets(model, "energies").items() if np.isfinite(v).any()}
    if not sets:
        return LeftOut("Energies", "the model was saved without the energies of its rows")
    if isinstance(model.F, AbstractScored):
        return LeftOut("Energies", "they put the rows of a query in order, and mean nothing across queries")
    medians = {name: float(np.median(v)) for name, v in sets.items()}
    rows = [
        (name, len(v), *(float(q) for q in np.quantile(v, [0.05, 0.5, 0.95]))) for name, v in sets.items()
    ]
    headings = ("rows", "number", "5 %", "median", "95 %")
    picture = svg(
        figures.energy_histogram(sets, unit(model)), "energies", "Histogram of energies by kind of row"
    )
    body = table(headings, rows, numeric=headings[1:])
    title, reading = _gap(medians, unit(model)), _gap_reading(medians)
    if isinstance(model.F, AbstractConditional) and "held-out" in sets:
        title = (
            f"The answer of a held-out row costs {number(float(np.mean(sets['held-out'])))} nats in the mean"
        )
        reading = reading.replace("that a row fits", "that an answer fits what it is given")
    return Section("energies", "Energies", title, reading, body, figure(picture))


def _gap(medians: Mapping[str, float], counted: str) -> str:
    if {"held-out", "uniform noise"} <= medians.keys():
        gap = medians["uniform noise"] - medians["held-out"]
        side = "above" if gap >= 0 else "below"
        amount = f"{number(abs(gap))} nats" if counted == "nats" else number(abs(gap))
        return f"Noise lies {amount} {side} the held-out rows"
    return "How the energies are spread"


def _gap_reading(medians: Mapping[str, float]) -> str:
    text = "Low energy means that a row fits."
    if {"train", "held-out"} <= medians.keys():
        gap = medians["held-out"] - medians["train"]
        side = "above" if gap >= 0 else "below"
        text += f" Held-out rows lie {number(abs(gap))} {side} the training rows (medians)"
        text += ": the smaller the gap, the less was learnt by heart."
    return text + " Where the axis bends, it is logarithmic, so that far-off noise still fits."


def calibration(model: Any, look: Look | None, look_p: Any) -> Section | LeftOut:
    """The share of rows flagged against the rate asked for."""
    if isinstance(model.F, AbstractScored):
        return LeftOut("Calibration", "the energies of a ranker do not say which rows are unusual")
    sets = _sets(model, "surprises")
    held_out = np.sort(np.asarray(sets.get("held-out", ()), float))
    if len(held_out) < 20:
        return LeftOut(
            "Calibration", f"{len(held_out)} held-out rows are too few to draw a curve of p-values"
        )
    curves = {}
    if look is not None and not (look.held_out or look.fitted):
        curves[look.name] = np.asarray(look_p)
    fresh = list(curves)
    for name in sets:
        if name != "held-out" and len(sets[name]):
            curves[name] = p_values(sets[name], held_out)
    if not curves:
        return LeftOut("Calibration", "there are no rows besides the held-out ones, which calibrate")
    alpha = 0.01 if len(held_out) >= 99 else 0.05
    said = [f"{100 * np.mean(p <= alpha):.1f} % of {_rows(name)}" for name, p in curves.items()]
    picture = svg(
        figures.calibration_curve(curves, len(held_out)),
        "calibration",
        "Share flagged against rate asked for",
    )
    reading = (
        f"p-values are measured against {number(len(held_out))} held-out rows. Rows of the same kind stay "
        "in the "
        "band around the dashed line; a curve above it is stranger than the held-out rows, one below it more "
        "ordinary"
        + (", as rows are that training saw." if "train" in curves else ".")
        + ("" if fresh else " `thalweg report MODEL DATA` adds the curve of your own rows.")
    )
    title = f"At α = {alpha:g} it flags {', '.join(said)}"
    return Section("calibration", "Calibration", title, reading, "", figure(picture))


def _rows(name: str) -> str:
    return {"train": "the training rows", "uniform noise": "uniform noise"}.get(name, f"the rows of {name}")
