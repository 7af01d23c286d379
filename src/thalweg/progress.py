"""Long work, seen from outside: a bar with the time left, or what is being done; how far a loop goes at a time."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Show = Callable[[int, str], None]


@contextmanager
def progress_bar(wanted: bool, what: str, total: int) -> Iterator[Show]:
    """Yields `show(step, words)`, which moves the bar and writes the latest words beside it."""
    if not (wanted and sys.stderr.isatty()):
        yield lambda step, words: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[words]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total, words="")
        yield lambda step, words: progress.update(task, completed=step, words=words)


@contextmanager
def stage(wanted: bool, what: str) -> Iterator[None]:
    """Says on a terminal what is being done, for as long as it is."""
    if not (wanted and sys.stderr.isatty()):
        yield
        return
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True).status(Text(what)):
        yield


def next_pace(pace: int, done: int, seconds: float) -> int:
    """How many steps a dispatch may take so that it lasts about a second."""
    return max(1, min(4 * pace, int(done / max(seconds, 1e-6)))) if done else pace
