"""How figures look: drawn in stand-in colours, which the page's style sheet colours by light or dark."""

import html
import io
import re
from collections.abc import Callable
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

#: Stand-in -> the style sheet's variable. Any colour would do that nothing else in a figure has.
INK, MUTED, LINE = "#010203", "#040506", "#070809"
FIRST, SECOND, THIRD = "#0a0b0c", "#0d0e0f", "#101112"
VARIABLES = {INK: "ink", MUTED: "muted", LINE: "line", FIRST: "first", SECOND: "second", THIRD: "third"}

#: Inches; a phone shows a figure of this width at its own size.
WIDTH, HEIGHT = 4.6, 3.0

_SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "thalweg",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.titlesize": 10,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.useoffset": False,
    "axes.unicode_minus": True,
    "axes.grid": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "path.simplify_threshold": 0.5,
}


def drawing(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw in this style, and leave matplotlib's own settings as they were."""

    def styled(*args: Any, **kwargs: Any) -> Figure:
        with matplotlib.rc_context(_SETTINGS):
            return draw(*args, **kwargs)

    styled.__doc__ = draw.__doc__
    styled.__name__ = draw.__name__
    return styled


def panels(
    rows: int = 1, columns: int = 1, *, width: float = WIDTH, height: float = HEIGHT
) -> tuple[Figure, list[Axes]]:
    """An empty figure and its axes in reading order, without pyplot and its global state."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def plain(text: object, longest: int = 28) -> str:
    """A label in one short line, without control characters and without the quotes that end an attribute."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).replace('"', "″").split())
    return line if len(line) <= longest else line[: longest - 1] + "…"


def plain_ticks(axis: Axis, percent: bool = False) -> None:
    """Numbers as people write them: matplotlib's powers of ten need a mathematical font."""
    one = (lambda v, _: f"{100 * v:g} %") if percent else (lambda v, _: f"{v:,.12g}".replace("-", "−"))
    axis.set_major_formatter(FuncFormatter(one))
    axis.set_minor_formatter(NullFormatter())


def svg(figure: Figure, name: str, description: str) -> str:
    """The figure as inline SVG: coloured by the page, scaled by its box, with ids of its own.

    The same figure always gives the same bytes.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context(_SETTINGS):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\s(?:xmlns(?::\w+)?|version)="[^"]*"', "", text)
    text = re.sub(r'<svg([^>]*?) width="[^"]*"', r"<svg\1", text, count=1)
    text = re.sub(r'<svg([^>]*?) height="[^"]*"', r"<svg\1", text, count=1)
    text = re.sub(r'style="[^"]*"', _without_family, text)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", text)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    label = html.escape(plain(description, 80))
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1).strip()


def _without_family(found: re.Match) -> str:
    """The size of a font and not its name: the page has its own."""
    style = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", found.group())
    return re.sub(r"font-family:[^;\"]*;? ?", "", style)
