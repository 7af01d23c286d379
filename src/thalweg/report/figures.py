"""The figures: one function each, values in, a matplotlib `Figure` out."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import AsinhLocator, LogLocator
from matplotlib.transforms import Transform

from thalweg.evaluate.classification import reliability
from thalweg.report.judge import flag_band
from thalweg.report.style import FIRST, INK, MUTED, SECOND, THIRD, drawing, panels, plain, plain_ticks

_COLOURS = {"train": FIRST, "held-out": SECOND, "uniform noise": THIRD, "validation": INK}


@drawing
def learning_curves(history: Sequence[Mapping[str, Any]], unit: str) -> Figure:
    """Loss against step: on the training rows and, where measured, on validation rows with its lowest point."""
    figure, [axes] = panels()
    curves = {"train": _curve(history, "loss"), "validation": _curve(history, "held_out")}
    for name, (steps, loss) in curves.items():
        if len(steps):
            marker = "o" if len(steps) < 3 else None
            axes.plot(steps, loss, color=_COLOURS[name], label=name, marker=marker)
    steps, loss = curves["validation"]
    if len(steps):
        best = int(np.argmin(loss))
        axes.plot(steps[best], loss[best], "o", color=_COLOURS["validation"], markersize=6)
        axes.annotate(f"{loss[best]:.4g}", (steps[best], loss[best]), (0, 8), textcoords="offset points",
                      ha="center", color=INK, fontsize=9)  # fmt: skip
    axes.set(xlabel="step", ylabel=f"loss ({unit})")
    _zoom(axes, [loss for _, loss in curves.values() if len(loss)])
    axes.legend()
    return figure


def _curve(history: Sequence[Mapping[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    points = [(r["step"], r[name]) for r in history if r.get(name) is not None and np.isfinite(r[name])]
    steps, values = zip(*points, strict=True) if points else ((), ())
    return np.array(steps), np.array(values, float)


def _zoom(axes: Axes, curves: list[np.ndarray]) -> None:
    """Leave the first steep steps out of sight where they would flatten the rest."""
    low = min(curve.min() for curve in curves)
    high = max(np.quantile(curve, 0.97) for curve in curves)
    if high > low:
        axes.set_ylim(low - 0.08 * (high - low), high + 0.12 * (high - low))


@drawing
def energy_histogram(energies: Mapping[str, Sequence[float]], unit: str) -> Figure:
    """How energies are spread over training rows, held-out rows and uniform noise."""
    figure, [axes] = panels()
    finite = {name: _finite(values) for name, values in energies.items()}
    finite = {name: values for name, values in finite.items() if len(values)}
    everything = np.concatenate(list(finite.values()))
    scale = _wide_scale(axes, everything, finite.get("held-out", everything))
    edges = _edges(scale, float(everything.min()), float(everything.max()))
    for name, values in finite.items():
        weights = np.full(len(values), 100 / len(values))
        colour = _COLOURS.get(name, INK)
        axes.hist(values, edges, weights=weights, histtype="stepfilled", color=colour, alpha=0.28)
        axes.hist(values, edges, weights=weights, histtype="step", color=colour, linewidth=1.5, label=name)
    axes.set(xlabel=f"energy F ({unit})", ylabel="rows (%)")
    axes.legend()
    return figure


def _edges(scale: Transform, low: float, high: float, bins: int = 48) -> list[float]:
    """Bins that look equally wide on the axis."""
    if high <= low:
        return [low - 0.5, low + 0.5]
    start, end = scale.transform([low, high])
    inner = scale.inverted().transform(np.linspace(start, end, bins + 1))[1:-1]
    return [low, *(float(edge) for edge in inner), high]


def _finite(values: Any) -> np.ndarray:
    array = np.asarray(values, float)
    return array[np.isfinite(array)]


def _wide_scale(axes: Axes, everything: np.ndarray, centre: np.ndarray) -> Transform:
    """A linear axis, or, where noise is far away, one that is logarithmic beyond the held-out rows."""
    spread = float(np.subtract(*np.quantile(centre, [0.95, 0.05]))) or 1.0
    if np.ptp(everything) > 30 * spread:
        width = max(spread, 1e-6 * float(np.abs(everything).max()))
        axes.set_xscale("asinh", linear_width=width)
        plain_ticks(axes.xaxis)
        axes.xaxis.set_major_locator(AsinhLocator(width, numticks=6))
    return axes.xaxis.get_transform()


@drawing
def calibration_curve(p_values: Mapping[str, Sequence[float]], calibrated: int) -> Figure:
    """The share of rows flagged at each false-alarm rate; rows like the held-out ones follow the line.

    The band holds 95 % of such curves (`judge.flag_band`), for as many rows as the first set has.
    """
    figure, [axes] = panels()
    lowest = 1 / (calibrated + 1)
    rates = np.unique(np.geomspace(lowest, 1, 160))
    first = len(next(iter(p_values.values())))
    low, high = flag_band(rates, calibrated, first)
    axes.fill_between(rates, low, high, color=MUTED, alpha=0.22, linewidth=0, label="95 % of fair curves")
    axes.plot(rates, rates, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    for (name, values), colour in zip(p_values.items(), (SECOND, FIRST, THIRD, INK), strict=False):
        shares = np.searchsorted(np.sort(np.asarray(values)), rates, side="right") / len(values)
        axes.step(rates, shares, color=_COLOURS.get(name, colour), label=plain(name), where="post")
    axes.set(xscale="log", yscale="log", xlim=(lowest, 1), ylim=(lowest / 2, 1.4))
    axes.set(xlabel="false-alarm rate asked for, α", ylabel="share of rows with p ≤ α")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(10, subs=(1, 3)))
        plain_ticks(axis, percent=True)
    figure.legend(loc="outside upper right", ncols=2)
    return figure


@drawing
def energy_traces(
    steps: Int[np.ndarray, "draws"],
    energies: Float[np.ndarray, "chains draws"],
    forgotten: int,
    usual: tuple[float, float] | None,
) -> Figure:
    """The energy of each chain against its steps; the first are `forgotten`, and the band is `usual` of rows."""
    figure, [axes] = panels()
    if usual is not None:
        axes.axhspan(*usual, color=MUTED, alpha=0.18, linewidth=0, label="90 % of held-out rows")
    for energy, colour in zip(energies, cycle((FIRST, SECOND, THIRD, INK))):
        axes.plot(steps, np.where(np.isfinite(energy), energy, np.nan), color=colour, linewidth=1, alpha=0.8)
    axes.axvline(forgotten, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="answers are from here on")
    axes.set(xlabel="step", ylabel="energy F", xlim=(0, steps[-1]))
    figure.legend(loc="outside upper right", ncols=2)
    return figure


@drawing
def marginal(column: Any, real: np.ndarray, drawn: np.ndarray) -> Figure:
    """One column's values in the data (filled) and in the model's draws (line)."""
    figure, [axes] = panels(width=3.4, height=2.2)
    if column.kind in ("categorical", "binary"):
        _compare_levels(axes, [plain(level, 12) for level in column.levels], real, drawn)
    else:
        _compare_numbers(axes, real, drawn)
    axes.set_title(plain(column.name))
    axes.set_ylabel("rows (%)")
    return figure


def _compare_numbers(axes: Axes, real: np.ndarray, drawn: np.ndarray) -> None:
    low, high = np.quantile(np.concatenate([real, drawn]), [0.002, 0.998])
    edges = np.linspace(low, high if high > low else low + 1, 21).tolist()
    share = [np.full(len(values), 100 / max(len(values), 1)) for values in (real, drawn)]
    axes.hist(real, edges, weights=share[0], color=FIRST, alpha=0.35)
    axes.hist(drawn, edges, weights=share[1], histtype="step", color=SECOND, linewidth=1.6)


def _compare_levels(
    axes: Axes, levels: list[str], real: np.ndarray, drawn: np.ndarray, most: int = 10
) -> None:
    counts = [100 * np.bincount(v.astype(int), minlength=len(levels)) / max(len(v), 1) for v in (real, drawn)]
    shown = np.sort(np.argsort(-counts[0], kind="stable")[:most])
    places = np.arange(len(shown))
    axes.bar(places, counts[0][shown], color=FIRST, alpha=0.35)
    axes.plot(places, counts[1][shown], "_", color=SECOND, markersize=14, markeredgewidth=2)
    axes.set_xticks(places, [levels[i] for i in shown], rotation=30 if len(shown) > 4 else 0)
    axes.grid(False, axis="x")


@drawing
def scatter(
    names: tuple[str, str], real: Float[np.ndarray, "n 2"], drawn: Float[np.ndarray, "m 2"]
) -> Figure:
    """Two columns against each other: the data on the left, the draws on the right, on the same axes."""
    figure, (left, right) = panels(1, 2, height=2.7)
    both = np.concatenate([real, drawn])
    low, high = np.quantile(both, 0.005, axis=0), np.quantile(both, 0.995, axis=0)
    margin = 0.06 * np.where(high > low, high - low, 1)
    for axes, points, title, colour in ((left, real, "data", FIRST), (right, drawn, "drawn", SECOND)):
        axes.scatter(points[:, 0], points[:, 1], s=7, color=colour, alpha=0.55, linewidths=0)
        axes.set(
            xlim=(low[0] - margin[0], high[0] + margin[0]), ylim=(low[1] - margin[1], high[1] + margin[1])
        )
        axes.set_title(title)
        axes.set_xlabel(plain(names[0]))
    left.set_ylabel(plain(names[1]))
    right.tick_params(labelleft=False)
    return figure


@drawing
def guesses(truth: Float[np.ndarray, "n"], guess: Float[np.ndarray, "n"]) -> Figure:
    """Hidden cells: the truth against the best guess, both in deviations from the column's mean."""
    figure, [axes] = panels()
    low, high = np.quantile(np.concatenate([truth, guess]), [0.005, 0.995])
    axes.plot([low, high], [low, high], color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="exact")
    axes.axhline(0, color=MUTED, linewidth=0.8, label="the column's mean")
    axes.scatter(truth, guess, s=9, color=SECOND, alpha=0.5, linewidths=0)
    axes.set(xlabel="truth (standard deviations)", ylabel="guess (standard deviations)")
    figure.legend(loc="outside upper right", ncols=2)
    return figure


@drawing
def reliability_curve(probabilities: Float[np.ndarray, "n k"], labels: Int[np.ndarray, "n"]) -> Figure:
    """The share of rows that are right against the probability of the answer, in bins, with 95 % intervals of Wilson
    (1927); larger points have more rows."""
    figure, [axes] = panels()
    sure, right, counts = reliability(probabilities, labels, bins=10)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    z = 1.96
    middle = (right + z**2 / (2 * counts)) / (1 + z**2 / counts)
    reach = z / (1 + z**2 / counts) * np.sqrt(right * (1 - right) / counts + z**2 / (4 * counts**2))
    axes.vlines(sure, middle - reach, middle + reach, color=SECOND, linewidth=1)
    axes.scatter(sure, right, s=12 + 120 * counts / counts.max(), color=SECOND, alpha=0.8, linewidths=0)
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02))
    axes.set(xlabel="probability of the predicted class", ylabel="share of rows that are right")
    return figure


@drawing
def by_place(curves: Mapping[str, Float[np.ndarray, "k"]], relevance: str) -> Figure:
    """The mean relevance of the row at each place, in one order and another."""
    figure, [axes] = panels()
    for (name, means), colour in zip(curves.items(), (FIRST, MUTED, THIRD), strict=False):
        axes.plot(np.arange(1, len(means) + 1), means, "o-", color=colour, label=name, markersize=4)
    axes.set(xlabel="place", ylabel=f"mean {plain(relevance)}")
    axes.legend()
    return figure


@drawing
def confusions(counts: Int[np.ndarray, "k k"], levels: Sequence[str]) -> Figure:
    """Which class (down) is taken for which (across), in percent of each class; the diagonal is right."""
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = max(2.6, min(0.34 * len(levels) + 1.2, 7.0))
    figure, [axes] = panels(width=size + 1, height=size)
    axes.imshow(np.sqrt(shares), cmap="Blues", vmin=0, vmax=10)
    for i, j in np.argwhere(counts > 0) if len(levels) <= 12 else ():
        colour = "white" if shares[i, j] > 45 else INK
        axes.text(j, i, f"{shares[i, j]:.0f}", ha="center", va="center", fontsize=8, color=colour)
    places = np.arange(len(levels))
    axes.set_xticks(places, levels, rotation=60 if max(map(len, levels)) > 3 else 0)
    axes.set_yticks(places, levels)
    axes.set(xlabel="predicted", ylabel="true (%)")
    axes.grid(False)
    return figure


@drawing
def predicted(
    truth: Float[np.ndarray, "n"],
    mean: Float[np.ndarray, "n"],
    low: Float[np.ndarray, "n"],
    high: Float[np.ndarray, "n"],
) -> Figure:
    """The predicted mean against the truth, with the interval between two quantiles."""
    figure, [axes] = panels()
    ends = np.quantile(truth, [0.0, 1.0])
    axes.plot(ends, ends, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    axes.vlines(truth, low, high, color=SECOND, linewidth=0.6, alpha=0.25)
    axes.scatter(truth, mean, s=9, color=SECOND, alpha=0.6, linewidths=0)
    axes.set(xlabel="truth", ylabel="predicted mean, 5 % to 95 %")
    return figure


@drawing
def modes_against(
    names: tuple[str, str],
    truth: tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]],
    modes: tuple[Float[np.ndarray, "m"], Float[np.ndarray, "m"], Float[np.ndarray, "m"]],
) -> Figure:
    """True answers and the modes of the model against one input; a mode's dot is as large as its probability."""
    figure, [axes] = panels()
    axes.scatter(*truth, s=26, facecolors="none", edgecolors=FIRST, linewidths=0.9, label="true answers")
    x, y, share = modes
    axes.scatter(x, y, s=2 + 16 * share, color=SECOND, alpha=0.8, linewidths=0, label="modes")
    axes.set(xlabel=names[0], ylabel=names[1])
    figure.legend(loc="outside upper right", ncols=2)
    return figure


@drawing
def densities(
    name: str,
    values: Float[np.ndarray, "v"],
    density: Float[np.ndarray, "n v"],
    modes: Sequence[Float[np.ndarray, "_"]],
    truth: Float[np.ndarray, "n"],
) -> Figure:
    """The density of the answer of each row, its modes (dots), and its true answer (dashed)."""
    columns = min(3, len(density))
    lines = -(-len(density) // columns)
    figure, axes = panels(lines, columns, width=2.1 * columns + 0.6, height=1.5 * lines + 0.5)
    for panel in axes[len(density) :]:
        panel.set_visible(False)
    for panel, curve, found, true in zip(axes, density, modes, truth, strict=False):
        panel.fill_between(values, curve, color=SECOND, alpha=0.25, linewidth=0)
        panel.plot(values, curve, color=SECOND, linewidth=1.2, label="density")
        panel.plot(found, np.interp(found, values, curve), "o", color=SECOND, markersize=5, label="modes")
        panel.axvline(true, color=FIRST, linewidth=1.2, linestyle=(0, (4, 3)), label="true answer")
        panel.set(yticks=[], ylim=(0, None))
    for panel in axes[len(density) - columns : len(density)]:
        panel.set_xlabel(name)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=3)
    return figure
