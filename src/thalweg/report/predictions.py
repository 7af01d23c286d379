"""The part about the target: how often it is right, what it takes for what, and whether its probabilities are."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int

from thalweg.energy.capabilities import AbstractConditional
from thalweg.evaluate.classification import accuracy, calibration_error
from thalweg.report import answers, figures
from thalweg.report.html import LeftOut, Section, facts, figure, number, pair, table
from thalweg.report.rows import Look, sequence_numbers
from thalweg.report.style import plain, svg

NAME = "Predictions"
#: Rows that are predicted, and classes that a table of confusions has room for.
MOST, CLASSES = 1000, 30


@dataclass(frozen=True)
class Judged:
    """Rows and the model's `answer` about their target, at `index`, from what it is given; the `truth` is in codes, of
    those that are `known`."""

    look: Look
    index: int
    known: Bool[np.ndarray, "n"]
    truth: Float[np.ndarray, "k"]
    answer: Any


def predictions(model: Any, look: Look | None) -> Section | LeftOut:
    """The target of rows that did not train, predicted from their other columns."""
    judged = _judged(model, look)
    if isinstance(judged, LeftOut):
        return judged
    return _numbers(model, judged) if judged.answer.probabilities is None else _classes(model, judged)


def _judged(model: Any, look: Look | None) -> Judged | LeftOut:
    target = model.schema.target
    if target is None:
        return LeftOut(NAME, "no column was named as the target")
    if look is None or target not in look.table.column_names:
        return LeftOut(NAME, "there are no rows that say what the target is")
    index = model.schema.index(target)
    known = model.schema.encode(look.table).observed[:, index]
    if not known.any():
        return LeftOut(NAME, f"no row says what {target!r} is")
    # A row of a sequence is predicted from its neighbours too.
    look = (look if look.sequence else look.take(np.flatnonzero(known))).thinned(MOST)
    rows = model.schema.encode(look.table)
    known = rows.observed[:, index]
    given = look.table
    if isinstance(model.F, AbstractConditional):
        given = given.drop_columns([model.schema.space.names[i] for i in model.F.answers])
    return Judged(look, index, known, rows.values[known, index], model.predict(given))


def _classes(model: Any, judged: Judged) -> Section:
    answer, truth = judged.answer, judged.truth.astype(int)
    levels, shares = [plain(level, 12) for level in answer.levels], answer.probabilities[judged.known]
    found = codes(model, judged.index, answer.value)[judged.known].astype(int)
    right, usual = np.mean(found == truth), np.bincount(truth).max() / len(truth)
    title = (
        f"{100 * right:.1f} % of {answer.target} right, where always the most frequent is {100 * usual:.1f} %"
    )
    together = " and all rows of its sequence" if judged.look.sequence else ""
    reading = (
        f"{number(len(truth))} {judged.look.title}, each predicted from its other columns{together}. Points on the "
        "dashed line are probabilities to be taken at their word: of the rows that it is 80 % sure of, 80 % are "
        "right. Points of few rows scatter."
    )
    tiles = {
        "right": (
            f"{100 * right:.1f} %",
            f"of {answer.target} in {judged.look.title}; always the most frequent: {100 * usual:.1f} %",
        )
    }
    whole = _whole_sequences(judged, found, truth)
    pairs = {
        "accuracy": f"{100 * right:.1f} %",
        "by marginals": f"{100 * accuracy(shares, truth):.1f} %" if whole else None,
        "sequences right": f"{100 * np.mean(whole):.1f} % of {number(len(whole))}" if whole else None,
        "calibration error": f"{100 * calibration_error(shares, truth):.1f} %",
        "−log p of the truth": f"{-np.mean(np.log(np.maximum(shares[np.arange(len(truth)), truth], 1e-30))):.3g} nats",
    }
    if whole:
        tiles["sequences right"] = (f"{100 * np.mean(whole):.1f} %", f"of {number(len(whole))}, every label")
    confused = np.zeros((len(levels), len(levels)), int)
    np.add.at(confused, (truth, found), 1)
    below = _by_class(confused, levels)
    if len(levels) <= CLASSES:
        picture = svg(figures.confusions(confused, levels), "confusions", "What is taken for what")
        below = pair(figure(picture), below)
    curve = svg(figures.reliability_curve(shares, truth), "reliability", "Share right against probability")
    return Section(
        "predictions", NAME, title, reading, facts(pairs), figure(curve), below, _own(model, tiles)
    )


def _whole_sequences(judged: Judged, found: Int[np.ndarray, "k"], truth: Int[np.ndarray, "k"]) -> list[bool]:
    """For each sequence whose every label is known, whether all were found; none where rows are by themselves."""
    if judged.look.sequence is None:
        return []
    number_of = sequence_numbers(judged.look.table.column(judged.look.sequence))
    right = np.zeros(len(judged.known), bool)
    right[judged.known] = found == truth
    every = [number_of == i for i in range(number_of[-1] + 1)]
    return [bool(right[here].all()) for here in every if judged.known[here].all()]


def _by_class(confused: Int[np.ndarray, "k k"], levels: list[str]) -> str:
    """Each class, the most frequent first: how many there are, precision, recall, their harmonic mean, and what it is
    most often taken for."""
    hits, there, said = np.diag(confused), confused.sum(axis=1), confused.sum(axis=0)
    wrong = confused - np.diag(hits)
    headings = ("class", "rows", "precision", "recall", "F1", "most often taken for")
    lines = []
    for i in np.argsort(-there, kind="stable")[:CLASSES]:
        if not there[i]:
            break
        taken = int(np.argmax(wrong[i]))
        confusion = f"{levels[taken]}, {number(int(wrong[i, taken]))} of {number(int(there[i]))}"
        lines.append(
            (
                levels[i],
                int(there[i]),
                _percent(hits[i], said[i]),
                _percent(hits[i], there[i]),
                _percent(2 * hits[i], said[i] + there[i]),
                confusion if wrong[i, taken] else None,
            )
        )
    return table(headings, lines, numeric=headings[1:5])


def _percent(part: int, whole: int) -> str | None:
    return f"{100 * part / whole:.1f} %" if whole else None


def _numbers(model: Any, judged: Judged) -> Section:
    index, answer = judged.index, judged.answer
    numbers = model.schema.number(index, judged.truth)
    low, high = (model.schema.number(index, codes(model, index, answer.quantiles[q])) for q in (0.05, 0.95))
    error = float(np.sqrt(np.mean((answer.mean - numbers) ** 2)))
    spread = float(np.std(numbers))
    inside = np.mean((numbers >= low) & (numbers <= high))
    title = f"Predicted to {number(error)} (RMSE), where the column's own deviation is {number(spread)}"
    reading = (
        f"{number(len(judged.look))} {judged.look.title}, each predicted from its other columns; the line is where a "
        "prediction equals the truth. Nine of ten rows should lie between the 5 % and the 95 % quantile."
    )
    pairs = {
        "RMSE": number(error),
        "explained": f"{100 * (1 - error**2 / spread**2):.1f} % of the variance" if spread else None,
        "between 5 % and 95 %": f"{100 * inside:.1f} %",
    }
    beside = figure(
        svg(figures.predicted(numbers, answer.mean, low, high), "predicted", "Predictions against the truth")
    )
    if not isinstance(model.F, AbstractConditional):
        return Section("predictions", NAME, title, reading, facts(pairs), beside)
    told = answers.answers(model, judged.look, index, answer.mean)
    tiles = told.tiles | {"RMSE": (number(error), f"of the mean; without the inputs {number(spread)}")}
    return Section(
        "predictions", NAME, told.title, told.reading, facts(told.pairs | pairs), told.picture or beside,
        pair(told.curves, beside) if told.picture else told.curves, _own(model, tiles),
    )  # fmt: skip


def _own(model: Any, tiles: dict[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """The numbers for the head of the page, where the model is of its answers alone."""
    return tiles if isinstance(model.F, AbstractConditional) else {}


def codes(model: Any, index: int, cells: Any) -> np.ndarray:
    """The codes of one column's cells."""
    told = pa.table({model.schema.space.names[index]: cells})
    return model.schema.encode(told, partial=True).values[:, index]
