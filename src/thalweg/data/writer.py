"""Tables written piece by piece into one file that appears whole or not at all."""

import csv
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from thalweg.data.types import is_number, is_text
from thalweg.errors import OutputError
from thalweg.files import atomic_file, check_output

SUFFIXES = (".csv", ".tsv", ".parquet", ".pq", ".arrow", ".feather", ".ipc", ".npy")
_SPECIAL = {",": r'[",\r\n]', "\t": r'["\t\r\n]'}


class Writer:
    """A context manager whose `write` appends a table; the suffix of `path` chooses the format.

    CSV, TSV, Parquet, Arrow and Feather are written as the pieces come; .npy needs numbers only, and holds
    them in memory until the end. `note` is kept in the footer of a Parquet file, and nowhere else. Raises
    `OutputError` for an unknown suffix, an existing `path` without `force`, pieces that differ in their
    columns, and a full disk.
    """

    def __init__(
        self, path: str | Path, *, force: bool = False, note: Mapping[str, str] | None = None
    ) -> None:
        self.path = Path(path)
        self.force = force
        self.note = note
        self._kind = self.path.suffix.lower()
        if self._kind not in SUFFIXES:
            raise OutputError(
                f"{path}: no table format is called {self._kind!r}: use one of {', '.join(SUFFIXES)}"
            )
        check_output(self.path, force=force)
        self._stack = ExitStack()
        self._schema: pa.Schema | None = None
        self._append: Callable[[pa.Table], Any] | None = None

    def __enter__(self) -> "Writer":
        self._temporary = self._stack.enter_context(atomic_file(self.path, force=self.force))
        self._temporary.touch()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def write(self, table: pa.Table) -> None:
        """Append the rows of `table`; the first table decides columns and types."""
        if self._schema is None:
            self._schema = table.schema.remove_metadata()
            self._append = self._open(self._schema)
        try:
            table = table.replace_schema_metadata(None).cast(self._schema)
        except (pa.ArrowException, ValueError) as error:
            raise OutputError(
                f"{self.path}: the pieces of the table do not have the same columns ({error})"
            ) from error
        assert self._append is not None
        self._append(table)

    def _open(self, schema: pa.Schema) -> Callable[[pa.Table], Any]:
        if self._kind in (".csv", ".tsv"):
            return self._open_text(schema, "\t" if self._kind == ".tsv" else ",")
        if self._kind == ".npy":
            return self._open_array(schema)
        if self._kind in (".parquet", ".pq"):
            file = self._stack.enter_context(pq.ParquetWriter(self._temporary, schema))
            if self.note:
                file.add_key_value_metadata(self.note)
            return file.write_table
        # An Arrow file has one dictionary a column, and later pieces may hold words that it lacks.
        plain = _plain(schema.empty_table()).schema
        file = self._stack.enter_context(pa.ipc.new_file(str(self._temporary), plain))
        return lambda table: file.write_table(_plain(table))

    def _open_text(self, schema: pa.Schema, delimiter: str) -> Callable[[pa.Table], None]:
        with self._temporary.open("w", encoding="utf-8", newline="") as header:
            csv.writer(header, delimiter=delimiter, lineterminator="\n").writerow(schema.names)
        file = self._stack.enter_context(self._temporary.open("ab"))

        def append(table: pa.Table) -> None:
            # Arrow's "needed" quotes all text or none, so it is only asked for where some text needs it.
            style = "needed" if _special(table, delimiter) else "none"
            options = pacsv.WriteOptions(include_header=False, delimiter=delimiter, quoting_style=style)
            pacsv.write_csv(_plain(table), file, options)

        return append

    def _open_array(self, schema: pa.Schema) -> Callable[[pa.Table], None]:
        for column in schema:
            if not (is_number(column.type) or pa.types.is_boolean(column.type)):
                raise OutputError(
                    f"{self.path}: column {column.name!r} holds {column.type}, and .npy holds numbers only: "
                    "write .csv or .parquet"
                )
        pieces: list[np.ndarray] = []

        def save() -> None:
            array = np.concatenate(pieces)
            # Not numpy.save, whose error on a full disk does not say that the disk is full.
            with self._temporary.open("wb") as file:
                np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
                file.write(np.ascontiguousarray(array).data)

        self._stack.push(lambda kind, *_: save() if kind is None else None)
        return lambda table: pieces.append(np.stack([c.to_numpy() for c in table.columns], axis=1))


def _plain(table: pa.Table) -> pa.Table:
    columns = [c.cast(c.type.value_type) if pa.types.is_dictionary(c.type) else c for c in table.columns]
    return pa.table(columns, names=table.column_names)


def _special(table: pa.Table, delimiter: str) -> bool:
    text = (c for c in _plain(table).columns if is_text(c.type))
    return any(
        pc.any(pc.match_substring_regex(c.cast(pa.string()), _SPECIAL[delimiter])).as_py() for c in text
    )
