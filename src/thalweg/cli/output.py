"""Where a command speaks: the answer on standard output, everything else on standard error."""

import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text


def printable(text: str, newlines: bool = False) -> str:
    """Text without control characters: names and cells come from files and could steer a terminal."""
    return "".join(
        c if c.isprintable() or (newlines and c == "\n") else "\N{REPLACEMENT CHARACTER}" for c in text
    )


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


class Output:
    """What one command says.

    Without `--json`, `show` prints as it goes; with it, `finish` prints one object and nothing else reaches
    standard output.
    """

    def __init__(self, command: str, *, json: bool = False, quiet: bool = False):
        self.command = command
        self.json = json
        self.quiet = quiet
        self.out = _Console(file=sys.stdout, highlight=False, soft_wrap=False)
        self.err = _Console(file=sys.stderr, highlight=False, soft_wrap=True)

    @property
    def progress(self) -> bool:
        """Whether a bar may be drawn."""
        return not self.quiet and self.err.is_terminal

    def show(self, thing: Any) -> None:
        """Part of the answer, for the eye."""
        if not self.json:
            self.out.print(Text(printable(thing, newlines=True)) if isinstance(thing, str) else thing)

    def note(self, line: str) -> None:
        """One line about the work."""
        if not self.quiet:
            self.err.print(Text(printable(line), style="dim"))

    @contextmanager
    def working(self, what: str) -> Iterator[None]:
        """A sign of life on a terminal while something takes its time."""
        if not self.progress:
            yield
            return
        with self.err.status(Text(printable(what))):
            yield

    def finish(self, record: dict[str, Any], then: str | None = None) -> None:
        """End the command: its JSON object if asked for, and the next useful command."""
        if self.json:
            print(json.dumps(plain({"command": self.command, **record}), allow_nan=False))
        if then and not self.quiet:
            line = Text.assemble(("next: ", "dim"), printable(then))
            (self.err if self.json else self.out).print(line, soft_wrap=True)


def plain(value: Any) -> Any:
    """A value as JSON has it: numbers that are not finite become null, dates ISO 8601, arrays lists."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(item) for item in value]
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def facts(pairs: dict[str, Any]) -> Table:
    """Two columns: what, and how much."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs.items():
        grid.add_row(Text(printable(name)), Text(printable(str(value))))
    return grid
