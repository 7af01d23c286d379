"""Reading what is written on a command line: `key=value` pairs, names with a typo, and default outputs."""

import os
import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import typer

from thalweg.errors import ModelDirectoryError, OutputError, SettingsError, did_you_mean
from thalweg.there import no_model

#: Endings that say what a file is and not what the data is called.
_ENDINGS = {".csv", ".tsv", ".txt", ".parquet", ".arrow", ".feather", ".npy", ".npz", ".gz", ".zst", ".bz2"}


def pairs(option: str, given: Iterable[str]) -> dict[str, str]:
    """`["a=1", "b=x=y"]` as `{"a": "1", "b": "x=y"}`; a usage error names the one that is not."""
    found: dict[str, str] = {}
    for text in given:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise typer.BadParameter(f"{option} needs name=value, not {text!r}")
        if name in found:
            raise typer.BadParameter(f"{option} {name}=… is given twice")
        found[name] = value
    return found


def nearest(kind: str, name: str, known: Iterable[str]) -> str:
    """`no recipe 'pac'; did you mean 'pca'?`, or the list of what there is."""
    return f"no {kind} {name!r}; {did_you_mean(name, sorted(known))}"


def shard_of(text: str) -> tuple[int, int]:
    """`1/4` as `(1, 4)`; a usage error for what is no such thing."""
    found = re.fullmatch(r"([0-9]+)/([0-9]+)", text.strip())
    if not found:
        raise typer.BadParameter(f"--shard needs I/N, such as 0/4, not {text!r}")
    index, count = int(found[1]), int(found[2])
    if index >= count:
        there = (
            f"they count from 0, so here from 0/{count} to {count - 1}/{count}"
            if count
            else "N is at least 1"
        )
        raise typer.BadParameter(f"--shard: there is no shard {text}: {there}")
    return index, count


def refuse_existing(path: str | os.PathLike, force: bool, *, unless_folder_for: str | None = None) -> None:
    """Stop before any work is done where the output is in the way.

    A folder is not where the data is one too: what it holds is looked at file by file.
    """
    if unless_folder_for is not None and os.path.isdir(unless_folder_for) and os.path.isdir(path):
        return
    if os.path.lexists(path) and not force:
        raise OutputError(f"{path} exists; choose another with --out, or replace it with --force")


def check_model(path: str) -> None:
    """Stop before anything heavy is imported where there is no model; `load` says the same."""
    if absent := no_model(Path(path)):
        raise ModelDirectoryError(f"{path}: {absent}")


def data_name(source: str) -> str:
    """What to call a source: `sales` for `data/sales.csv.gz`, `mnist-x` for `mnist.npz::x`."""
    path, _, key = source.partition("::")
    name = Path(os.path.abspath(path)).name
    while Path(name).suffix.lower() in _ENDINGS and Path(name).stem:
        name = Path(name).stem
    return f"{name}-{key}" if key else name


def command(*words: Any) -> str:
    """A command line that can be pasted into a shell."""
    return shlex.join(["thalweg", *map(str, words)])


def resume_command(args: list[str]) -> str | None:
    """The same `fit` with `--resume`; None for a command that leaves nothing to resume."""
    if not args or args[0] != "fit":
        return None
    return command(*(word for word in args if word not in ("--force", "--resume")), "--resume")


def given_values(schema: Any, texts: dict[str, str]) -> dict[str, Any]:
    """The `--given` cells in the types of their columns.

    Raises `SettingsError` for a name that is no column and for a text that is no number where one is needed.
    """
    columns = {column.name: column for column in schema.columns}
    values = {}
    for name, text in texts.items():
        if name not in columns:
            raise SettingsError(f"--given: {nearest('column', name, columns)}")
        values[name] = _cell(columns[name], text)
    return values


def _cell(column: Any, text: str) -> Any:
    for level in getattr(column, "levels", None) or ():
        if str(level) == text:
            return level
    if column.kind not in ("continuous", "integer"):
        return text
    try:
        number = float(text)
        return int(text) if number.is_integer() and "." not in text and "e" not in text.lower() else number
    except (ValueError, OverflowError):
        raise SettingsError(f"--given: column {column.name!r} holds numbers, not {text!r}") from None
