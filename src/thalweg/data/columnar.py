"""Parquet, Arrow and Feather files."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from thalweg.data.csvfile import check_names
from thalweg.data.limits import check_bytes
from thalweg.data.reading import each, reading
from thalweg.data.sniff import check_file
from thalweg.errors import DataError


def read_columnar(path: Path, format_: str) -> pa.Table:
    """The whole file; raises `DataError` where it unpacks to more than is read at once."""
    batches, size = [], 0
    for batch in stream_columnar(path, format_, size=1 << 16):
        size += batch.nbytes
        check_bytes(size, f"{path} unpacks to a large table", "give a part of it")
        batches.append(batch)
    return pa.concat_tables(batches)


def stream_columnar(path: Path, format_: str, *, size: int) -> Iterator[pa.Table]:
    """The file in pieces (of `size` rows where the format allows); raises `DataError` where it is damaged."""
    check_file(path, format_)
    rows = 0
    for batch in each(_parquet(path, size) if format_ == "parquet" else _arrow(path), path):
        with reading(path):
            table = check_table(pa.Table.from_batches([batch]), str(path))
        rows += table.num_rows
        if table.num_rows:
            yield table
    if not rows:
        raise DataError(f"{path} has no rows: there is nothing to learn from or to ask about")


def check_table(table: pa.Table, where: str) -> pa.Table:
    """The table, once its names are usable and its buffers are what they say."""
    check_names(list(table.column_names), where)
    table.validate(full=True)
    return table


def _parquet(path: Path, size: int) -> Iterator[pa.RecordBatch]:
    # By default a whole row group is read ahead, which may be all there is.
    with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
        yield from file.iter_batches(batch_size=size)


def _arrow(path: Path) -> Iterator[pa.RecordBatch]:
    with pa.OSFile(str(path)) as file:
        if file.read(6) == b"ARROW1":
            file.seek(0)
            reader = pa.ipc.open_file(file)
            yield from (reader.get_batch(i) for i in range(reader.num_record_batches))
        else:
            file.seek(0)
            yield from pa.ipc.open_stream(file)
