"""Figures: their marks are the data; their SVG is safe inside a page, in its colours, and always the same."""

import re
from types import SimpleNamespace
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest

from thalweg.report import figures
from thalweg.report.style import VARIABLES, plain, svg

RNG = np.random.default_rng(0)
HISTORY = [
    {"step": s, "loss": 10 - s / 100, "held_out": 10 - s / 100 + (s / 400) ** 2} for s in range(0, 1000, 50)
]
ENERGIES = {
    "train": RNG.normal(10, 1, 90),
    "held-out": RNG.normal(11, 1, 80),
    "uniform noise": RNG.normal(9e4, 9, 50),
}
NUMBER = SimpleNamespace(name="x", kind="continuous", levels=())
HOSTILE = '</text><script id="a" style="font-family: b">$\\frac{1}{&amp;' + "\x1b\x00"
FIGURES = {
    "learning": lambda: figures.learning_curves(HISTORY, "nats"),
    "energies": lambda: figures.energy_histogram(ENERGIES, "nats"),
    "calibration": lambda: figures.calibration_curve({"train": RNG.uniform(size=50)}, 99),
    "traces": lambda: figures.energy_traces(np.arange(1, 51), RNG.normal(size=(4, 50)), 25, (-1.0, 1.0)),
    "marginal": lambda: figures.marginal(NUMBER, RNG.normal(size=50), RNG.normal(size=60)),
    "scatter": lambda: figures.scatter(("a", "b"), RNG.normal(size=(9, 2)), RNG.normal(size=(8, 2))),
    "guesses": lambda: figures.guesses(RNG.normal(size=30), RNG.normal(size=30)),
}


def test_the_lowest_held_out_loss_is_marked():
    [axes] = figures.learning_curves(HISTORY, "nats").axes
    steps, losses = np.array([(r["step"], r["held_out"]) for r in HISTORY]).T
    mark = axes.lines[-1]
    assert (mark.get_xdata()[0], mark.get_ydata()[0]) == (steps[np.argmin(losses)], losses.min())
    assert axes.get_ylabel() == "loss (nats)"


def test_each_kind_of_row_adds_up_to_all_of_its_rows():
    [axes] = figures.energy_histogram(ENERGIES, "nats").axes
    outlines = [patch for patch in axes.patches if not patch.get_fill()]
    assert len(outlines) == 3
    for patch in outlines:
        heights = np.array(patch.get_path().vertices)[:, 1]
        assert heights[1:-1:2].sum() == pytest.approx(100)


def test_noise_far_away_does_not_flatten_the_rows():
    [axes] = figures.energy_histogram(ENERGIES, "nats").axes
    [near] = figures.energy_histogram(
        {k: v for k, v in ENERGIES.items() if k != "uniform noise"}, "nats"
    ).axes
    assert (axes.get_xscale(), near.get_xscale()) == ("asinh", "linear")


def test_equal_energies_can_be_drawn():
    assert svg(figures.energy_histogram({"train": [1.0, 1.0]}, "nats"), "e", "energies").startswith("<svg")


def test_the_calibration_curve_is_the_share_of_small_p_values():
    values = np.array([0.01, 0.3, 0.3, 0.8])
    [axes] = figures.calibration_curve({"train": values}, 99).axes
    curve = axes.lines[-1]
    for rate, share in zip(curve.get_xdata(), curve.get_ydata(), strict=True):
        assert share == np.mean(values <= rate)


def test_each_chain_has_a_trace_with_gaps_where_it_flew_away():
    steps, energies = np.arange(2, 42, 2), RNG.normal(size=(4, 20))
    energies[2, 7] = np.inf
    [axes] = figures.energy_traces(steps, energies, 20, None).axes
    *traces, forgotten = axes.lines
    assert len(traces) == 4
    for trace, energy in zip(traces, energies, strict=True):
        np.testing.assert_array_equal(trace.get_xdata(), steps)
        np.testing.assert_array_equal(trace.get_ydata(), np.where(np.isfinite(energy), energy, np.nan))
    assert forgotten.get_xdata() == [20, 20]


@pytest.mark.parametrize("name", FIGURES)
def test_svg_is_whole_in_the_page_s_colours_and_the_same_every_time(name, monkeypatch):
    state = RNG.bit_generator.state
    first = svg(FIGURES[name](), name, "a figure")
    RNG.bit_generator.state = state
    assert svg(FIGURES[name](), name, "a figure") == first
    ElementTree.fromstring(first.replace("xlink:href", "href"))
    assert "http" not in first
    assert "font-family" not in first
    assert not any(colour in first for colour in VARIABLES)
    colours = set(re.findall(r"(?:fill|stroke): ([^;\"]+)", first))
    assert all(colour.startswith("var(--") or colour == "none" for colour in colours), colours
    assert all(i.startswith(f"{name}-") for i in re.findall(r' id="([^"]+)"', first))
    used = re.findall(r"(?:url\(#|href=\"#)([\w-]+)", first)
    assert set(used) <= set(re.findall(r' id="([^"]+)"', first))


def test_a_hostile_name_stays_text():
    column = SimpleNamespace(name=HOSTILE, kind="categorical", levels=(HOSTILE, "b"))
    picture = figures.marginal(column, np.array([0.0, 1.0]), np.array([1.0, 1.0]))
    text = svg(picture, "m", HOSTILE)
    root = ElementTree.fromstring(text.replace("xlink:href", "href"))
    assert "<script" not in text
    assert plain(HOSTILE) in [t.text for t in root.iter("text")]


def test_drawing_leaves_matplotlib_as_it_was():
    before = dict(matplotlib.rcParams)
    svg(FIGURES["guesses"](), "g", "guesses")
    assert dict(matplotlib.rcParams) == before
