"""A progress bar with the time left, on a terminal only."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Show = Callable[[int, list[dict[str, Any]]], None]


@contextmanager
def progress_bar(wanted: bool, total: int) -> Iterator[Show]:
    """Yields `show(step, history)`, which moves the bar and writes the latest losses beside it."""
    if not (wanted and sys.stderr.isatty()):
        yield lambda step, history: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[losses]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("fitting", total=total, losses="")
        yield lambda step, history: progress.update(task, completed=step, losses=_losses(history))


def _losses(history: list[dict[str, Any]]) -> str:
    if not history:
        return ""
    last = history[-1]
    held_out = f", held out {last['held_out']:.4g}" if "held_out" in last else ""
    return f"loss {last['loss']:.4g}{held_out}"
