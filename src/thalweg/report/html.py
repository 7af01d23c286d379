"""The page's parts. Whatever came from data or settings is escaped here and nowhere else."""

import html
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Section:
    """A part of the page: a title that says what to see, what to know to read it, and finished HTML.

    `body` goes below the reading, `beside` to the right of both where the page is wide enough, `below` across
    the whole width. `tiles` are the numbers of this part that belong at the head of the page: name -> (number, what it
    is).
    """

    anchor: str
    name: str
    title: str
    reading: str
    body: str
    beside: str = ""
    below: str = ""
    tiles: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def html(self) -> str:
        text = (
            f'<p class="name">{escape(self.name)}</p><h2>{prose(self.title)}</h2>'
            f'<p class="reading">{prose(self.reading)}</p>{self.body}'
        )
        inner = pair(text, self.beside) if self.beside else text
        return f'<section id="{escape(self.anchor)}">{inner}{self.below}</section>'


@dataclass(frozen=True)
class LeftOut:
    """A part that this model has nothing for, and why."""

    name: str
    why: str


def escape(value: Any, longest: int = 400) -> str:
    """Any value as text that is only text: no markup, no control characters, not endless."""
    text = "".join(c if c.isprintable() else " " for c in str(value))
    return html.escape(text if len(text) <= longest else text[: longest - 1] + "…")


def prose(text: str) -> str:
    """A sentence, in which what stands between backticks is a piece of a command line."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text, 1000))


def number(value: Any, digits: int = 4) -> str:
    """A number to four significant digits, or whole from 10,000 on; what is not a number as itself."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "–" if value is None else str(value)
    if not math.isfinite(value):
        return "–"
    whole = abs(value) < 1e15 and (abs(value) >= 1e4 or float(value).is_integer())
    return (f"{value:,.0f}" if whole else f"{value:.{digits}g}").replace("-", "−")


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]], *, numeric: Sequence[str] = ()) -> str:
    """A table in a box that scrolls by itself; a cell that is a `Raw` is put in as it is."""
    kinds = ['class="n"' if heading in numeric else "" for heading in headings]
    head = "".join(f"<th {kind}>{escape(text)}</th>" for kind, text in zip(kinds, headings, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td {k}>{_cell(v)}</td>" for k, v in zip(kinds, row, strict=True)) + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


class Raw(str):
    """HTML that is finished already."""


def _cell(value: Any) -> str:
    return value if isinstance(value, Raw) else escape(number(value), 120)


def facts(pairs: Mapping[str, Any]) -> str:
    """A list of what and how much."""
    rows = "".join(
        f"<div><dt>{escape(k)}</dt><dd>{_fact(v)}</dd></div>" for k, v in pairs.items() if v is not None
    )
    return f'<dl class="facts">{rows}</dl>'


def _fact(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{escape(k)}&nbsp;{_fact(v)}" for k, v in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return escape(" + ".join(number(v) for v in value))
    return value if isinstance(value, Raw) else escape(number(value))


def tiles(pairs: Mapping[str, tuple[str, str]]) -> str:
    """The few numbers to read first: name -> (number, what it is)."""
    cells = (
        f'<div class="tile"><p class="name">{escape(name)}</p><p class="big">{escape(big)}</p>'
        f"<p>{escape(small)}</p></div>"
        for name, (big, small) in pairs.items()
    )
    return f'<div class="tiles">{"".join(cells)}</div>'


def code(text: str) -> Raw:
    """A piece of a command line or a formula."""
    return Raw(f"<code>{escape(text)}</code>")


def figure(picture: str, caption: str = "") -> str:
    """A picture and the line below it."""
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure class="plot">{picture}{below}</figure>'


def pair(left: str, right: str) -> str:
    """Two things beside one another where the page is wide enough."""
    return f'<div class="pair"><div>{left}</div><div>{right}</div></div>'


def bar(value: float, largest: float) -> Raw:
    """A number with a bar of its size behind it."""
    share = 0.0 if largest <= 0 else max(0.0, min(1.0, value / largest))
    return Raw(f'<span class="bar" style="--share:{share:.3f}">{number(round(float(value), 2))}</span>')
