"""`write_report`: the parts put together into one self-contained page."""

import warnings
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from thalweg.energy.capabilities import AbstractScored
from thalweg.errors import DataWarning, ThalwegError
from thalweg.files import atomic_file
from thalweg.report import mixing, orders, predictions, retrieval, samples, training, worst
from thalweg.report.html import LeftOut, Section, escape, prose
from thalweg.report.rows import Look, held_out, look_at, unseen


def write_report(
    model: Any,
    path: Path | str,
    data: Any = None,
    force: bool = False,
    extra_sections: Sequence[Section] = (),
) -> Path:
    """Write one HTML page about a model, and about the rows of `data` (a `Dataset`) if given.

    The page asks nothing of the network, is the same bytes for the same model and data, and follows the
    reader's choice of light or dark. Parts that the model cannot fill are named with the reason. Raises
    `OutputError` where `path` exists and `force` is not set.
    """
    path = Path(path)
    with atomic_file(path, force=force) as temporary:
        temporary.write_text(page(model, data, extra_sections), encoding="utf-8")
    return path


def page(model: Any, data: Any = None, extra_sections: Sequence[Section] = ()) -> str:
    """The page as text."""
    with warnings.catch_warnings():
        # They were given when these rows came in, and would be given again for each part of the page.
        warnings.simplefilter("ignore", DataWarning)
        return _page(model, look_at(model, data), extra_sections)


def _page(model: Any, look: Look | None, extra_sections: Sequence[Section]) -> str:
    judged = held_out(model) is not None and not isinstance(model.F, AbstractScored)
    scores = model.score(look.table) if judged and look is not None else None
    p_values = None if scores is None else scores.p_value
    parts = [
        _part("Questions", training.questions, model),
        _part("Learning curves", training.learning, model),
        _part("Energies", training.energies, model),
        _part("Calibration", training.calibration, model, look, p_values),
        _part(orders.NAME, orders.orders, model, unseen(model, look)),
        _part("Predictions", predictions.predictions, model, unseen(model, look)),
        _part("Retrieval", retrieval.retrieval, model, unseen(model, look)),
        _part("Samples", samples.samples, model, unseen(model, look)),
        _part("Chains", mixing.chains, model),
        _part("Completions", samples.completions, model, unseen(model, look)),
        _part("Worst rows", worst.worst, model, look, scores),
        *extra_sections,
    ]
    shown = [part for part in parts if isinstance(part, Section)]
    left_out = [part for part in parts if isinstance(part, LeftOut)]
    body = (
        training.headline(model, shown)
        + _contents(shown)
        + "".join(part.html() for part in shown)
        + _absent(left_out)
    )
    return _document(f"{model.recipe} on {model.card.get('data', 'data')}: Thalweg report", body)


def _part(
    name: str, build: Callable[..., Section | LeftOut | None], *arguments: Any
) -> Section | LeftOut | None:
    """A part of the page, or why there is none: a question not answered leaves the rest of the page whole."""
    try:
        return build(*arguments)
    except ThalwegError as error:
        return LeftOut(name, str(error))


def _contents(sections: Sequence[Section]) -> str:
    links = "".join(f'<a href="#{section.anchor}">{escape(section.name)}</a>' for section in sections)
    return f'<nav aria-label="Parts of this page">{links}</nav>'


def _absent(left_out: Sequence[LeftOut]) -> str:
    if not left_out:
        return ""
    lines = "".join(f"<li><b>{escape(part.name)}</b>: {prose(part.why)}</li>" for part in left_out)
    return f'<footer><p class="name">Left out</p><ul>{lines}</ul></footer>'


def _document(title: str, body: str) -> str:
    style = (files("thalweg.report") / "page.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n"
        "</body>\n</html>\n"
    )
