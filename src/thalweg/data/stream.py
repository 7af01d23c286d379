"""Rows in pieces: files that do not fit memory are never loaded whole."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from thalweg.data.columnar import stream_columnar
from thalweg.data.csvfile import stream_csv
from thalweg.data.load import load
from thalweg.data.sniff import format_of
from thalweg.errors import SettingsError


def batches(source: Any, *, size: int = 65_536) -> Iterator[pa.Table]:
    """The rows of `source` as tables of `size` rows (the last may be shorter), in order.

    CSV, TSV, Parquet, Arrow and Feather files are streamed; everything else that `load` takes is loaded and
    sliced. The cells of CSV and TSV are text, so that types never differ between pieces: `Schema.encode`
    parses them. Raises `DataError` as `load` does, for a damaged row when its piece is reached.
    """
    if size < 1:
        raise SettingsError(f"a batch of {size} rows is not possible: size is at least 1")
    return _rechunked(_pieces(source, size), size)


def parquet_files(folder: str | Path) -> list[Path]:
    """The Parquet files below a folder, by their paths inside it, sorted.

    Names that begin with a dot or an underscore are not data, as engines that write such folders have it.
    """
    folder = Path(folder)
    found = (
        path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() in (".parquet", ".pq")
    )
    named = (path for path in found if not any(part[0] in "._" for part in path.parts))
    return sorted((path for path in named if (folder / path).is_file()), key=Path.as_posix)


def _pieces(source: Any, size: int) -> Iterator[pa.Table]:
    path = Path(source) if isinstance(source, str | Path) else None
    if path is not None and path.suffix and not os.path.isdir(path) and "::" not in str(path):
        format_ = format_of(path)
        if format_ == "text":
            return stream_csv(path)
        if format_ in ("parquet", "arrow"):
            return stream_columnar(path, format_, size=size)
    return iter([load(source).table])


def _rechunked(pieces: Iterator[pa.Table], size: int) -> Iterator[pa.Table]:
    waiting: list[pa.Table] = []
    held = 0
    for piece in pieces:
        waiting.append(piece)
        held += piece.num_rows
        if held >= size:
            table = pa.concat_tables(waiting)
            for start in np.arange(0, held - held % size, size).tolist():
                yield table.slice(start, size)
            rest = table.slice(held - held % size)
            waiting, held = [rest] if rest.num_rows else [], rest.num_rows
    if held:
        yield pa.concat_tables(waiting)
