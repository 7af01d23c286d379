r"""Numbers of which there may be many right ones for one input: how likely the true ones are, and where the modes lie.

A mean of several answers may be none of them, so its error says little. The mean \(\log p(y \mid x)\) of held-out
answers is set beside that of one normal distribution of them all.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from sklearn.feature_selection import mutual_info_regression

from thalweg.data.rows import Rows
from thalweg.energy.capabilities import AbstractDecoder
from thalweg.questions.predict import conditional, unread
from thalweg.questions.walk import errors
from thalweg.report import figures
from thalweg.report.html import figure, number
from thalweg.report.rows import Look
from thalweg.report.style import plain, svg

#: Rows whose modes are looked for, of one answer and of several together, and rows whose curves are drawn.
ROWS, JOINT_ROWS, CURVES = 200, 40, 6
#: How near a mode an answer is found, in deviations of its column, and the least probability of such a mode.
NEAR, LEAST = 0.2, 0.05
#: Points of a curve, and inputs among which the one to draw against is chosen.
POINTS, INPUTS = 257, 50


@dataclass(frozen=True)
class Told:
    """What there is to say: a title, how to read it, numbers, a picture of modes and one of curves."""

    title: str
    reading: str
    pairs: dict[str, Any]
    tiles: dict[str, tuple[str, str]]
    picture: str
    curves: str


def answers(model: Any, look: Look, index: int, mean: Float[np.ndarray, "n"]) -> Told:
    """The answers of rows whose target, at `index`, is known, beside the model's; `mean` are its conditional means."""
    rows = model.schema.encode(look.table)
    whole = np.flatnonzero(rows.observed[:, list(model.F.answers)].all(axis=1))
    log_p = -float(np.mean(model.energy(look.table.take(whole))))
    normal = _normal(_numbers(model, rows[whole]))
    pairs = {"mean log p": f"{number(log_p)} nats", "of one normal": f"{number(normal)} nats"}
    tiles = {
        "log p of an answer": (
            number(log_p),
            f"nats, the mean of {look.title}; {number(normal)} by one normal distribution of them all",
        )
    }
    gain, better = abs(log_p - normal), "likelier" if log_p > normal else "less likely"
    title = f"True answers are {number(gain, 3)} nats {better} than by one normal distribution of them all"
    reading = (
        f"{number(len(look))} {look.title}, each predicted from its inputs. Where several answers are right, their "
        "mean may be none of them: look at the modes, and at how likely the true answers are. Near is within "
        f"{NEAR:g} of the column's deviation, modes are those of at least {100 * LEAST:.0f} %. Nine of ten should lie "
        "between the 5 % and the 95 % quantile."
    )
    modes = _modes(model, look, rows, index)
    pairs |= modes.pairs(mean)
    if isinstance(model.F, AbstractDecoder):
        pairs |= _latent(model, rows[whole], index)
        reading += (
            " z inferred from the answer says how much of it a latent can hold, and z drawn from its prior what is "
            "known without the answer: where the first error is far below the noise of the data, z leaks the answer."
        )
    return Told(title, reading, pairs, tiles, _against(model, modes), _curves(model, modes))


def _numbers(model: Any, rows: Rows) -> Float[np.ndarray, "n a"]:
    """The answers of the rows in the user's units."""
    return np.stack([model.schema.number(i, rows.values[:, i]) for i in model.F.answers], axis=1)


def _normal(numbers: Float[np.ndarray, "n a"]) -> float:
    r"""The mean log p of numbers by a normal distribution of their own mean and covariance,
    \(-\frac12 \log |2 \pi e \Sigma|\)."""
    covariance = np.atleast_2d(np.cov(numbers, rowvar=False, ddof=0))
    return float(-0.5 * np.linalg.slogdet(2 * np.pi * np.e * covariance)[1])


@dataclass(frozen=True)
class Found:
    """The modes of some rows: which of the `rows` each is `of`, its `values` (m, a) and its `share` of the probability;
    `truth` (n, a) are the rows' own answers, and `place` says which of them is the target."""

    rows: Rows
    chosen: Int[np.ndarray, "n"]
    of: Int[np.ndarray, "m"]
    values: Float[np.ndarray, "m a"]
    share: Float[np.ndarray, "m"]
    truth: Float[np.ndarray, "n a"]
    index: int
    place: int

    def pairs(self, mean: Float[np.ndarray, "every"]) -> dict[str, str]:
        """How many modes a row has, and how often the truth is near one, and near the mean."""
        likely, reach = self.share >= LEAST, NEAR * np.maximum(self.truth.std(axis=0), 1e-300)
        near = np.zeros(len(self.truth), bool)
        apart = np.abs(self.values - self.truth[self.of]) <= reach
        near[self.of[likely & apart.all(axis=1)]] = True
        by_mean = np.abs(mean[self.chosen] - self.truth[:, self.place]) <= reach[self.place]
        return {
            "modes a row": f"{np.mean(np.bincount(self.of[likely], minlength=len(self.truth))):.3g}",
            "truth near one": f"{100 * np.mean(near):.1f} %",
            "truth near the mean": f"{100 * np.mean(by_mean):.1f} %",
        }


def _modes(model: Any, look: Look, rows: Rows, index: int) -> Found:
    """The modes of some of the rows whose answers are all known, evenly spaced."""
    names = [model.schema.space.names[i] for i in model.F.answers]
    whole = np.flatnonzero(rows.observed[:, list(model.F.answers)].all(axis=1))
    most = ROWS if len(names) == 1 else JOINT_ROWS
    chosen = whole[np.unique(np.linspace(0, len(whole) - 1, min(most, len(whole))).astype(int))]
    found = model.predict(look.table.take(chosen).drop_columns(names), modes=True).modes
    coded = model.schema.encode(found.answer, partial=True)
    values, truth = _numbers(model, coded), _numbers(model, rows[chosen])
    place = model.F.answers.index(index)
    return Found(rows[chosen], chosen, found.row, values, found.probability, truth, index, place)


def _input(model: Any, found: Found) -> int | None:
    """The input, a number, that says most about the answer; None where there is none to draw against.

    By mutual information (Kraskov, Stögbauer & Grassberger 2004), which sees what is not a line.
    """
    inputs = [
        i
        for i, column in enumerate(model.schema.space.columns)
        if i not in model.F.answers and column.kind != "categorical" and not column.pixel
    ][:INPUTS]
    if not inputs or len(found.truth) < 20:
        return None
    if len(inputs) == 1:
        return inputs[0]
    values = np.where(found.rows.observed, found.rows.values, 0)[:, inputs].astype(np.float64)
    told = mutual_info_regression(values, found.truth[:, found.place], random_state=0)
    return inputs[int(np.argmax(told))]


def _against(model: Any, found: Found) -> str:
    """Modes and true answers against one input."""
    chosen = _input(model, found)
    if chosen is None:
        return ""
    known = found.rows.observed[:, chosen]
    x = model.schema.number(chosen, found.rows.values[:, chosen])
    shown = known[found.of]
    names = tuple(plain(model.schema.space.names[i]) for i in (chosen, found.index))
    picture = figures.modes_against(
        names,
        (x[known], found.truth[known, found.place]),
        (x[found.of][shown], found.values[shown, found.place], found.share[shown]),
    )
    return figure(svg(picture, "modes", "Modes and true answers against one input"))


def _curves(model: Any, found: Found) -> str:
    """For a few rows the density of the answer, with its modes and the truth."""
    some = np.unique(np.linspace(0, len(found.truth) - 1, min(CURVES, len(found.truth))).astype(int))
    rows = found.rows[some]
    hidden = ~np.isin(np.arange(rows.values.shape[1]), model.F.answers)
    context = unread(
        model.F, Rows(rows.values, rows.observed & hidden, rows.unseen), found.index, model._walker, None
    )
    candidates = model.schema.candidates(found.index)
    if model.schema.space.columns[found.index].kind == "real":
        candidates = np.linspace(candidates[0], candidates[-1], POINTS, dtype=np.float32)
    values, _, shares = conditional(model.F, context, found.index, model.schema, lambda _: candidates)
    numbers = model.schema.number(found.index, values)
    density = shares / np.gradient(numbers)
    marked = [found.values[(found.of == row) & (found.share >= LEAST), found.place] for row in some]
    name = plain(model.schema.space.names[found.index])
    picture = figures.densities(name, numbers, density, marked, found.truth[some, found.place])
    return figure(svg(picture, "densities", "The density of the answer for a few rows"))


def _latent(model: Any, whole: Rows, index: int) -> dict[str, Any]:
    """The errors with z inferred from the answer, and with z drawn from its prior."""
    unit = np.diff(model.schema.number(index, np.array([0.0, 1.0])))[0]
    place = model.F.answers.index(index)
    sizes = [unit * np.sqrt(np.mean(part[:, place] ** 2)) for part in errors(model.F, whole)]
    return dict(zip(("RMSE, z inferred", "RMSE, z drawn"), map(number, map(float, sizes)), strict=True))
