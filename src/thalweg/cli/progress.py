"""How far the work on many files is: a bar on a terminal, a line now and then where there is none."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from thalweg.cli.output import Output

#: Seconds between two lines where there is no terminal.
PAUSE = 30.0


@contextmanager
def files_bar(output: Output, total: int) -> Iterator[Callable[[int, int], None]]:
    """Yields `show(files done, rows done)`."""
    began = time.monotonic()

    def words(rows: int) -> str:
        return f"{rows:,} rows, {rows / max(time.monotonic() - began, 1e-9):,.0f} rows/s"

    if not output.progress:
        yield _lines(output, total, words)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    text = TextColumn("{task.fields[words]}")
    columns = (TextColumn("files"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), text)
    with Progress(*columns, console=output.err, transient=True) as progress:
        task = progress.add_task("files", total=total, words="")
        yield lambda files, rows: progress.update(task, completed=files, words=words(rows))


def _lines(output: Output, total: int, words: Callable[[int], str]) -> Callable[[int, int], None]:
    said = time.monotonic()

    def show(files: int, rows: int) -> None:
        nonlocal said
        if time.monotonic() - said > PAUSE:
            said = time.monotonic()
            output.note(f"{files:,} of {total:,} files, {words(rows)}")

    return show
