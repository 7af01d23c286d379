"""`load`: whatever holds rows becomes a `Dataset`."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np
import pyarrow as pa

from thalweg.data import builtin
from thalweg.data.arrays import add_labels, add_sequences, read_idx, read_npy, read_npz, table_of
from thalweg.data.columnar import check_table, read_columnar
from thalweg.data.csvfile import read_csv
from thalweg.data.dataset import Dataset, grid_of
from thalweg.data.images import read_images
from thalweg.data.reading import reading
from thalweg.data.sniff import FORMATS, format_of
from thalweg.data.tagged import read_tagged
from thalweg.data.text import as_dates, as_numbers, clean, typed
from thalweg.data.types import is_supported, is_text
from thalweg.errors import DataError, did_you_mean
from thalweg.there import SETS, check_data

_CONVERT = "give every column one type (numbers, text or dates) and the same number of rows"
KINDS = ("continuous", "integer", "categorical", "binary", "datetime", "word", "sequence")


def load(source: Any, *, drop: Iterable[str] = (), kinds: Mapping[str, str] | None = None) -> Dataset:
    """A data set from a file, a folder of images, a dataframe, an array or a built-in name.

    `drop` leaves columns out; `kinds` decides what a column is: `continuous`, `integer`, `categorical`,
    `binary`, `datetime`, `word` (text of an open vocabulary, of which rare words are as missing) or `sequence` (which
    rows belong together). A path may be CSV, TSV, Parquet, Arrow, Feather, .npy, .npz (`file.npz::key` for
    one array), idx (plain or .gz), text with tags (.conll, .conllu, .tagged, plain or .gz) or a folder of PNG or JPEG
    images of one size. Raises `DataError` naming
    file, column, row and remedy.
    """
    kinds = dict(kinds or {})
    drop = [drop] if isinstance(drop, str) else list(drop)
    # A column that is dropped may hold anything.
    dataset = _dataset(source, {**dict.fromkeys(drop, "categorical"), **kinds})
    for name in (*drop, *kinds):
        _check_column(dataset, name)
    for name, kind in kinds.items():
        if kind not in KINDS:
            hint = did_you_mean(str(kind), KINDS, "it is one of")
            raise DataError(f"column {name!r} cannot be of kind {kind!r}: {hint}")
    dataset = _dropped(dataset, drop)
    _check_types(dataset)
    decided = {name: kind for name, kind in {**dataset.kinds, **kinds}.items() if name not in drop}
    return replace(dataset, table=_decide(dataset, decided), kinds=decided)


def near_name(name: str, names: Iterable[str]) -> str:
    """A hint for a column name that does not exist."""
    return did_you_mean(name, names, "the columns are")


def _check_column(dataset: Dataset, name: str) -> None:
    if name not in dataset.table.column_names:
        raise DataError(
            f"{dataset.where} has no column {name!r}: {near_name(name, dataset.table.column_names)}"
        )


def _check_types(dataset: Dataset) -> None:
    for column in dataset.table.schema:
        if not is_supported(column.type):
            raise DataError(
                f"{dataset.where}, column {column.name!r}: cells of type {column.type} are not numbers, text "
                f"or dates: leave the column out with --drop {column.name} (drop=[{column.name!r}])"
            )


def _dropped(dataset: Dataset, drop: list[str]) -> Dataset:
    if not drop:
        return dataset
    pixels = dataset.table.column_names[: int(np.prod(dataset.grid))] if dataset.grid else []
    grid = () if set(drop) & set(pixels) else dataset.grid
    table = dataset.table.drop_columns(drop)
    if not table.num_columns:
        raise DataError(f"{dataset.where}: every column is dropped, nothing is left to learn from")
    return replace(dataset, table=table, grid=grid)


def _decide(dataset: Dataset, kinds: Mapping[str, str]) -> pa.Table:
    """Text that the user says is a number or a date, as such (files of text have done so already)."""
    table = dataset.table
    for i, name in enumerate(table.column_names):
        parse = {"continuous": as_numbers, "integer": as_numbers, "datetime": as_dates}.get(
            kinds.get(name, "")
        )
        if parse and is_text(table.schema.field(i).type):
            found = parse(clean(table.column(i)), name, where=dataset.where, error=DataError)
            table = table.set_column(i, name, found)
    return table


def _dataset(source: Any, kinds: Mapping[str, str]) -> Dataset:
    if isinstance(source, Dataset):
        return source
    if isinstance(source, str | os.PathLike):
        return _named(os.fspath(source), kinds)
    if isinstance(source, np.ndarray):
        table, grid = table_of(source, "the array")
        return Dataset(table, "array", grid, "numpy", source=source[:0])
    return _frame(source)


def _named(text: str, kinds: Mapping[str, str]) -> Dataset:
    path = Path(text)
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise DataError(f"{text!r}: the name of the file is not UTF-8, rename the file")
    check_data(text)
    if not os.path.exists(text) and text in SETS:
        return builtin.read(text)
    if os.path.isdir(text):
        return _arrays(*read_images(path), path=path)
    name, _, key = text.partition("::")
    path = Path(name)
    match format_of(path):
        case "text":
            return Dataset(_typed_table(read_csv(path), kinds, str(path)), path.stem, path=str(path))
        case "npy":
            return _arrays(read_npy(path), path=path)
        case "npz":
            return _arrays(*read_npz(path, key or None), path=path)
        case "tagged":
            return read_tagged(path)
        case "idx":
            return _arrays(*read_idx(path), path=path)
        case columnar:
            table = read_columnar(path, columnar)
            return Dataset(table, path.stem, grid_of(table), path=str(path))


def _typed_table(table: pa.Table, kinds: Mapping[str, str], where: str) -> pa.Table:
    names = table.column_names
    columns = [
        typed(column, name, kind=kinds.get(name), where=where)
        for name, column in zip(names, table.columns, strict=True)
    ]
    return pa.table(columns, names=names)


def _arrays(
    values: np.ndarray,
    labels: np.ndarray | None = None,
    offsets: np.ndarray | None = None,
    *,
    path: Path,
) -> Dataset:
    table, grid = table_of(values, str(path))
    kinds: dict[str, str] = {}
    if labels is not None:
        table, kinds = add_labels(table, labels, str(path))
    if offsets is not None:
        table, found = add_sequences(table, offsets, str(path))
        kinds = kinds | found
    return Dataset(table, path.name.split(".")[0], grid, kinds=kinds, path=str(path))


def _frame(source: Any) -> Dataset:
    where = f"the {type(source).__name__}"
    if isinstance(source, pa.RecordBatch | Mapping):
        with reading(where, _CONVERT):
            source = (
                pa.table(dict(source)) if isinstance(source, Mapping) else pa.Table.from_batches([source])
            )
    try:
        frame = nw.from_native(source)
    except nw.exceptions.DuplicateError as error:
        raise DataError(f"{where} has two columns of one name ({error}): rename one") from error
    except TypeError as error:
        raise DataError(
            f"{type(source).__name__} is not something to load rows from: give a dataframe (pandas, polars, "
            f"pyarrow), a NumPy array, a built-in name, or a path to {FORMATS}"
        ) from error
    if isinstance(frame, nw.LazyFrame):
        frame = frame.collect()
    native = frame.implementation.name.lower()
    with reading(where, _CONVERT):
        if native == "pandas":
            table = pa.Table.from_pandas(frame.to_native(), preserve_index=False)
        else:
            table = frame.to_arrow()
    if not table.num_rows:
        raise DataError(f"{where} has no rows: there is nothing to learn from or to ask about")
    kind = native if native in ("pandas", "polars") else "arrow"
    table = check_table(table, where)
    native_source = None if kind == "arrow" else frame.to_native()
    return Dataset(table, "table", grid_of(table), native=kind, source=native_source)
