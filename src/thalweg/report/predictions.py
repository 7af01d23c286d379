"""The part about the target: how often it is right, what it takes for what, and whether its probabilities are."""

from typing import Any

import numpy as np

from thalweg.energy.capabilities import AbstractDecoder
from thalweg.evaluate.classification import accuracy, calibration_error
from thalweg.questions.walk import errors
from thalweg.report import figures
from thalweg.report.html import LeftOut, Section, facts, figure, number
from thalweg.report.rows import Look
from thalweg.report.style import plain, svg

NAME = "Predictions"
#: Rows that are predicted, and classes that a table of confusions has room for.
MOST, CLASSES = 1000, 30


def predictions(model: Any, look: Look | None) -> Section | LeftOut:
    """The target of rows that did not train, predicted from their other columns."""
    target = model.schema.target
    if target is None:
        return LeftOut(NAME, "no column was named as the target")
    if look is None or target not in look.table.column_names:
        return LeftOut(NAME, "there are no rows that say what the target is")
    index = model.schema.index(target)
    rows = model.schema.encode(look.table)
    known = np.flatnonzero(rows.observed[:, index])
    if not len(known):
        return LeftOut(NAME, f"no row says what {target!r} is")
    look = look.take(known).thinned(MOST)
    truth = model.schema.encode(look.table).values[:, index]
    answer = model.predict(look.table)
    if answer.probabilities is None:
        return _numbers(model, look, index, truth, answer)
    return _classes(look, target, answer, truth.astype(int))


def _classes(look: Look, target: str, answer: Any, truth: np.ndarray) -> Section:
    levels, shares = [plain(level, 12) for level in answer.levels], answer.probabilities
    right = accuracy(shares, truth)
    usual = np.bincount(truth).max() / len(truth)
    title = f"{100 * right:.1f} % of {target} right, where always the most frequent is {100 * usual:.1f} %"
    reading = (
        f"{number(len(look))} {look.title}, each predicted from its other columns. Points on the dashed line are "
        "probabilities to be taken at their word: of the rows that it is 80 % sure of, 80 % are right. Points of few "
        "rows scatter."
    )
    below = ""
    if len(levels) <= CLASSES:
        confused = np.zeros((len(levels), len(levels)), int)
        np.add.at(confused, (truth, np.argmax(shares, axis=1)), 1)
        below = figure(svg(figures.confusions(confused, levels), "confusions", "What is taken for what"))
    pairs = {
        "accuracy": f"{100 * right:.1f} %",
        "calibration error": f"{100 * calibration_error(shares, truth):.1f} %",
        "−log p of the truth": f"{-np.mean(np.log(np.maximum(shares[np.arange(len(truth)), truth], 1e-30))):.3g} nats",
    }
    curve = svg(figures.reliability_curve(shares, truth), "reliability", "Share right against probability")
    return Section("predictions", NAME, title, reading, facts(pairs), figure(curve), below)


def _numbers(model: Any, look: Look, index: int, truth: np.ndarray, answer: Any) -> Section:
    numbers = model.schema.number(index, truth)
    low, high = (model.schema.number(index, _codes(model, index, answer.quantiles[q])) for q in (0.05, 0.95))
    error = np.sqrt(np.mean((answer.mean - numbers) ** 2))
    spread = np.std(numbers)
    inside = np.mean((numbers >= low) & (numbers <= high))
    title = f"Predicted to {number(float(error))} (RMSE), where the column's own deviation is {number(float(spread))}"
    reading = (
        f"{number(len(look))} {look.title}, each predicted from its other columns; the line is where a prediction "
        "equals the truth. Nine of ten rows should lie between the 5 % and the 95 % quantile."
    )
    pairs = {
        "RMSE": number(float(error)),
        "explained": f"{100 * (1 - error**2 / spread**2):.1f} % of the variance" if spread else None,
        "between 5 % and 95 %": f"{100 * inside:.1f} %",
    }
    if isinstance(model.F, AbstractDecoder):
        pairs |= _latent(model, look, index)
        reading += (
            " z inferred from the answer says how much of it a latent can hold, and z drawn from its prior what is "
            "known without the answer: where the first error is far below the noise of the data, z leaks the answer."
        )
    picture = svg(
        figures.predicted(numbers, answer.mean, low, high), "predicted", "Predictions against the truth"
    )
    return Section("predictions", NAME, title, reading, facts(pairs), figure(picture))


def _latent(model: Any, look: Look, index: int) -> dict[str, Any]:
    """The errors with z inferred from the answer, and with z drawn from its prior."""
    rows = model.schema.encode(look.table)
    whole = rows[np.flatnonzero(rows.observed[:, list(model.F.answers)].all(axis=1))]
    unit = np.diff(model.schema.number(index, np.array([0.0, 1.0])))[0]
    place = model.F.answers.index(index)
    sizes = [unit * np.sqrt(np.mean(part[:, place] ** 2)) for part in errors(model.F, whole)]
    return dict(zip(("RMSE, z inferred", "RMSE, z drawn"), map(number, map(float, sizes)), strict=True))


def _codes(model: Any, index: int, cells: Any) -> np.ndarray:
    """The codes of one column's cells."""
    import pyarrow as pa

    table = pa.table({model.schema.space.names[index]: cells})
    return model.schema.encode(table, partial=True).values[:, index]
