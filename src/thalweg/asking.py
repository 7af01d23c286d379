"""One question, put to rows as they come: Arrow batches in, Arrow batches out, in order and one at a time.

The one place that knows how a question's options become an answer's table; the command line, folders of files,
Ray and Spark all ask here.
"""

import hashlib
import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from thalweg.data.dataset import Dataset
from thalweg.errors import ChainWarning, DataError, DataWarning, SchemaError, SettingsError, did_you_mean
from thalweg.model import Model, load_rows

Batch: TypeAlias = "pa.Table | pa.RecordBatch"


def answer_batches(
    model: Model, question: str, batches: Iterable[Batch], *, keep: Iterable[str] = (), **options: Any
) -> Iterator[Any]:
    """The answer to each batch of rows, in order, each when it is asked for; nothing else is held.

    `question` is one of `ANSWERS`, `options` what `thalweg QUESTION` takes. A `pyarrow.Table` is answered by a
    table, a `RecordBatch` by a record batch. `keep` names columns of the rows that are put beside their answers.
    Draws depend on the seed and on where a batch begins, so on how the rows are cut. Raises `SettingsError` for an
    unknown question or option, and what the question raises, naming where the batch began.
    """
    asked = Question(question, options, tuple(keep))
    return (answer for _, answer in asked.pairs(model, batches))


def score_batches(
    model: Model, batches: Iterable[Batch], *, alpha: float = 0.01, keep: Iterable[str] = ()
) -> Iterator[Any]:
    """`model.score` of each batch of rows: energy, surprise, p-value and flag. See `answer_batches`."""
    return answer_batches(model, "score", batches, keep=keep, alpha=alpha)


@dataclass(frozen=True)
class Question:
    """A question about rows with its options, the columns of the rows that are kept beside the answers, and what
    messages call the rows (`where`: the file that they are read from)."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    keep: tuple[str, ...] = ()
    where: str | None = None

    def __post_init__(self) -> None:
        if self.name not in ANSWERS:
            raise SettingsError(
                f"no question about rows is called {self.name!r}: {did_you_mean(self.name, ANSWERS)}"
            )
        known = [*inspect.signature(ANSWERS[self.name]).parameters][2:]
        for option in self.options:
            if option not in known:
                raise SettingsError(f"{self.name} has no option {option!r}: {did_you_mean(option, known)}")

    def pairs(self, model: Model, batches: Iterable[Batch]) -> Iterator[tuple[Any, Any]]:
        """Each batch with its answer; of a model of sequences the batches are cut between these."""
        start, sequences, question = 0, 0, self
        for batch in self._pieces(model, batches):
            if start == 0 and batch.num_rows:
                question = self._prepared(model, batch)
            answer = question.answer(model, batch, start)
            if self.name == "label" and batch.num_rows:
                answer = _numbered(answer, sequences, "sequence")
                sequences = answer.column("sequence")[-1].as_py() + 1
            yield batch, answer
            start += batch.num_rows

    def _pieces(self, model: Model, batches: Iterable[Batch]) -> Iterable[Batch]:
        """The batches, cut where the question may be: sequences stay whole, and so do rows asked about each other."""
        if self.name in AMONG_THEMSELVES and self.options.get(AMONG_THEMSELVES[self.name]) is None:
            return _all(batches)
        return batches if model.schema.sequence is None else _whole(batches, model.schema.sequence)

    def answer(self, model: Model, batch: Batch, start: int = 0) -> Any:
        """The answer to one batch, `start` rows after the beginning: line numbers and draws follow from it."""
        if isinstance(batch, pa.RecordBatch):
            return _record_batch(self.answer(model, pa.Table.from_batches([batch]), start))
        if not batch.num_rows:
            return self.schema(model, batch.schema).empty_table()
        rows = self._read(model, batch, start)
        try:
            table = ANSWERS[self.name](model, rows, **self._options(start))
        except DataError as error:
            if start == 0:
                raise
            where = f"(in the piece of the data that begins at row {start})"
            raise type(error)(f"{error} {where}") from error
        kept = self._kept(table, batch)
        return _numbered(kept, start) if self._says_rows else kept

    def _prepared(self, model: Model, batch: Batch) -> "Question":
        """The question with what is the same for all batches worked out once: the candidates of `retrieve`."""
        if self.name != "retrieve" or self.options.get("among") is None:
            return self
        rows = pa.Table.from_batches([batch]) if isinstance(batch, pa.RecordBatch) else batch
        among = model.index(
            self.options["among"],
            partners_of=self._read(model, rows),
            method="hnsw" if self.options.get("approximate") else "exact",
        )
        return replace(self, options={**self.options, "among": among})

    def schema(self, model: Model, rows: pa.Schema) -> pa.Schema:
        """The columns of the answers about rows with these columns, found by asking about one empty row."""
        columns = pa.schema([column.with_nullable(True) for column in rows], rows.metadata)
        nothing = pa.table(
            [
                # No row is without the sequence that it is of.
                pa.array(["0"]).cast(column.type)
                if column.name == model.schema.sequence
                else pa.nulls(1, column.type)
                for column in columns
            ],
            schema=columns,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataWarning)
            warnings.simplefilter("ignore", ChainWarning)
            return self.answer(model, nothing).schema.remove_metadata()

    def at(self, place: int | str) -> "Question":
        """The question as it is asked at one place among many (a file, a partition): with a seed of its own."""
        if "seed" not in self.settings:
            return self
        if isinstance(place, str):
            place = int.from_bytes(hashlib.sha256(place.encode()).digest()[:8], "little")
        return replace(self, options={**self.options, "seed": seed_of(self.settings["seed"], place)})

    @property
    def settings(self) -> dict[str, Any]:
        """Every option with its value, given or not, as plain values that tell one question from another."""
        parameters = inspect.signature(ANSWERS[self.name]).parameters.values()
        defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
        given = {name: _plain(value) for name, value in self.options.items()}
        return {**defaults, **given, "keep": list(self.keep)}

    @property
    def _says_rows(self) -> bool:
        """Whether an answer has several lines a row, which say the `row`."""
        return self.name in NUMBERED or (self.name == "predict" and bool(self.options.get("modes")))

    def _options(self, start: int) -> dict[str, Any]:
        options = dict(self.options)
        if start and "seed" in inspect.signature(ANSWERS[self.name]).parameters:
            options["seed"] = seed_of(options.get("seed", 0), start)
        return options

    def _read(self, model: Model, batch: pa.Table, start: int = 0) -> Dataset:
        """The columns that the model is to see, of rows that come after `start` others."""
        for name in self.keep:
            if name not in batch.column_names:
                raise SchemaError(
                    f"keep: the rows have no column {name!r}: {did_you_mean(name, batch.column_names)}"
                )
        only_kept = set(self.keep) - set(model.schema.names) if self.keep else set()
        seen = batch.drop_columns(sorted(only_kept)) if only_kept else batch
        return replace(load_rows(seen), path=self.where, first_row=start)

    def _kept(self, table: pa.Table, batch: pa.Table) -> pa.Table:
        """The answers with the kept columns in front, repeated where a row has several lines."""
        if not self.keep:
            return table
        taken = [name for name in self.keep if name in table.column_names]
        if taken:
            raise SettingsError(
                f"keep: the answers of {self.name} have a column {taken[0]!r} of their own: leave it out of keep, "
                "or rename it in the data"
            )
        if self._says_rows:
            rows = table.column("row")
        else:
            rows = pa.array(np.repeat(np.arange(batch.num_rows), table.num_rows // batch.num_rows))
        kept = batch.select(list(self.keep)).take(rows)
        return pa.table([*kept.columns, *table.columns], names=[*self.keep, *table.column_names])


def _all(batches: Iterable[Batch]) -> Iterator[pa.Table]:
    """The rows of all batches as one."""
    tables = [pa.Table.from_batches([b]) if isinstance(b, pa.RecordBatch) else b for b in batches]
    if tables:
        yield pa.concat_tables(tables)


def _whole(batches: Iterable[Batch], name: str) -> Iterator[pa.Table]:
    """The rows of the batches, cut between sequences: the last one of each waits for what may follow of it."""
    waiting: list[pa.Table] = []
    for batch in batches:
        table = pa.Table.from_batches([batch]) if isinstance(batch, pa.RecordBatch) else batch
        if name not in table.column_names or not table.num_rows:
            yield table
            continue
        last = table.column(name)[-1]
        other = pc.fill_null(pc.not_equal(table.column(name), last), True)
        begin = table.num_rows - pc.index(pa.chunked_array([other.combine_chunks()[::-1]]), True).as_py()
        if begin > table.num_rows:  # all of it is of one sequence
            waiting.append(table)
            continue
        yield pa.concat_tables([*waiting, table.slice(0, begin)])
        waiting = [table.slice(begin)]
    if waiting:
        yield pa.concat_tables(waiting)


def seed_of(seed: int, *place: int) -> int:
    """A seed for one place among many, so that no two places share their randomness."""
    return int(np.random.SeedSequence([seed, *place]).generate_state(1)[0])


def _energy(model: Model, rows: Dataset) -> pa.Table:
    return pa.table({"energy": model.energy(rows)})


def _score(model: Model, rows: Dataset, alpha: float = 0.01) -> pa.Table:
    return model.score(rows, alpha=alpha).to_table()


def _complete(model: Model, rows: Dataset, n: int = 1, seed: int = 0, steps: int | None = None) -> pa.Table:
    return model.complete(rows, n=n, seed=seed, steps=steps)


def _denoise(model: Model, rows: Dataset, noise: float | Mapping[str, float] = 0.1) -> pa.Table:
    return model.denoise(rows, noise=noise)


def _predict(
    model: Model,
    rows: Dataset,
    target: str | None = None,
    draws: int = 0,
    modes: bool = False,
    seed: int = 0,
    steps: int | None = None,
) -> pa.Table:
    answer = model.predict(rows, target=target, draws=draws, modes=modes, seed=seed, steps=steps)
    return answer.to_table() if answer.modes is None else answer.modes.to_table()


def _label(model: Model, rows: Dataset, k: int = 1, anew: bool = False) -> pa.Table:
    return model.label(rows, k=k, anew=anew).to_table()


def _rank(model: Model, rows: Dataset, candidates: Any = None) -> pa.Table:
    return model.rank(rows, candidates).to_table()


def _retrieve(
    model: Model, rows: Dataset, among: Any = None, k: int = 10, approximate: bool = False
) -> pa.Table:
    return model.retrieve(rows, among, k, method="hnsw" if approximate else "exact").to_table()


def _explain(model: Model, rows: Dataset, top: int = 3, pairs: bool = False) -> pa.Table:
    return model.explain(rows, pairs=pairs).to_table(top=top or None)


def _encode(model: Model, rows: Dataset) -> pa.Table:
    return model.encode(rows).to_table()


#: Each question about rows: (model, rows, its options) -> the answers, one line a row unless they say which `row`.
ANSWERS: dict[str, Callable[..., pa.Table]] = {
    "energy": _energy,
    "score": _score,
    "complete": _complete,
    "denoise": _denoise,
    "predict": _predict,
    "label": _label,
    "rank": _rank,
    "retrieve": _retrieve,
    "explain": _explain,
    "encode": _encode,
}


#: Questions that ask rows about each other where an option leaves out what else there is: which option.
AMONG_THEMSELVES = {"rank": "candidates", "retrieve": "among"}
#: Questions whose answers have several lines a row; those of predict too where it has all modes.
NUMBERED = ("rank", "retrieve", "explain")


def _numbered(table: pa.Table, start: int, name: str = "row") -> pa.Table:
    """The table with its rows, or its sequences, counted from the very first."""
    place = table.column_names.index(name)
    return table.set_column(place, name, pc.add(table.column(name), start))


def _plain(value: Any) -> Any:
    """An option as JSON has it; a table of candidates as a digest of what it holds."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping) and all(isinstance(item, int | float) for item in value.values()):
        return dict(value)
    table = load_rows(value).table.replace_schema_metadata(None)
    return hashlib.sha256(f"{table.schema}{table.to_pydict()}".encode()).hexdigest()


def _record_batch(table: pa.Table) -> pa.RecordBatch:
    columns = [column.combine_chunks() for column in table.columns]
    return pa.RecordBatch.from_arrays(columns, schema=table.schema)
