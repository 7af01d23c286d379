"""Asking one question of every row of a source, a piece at a time: nothing is held but the first rows."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from thalweg.cli.cache import keep_compiled
from thalweg.cli.output import Output
from thalweg.cli.preview import Marks, preview
from thalweg.errors import DataError

FIRST_ROWS = 10
#: (model, piece, rows before the piece) -> the answer as a `pyarrow.Table`.
Question = Callable[[Any, Any, int], Any]


@dataclass(frozen=True)
class Asked:
    """One question as it stands on the command line."""

    output: Output
    model: str
    data: str
    out: str | None = None
    force: bool = False


@dataclass
class Answered:
    """What came of it: the first rows, the counts of rows, and every answer where `--json` wants them."""

    model: Any
    rows: int = 0
    answers: int = 0
    head: Any = None
    piece: Any = None
    all: list[dict[str, Any]] = field(default_factory=list)

    def add(self, piece: Any, result: Any, keep: bool) -> None:
        if self.head is None:
            self.piece, self.head = piece.slice(0, FIRST_ROWS), result.slice(0, FIRST_ROWS)
        self.rows += piece.num_rows
        self.answers += result.num_rows
        if keep:
            self.all.extend(result.to_pylist())


def load_model(path: str) -> Any:
    """The model in this directory, ready to be asked."""
    keep_compiled()
    import thalweg

    return thalweg.load(path)


def ask(asked: Asked, question: Question) -> Answered:
    """Put `question(model, piece, start) -> pyarrow.Table` to each piece of the data.

    `start` is the number of rows before the piece. The output is opened, and refused, before anything is
    loaded; it appears whole, at the end, or not at all.
    """
    from thalweg.data import Writer, batches

    output, keep = asked.output, asked.output.json and asked.out is None
    with ExitStack() as stack:
        writer = stack.enter_context(Writer(asked.out, force=asked.force)) if asked.out else None
        stack.enter_context(output.working(f"{output.command}: {asked.data}"))
        answered = Answered(load_model(asked.model))
        for piece in batches(asked.data):
            result = _named_by_row(question, answered.model, piece, answered.rows)
            answered.add(piece, result, keep)
            if writer is not None:
                writer.write(result)
    return answered


def present(
    asked: Asked, answered: Answered, then: str, *, filled: Marks | None = None, **summary: Any
) -> None:
    """Show the first rows, say where the rest lies, and name the next command."""
    output = asked.output
    if answered.head is not None and not output.json:
        width, total = output.out.width, answered.answers
        output.show(preview(answered.head, total=total, width=width, filled=filled))
    if asked.out:
        output.note(f"{answered.answers:,} rows written to {asked.out}")
    answers = {} if asked.out else {"answers": answered.all}
    record = {"model": asked.model, "data": asked.data, "rows": answered.rows, "out": asked.out}
    output.finish({**record, **summary, **answers}, then)


def _named_by_row(question: Question, model: Any, piece: Any, start: int) -> Any:
    """The answer; an error about a row of a later piece says where that piece begins."""
    try:
        return question(model, piece, start)
    except DataError as error:
        if start == 0:
            raise
        raise type(error)(f"{error} (in the piece of the data that begins at row {start})") from error


def shifted(table: Any, start: int, name: str = "row") -> Any:
    """The table with its row numbers counted from the start of the source."""
    if start == 0 or name not in table.column_names:
        return table
    import pyarrow.compute as pc

    place = table.column_names.index(name)
    return table.set_column(place, name, pc.add(table.column(name), start))


def piece_seed(seed: int, start: int) -> int:
    """A seed for the piece that begins at `start`, so that no two pieces share their randomness."""
    import numpy as np

    return seed if start == 0 else int(np.random.SeedSequence([seed, start]).generate_state(1)[0])
