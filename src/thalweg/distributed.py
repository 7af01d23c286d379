"""The questions in the engines of others: a class for Ray Data and a function for Spark, over `thalweg.asking`.

Ray and Spark are imported by whoever uses them, never by `import thalweg`. Thalweg must be installed wherever the
workers run, and the model's directory must be at the same path there.
"""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thalweg.errors import SettingsError

if TYPE_CHECKING:
    import pyarrow as pa

    from thalweg.asking import Question
    from thalweg.model import Model


class Answers:
    """For `ray.data.Dataset.map_batches` with `batch_format="pyarrow"`: loads the model once an actor.

    Its constructor takes the model's directory, the question, `keep` and the question's options, as
    `thalweg.answer_batches` does. Rows are numbered from the start of their batch, and draws depend on the seed and
    on what is in the batch, since Ray tells neither where a batch lies nor in which order they come.
    """

    def __init__(self, model: str | Path, question: str, *, keep: Iterable[str] = (), **options: Any):
        self.model = load_once(str(model))
        self.question = _question(question, keep, options)
        self.draws = "seed" in self.question.settings

    def __call__(self, batch: "pa.Table") -> "pa.Table":
        asked = self.question.at(_digest(batch)) if self.draws else self.question
        return asked.answer(self.model, batch)


def in_arrow(
    model: str | Path, question: str, rows: Any, *, keep: Iterable[str] = (), **options: Any
) -> tuple[Callable[[Iterator["pa.RecordBatch"]], Iterator["pa.RecordBatch"]], Any]:
    """The function and the schema that `pyspark.sql.DataFrame.mapInArrow` takes, for rows of schema `rows`.

    `frame.mapInArrow(*in_arrow("wine-model", "score", frame.schema, keep=["id"]))`. Each worker loads the model
    once. Rows are numbered from the start of their partition, and draws depend on the seed, the partition and the
    place in it. Raises `SettingsError` for an unknown question or option, and where Spark has no type for an answer.
    """
    from pyspark.sql.pandas.types import from_arrow_schema, to_arrow_schema

    path, asked = str(model), _question(question, keep, options)
    columns = _plain(asked.schema(load_once(path), to_arrow_schema(rows)))
    try:
        schema = from_arrow_schema(columns)
    except Exception as error:  # Spark's own class is not there to be named without Spark
        raise SettingsError(f"Spark has no type for an answer of {question} ({error})") from error

    def answer(batches: Iterator["pa.RecordBatch"]) -> Iterator["pa.RecordBatch"]:
        from pyspark import TaskContext

        context = TaskContext.get()
        here = asked.at(context.partitionId() if context else 0)
        for _, result in here.pairs(load_once(path), batches):
            yield result.cast(columns)

    return answer, schema


@lru_cache(maxsize=2)
def load_once(path: str) -> "Model":
    """The model in this directory, loaded once a process.

    An engine runs a worker for each processor, so JAX gets one thread, unless `NPROC` says otherwise or JAX runs.
    """
    if "jax" not in sys.modules:
        os.environ.setdefault("NPROC", "1")
    import thalweg

    return thalweg.load(path)


def _question(name: str, keep: Iterable[str], options: dict[str, Any]) -> "Question":
    from thalweg.asking import Question

    return Question(name, options, tuple(keep))


def _digest(batch: "pa.Table") -> int:
    """A number that tells batches of different rows apart."""
    import hashlib

    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_table(batch.combine_chunks())
    return int.from_bytes(hashlib.sha256(sink.getvalue()).digest()[:8], "little")


def _plain(schema: "pa.Schema") -> "pa.Schema":
    """The schema without dictionaries, which Spark does not have."""
    import pyarrow as pa

    def plain(type_: pa.DataType) -> pa.DataType:
        return type_.value_type if pa.types.is_dictionary(type_) else type_

    return pa.schema([column.with_type(plain(column.type)) for column in schema])
