"""Asking one question of every row of a source, a piece at a time: nothing is held but the first rows."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from thalweg.cli.arguments import check_model
from thalweg.cli.cache import keep_compiled
from thalweg.cli.output import Output
from thalweg.cli.preview import Marks, preview
from thalweg.cli.progress import files_bar
from thalweg.cli.then import after
from thalweg.errors import OutputError, SettingsError

FIRST_ROWS = 10


@dataclass(frozen=True)
class Asked:
    """One question as it stands on the command line."""

    output: Output
    model: str
    data: str
    out: str | None = None
    force: bool = False
    keep: tuple[str, ...] = ()
    shard: tuple[int, int] | None = None


@dataclass
class Answered:
    """What came of it: the first rows, the counts of rows, and every answer where `--json` wants them.

    Of a folder also how many `files` were answered now and how many were `finished` before.
    """

    rows: int = 0
    answers: int = 0
    model: Any = None
    head: Any = None
    piece: Any = None
    all: list[dict[str, Any]] = field(default_factory=list)
    files: int | None = None
    finished: int = 0

    def add(self, piece: Any, result: Any, keep: bool) -> None:
        if self.head is None:
            self.piece, self.head = piece.slice(0, FIRST_ROWS), result.slice(0, FIRST_ROWS)
        self.rows += piece.num_rows
        self.answers += result.num_rows
        if keep:
            self.all.extend(result.to_pylist())


def load_model(path: str) -> Any:
    """The model in this directory, ready to be asked."""
    check_model(path)
    keep_compiled()
    import thalweg

    return thalweg.load(path)


def ask(
    asked: Asked, question: str, *, watch: Callable[[Any], None] = lambda result: None, **options: Any
) -> Answered:
    """Put the question to each piece of the data; `watch` sees each piece's answer."""
    answered = Answered()
    pairs = _of_folder if _is_folder(asked.data) else _of_source
    for piece, result in pairs(asked, question, options, answered):
        watch(result)
        answered.add(piece, result, keep=asked.output.json and asked.out is None)
    return answered


def present(
    asked: Asked,
    answered: Answered,
    *,
    filled: Marks | None = None,
    first: Sequence[str] = (),
    **summary: Any,
) -> None:
    """Show the first rows, say where the rest lies, and name the next command.

    `first` are the columns that are shown where not all fit, the most needed first.
    """
    output = asked.output
    if answered.head is not None and not output.json:
        width, total = output.out.width, answered.answers
        output.show(preview(answered.head, total=total, width=width, filled=filled, first=first))
    if asked.out:
        files = "" if answered.files is None else f" in {answered.files:,} files"
        output.note(f"{answered.answers:,} rows written to {asked.out}{files}")
    record = {"model": asked.model, "data": asked.data, "rows": answered.rows, "out": asked.out}
    if answered.files is not None:
        record |= {"files": answered.files, "finished": answered.finished, "shard": asked.shard or (0, 1)}
    answers = {} if asked.out else {"answers": answered.all}
    then = after(output.command, answered.model, asked.model, asked.data)
    output.finish({**record, **summary, **answers}, then)


def _is_folder(data: str) -> bool:
    """Whether the data is a folder of Parquet files; other folders hold images."""
    if not os.path.isdir(data):
        return False
    from thalweg.data.stream import parquet_files

    return bool(parquet_files(data))


def _of_source(
    asked: Asked, question: str, options: dict[str, Any], answered: Answered
) -> Iterator[tuple[Any, Any]]:
    """The pieces of one source and their answers.

    The output is opened, and refused, before anything is loaded; it appears whole, at the end, or not at all.
    """
    if asked.shard is not None:
        raise SettingsError(
            f"--shard divides the files of a folder, and {asked.data} is none: write the rows as a folder of "
            "Parquet files, or leave --shard out"
        )
    from thalweg.data import Writer, batches

    with ExitStack() as stack:
        writer = stack.enter_context(Writer(asked.out, force=asked.force)) if asked.out else None
        stack.enter_context(asked.output.working(f"{question}: {asked.data}"))
        answered.model = load_model(asked.model)
        from thalweg.asking import Question

        what = Question(question, options, asked.keep, asked.data)
        for piece, result in what.pairs(answered.model, batches(asked.data)):
            if writer is not None:
                writer.write(result)
            yield piece, result


def _of_folder(
    asked: Asked, question: str, options: dict[str, Any], answered: Answered
) -> Iterator[tuple[Any, Any]]:
    """The pieces of the files of a folder that have no answer yet, and their answers."""
    if asked.out is None:
        raise OutputError(f"{asked.data} is a folder of files: name a folder for their answers with --out")
    keep_compiled()
    from thalweg.asking import Question
    from thalweg.folders import Folder

    what = Question(question, options, asked.keep)
    shard = asked.shard or (0, 1)
    folder = Folder(asked.model, what, asked.data, asked.out, shard=shard, force=asked.force)
    answered.files, answered.finished = len(folder.waiting), len(folder.finished)
    if folder.finished:
        asked.output.note(
            f"{len(folder.finished):,} of {len(folder.files):,} files were finished and are skipped"
        )
    if not folder.waiting:
        return
    answered.model = load_model(asked.model)
    began = time.monotonic()
    with files_bar(asked.output, len(folder.waiting)) as show:
        for done, name in enumerate(folder.waiting):
            for piece, result in folder.answer(answered.model, name):
                yield piece, result
                show(done, answered.rows)
            show(done + 1, answered.rows)
    rate = answered.rows / max(time.monotonic() - began, 1e-9)
    asked.output.note(f"{len(folder.waiting):,} files answered, {answered.rows:,} rows, {rate:,.0f} rows/s")
