"""What a figure was measured on, for the head of every results file."""

import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def machine(*packages: str) -> str:
    """One line: date, processor, cores, and the versions of Python and of `packages`."""
    names = ("thalweg", "jax", "scikit-learn", "numpy", *packages)
    versions = [f"{name} {_version(name)}" for name in dict.fromkeys(names)]
    when = datetime.now(UTC).date().isoformat()
    return (
        f"{when}, {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        + ", ".join(versions)
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def table(title: str, columns: list[str], rows: list[list[object]]) -> str:
    """A Markdown table under a heading; numbers to four significant digits."""
    lines = [f"## {title}", "", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = [f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def report(name: str, command: str, parts: list[str], *packages: str, write: bool) -> None:
    """Print the parts under the command, with the options that were given; with `write` also keep them as
    `results/NAME.md`."""
    command = " ".join([command, *(option for option in sys.argv[1:] if option != "--write")])
    text = "\n".join([f"# {name}", "", f"`{command}` on {machine(*packages)}", "", *parts])
    print(text)
    if write:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.md").write_text(text)
