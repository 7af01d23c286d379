"""NumPy arrays and the files that hold them: .npy, .npz and MNIST's idx."""

import gzip
import io
import math
import struct
import zipfile
from contextlib import nullcontext
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa

from thalweg.data.dataset import mark_nameless, mark_pixels
from thalweg.data.limits import check_bytes, check_columns
from thalweg.data.reading import reading
from thalweg.data.sniff import check_file
from thalweg.data.text import clean_table
from thalweg.errors import DataError

#: The pairs of names under which people store inputs and labels.
PAIRS = (("X", "y"), ("x", "y"), ("x_train", "y_train"), ("X_train", "y_train"), ("images", "labels"))
#: Names under which people store where each of several sequences begins, and after the last of them their end.
OFFSETS = ("offsets", "word_offsets", "sequence_offsets")
#: Deflate turns one byte into 1,032 at most (RFC 1951: 258 bytes from two bits).
_DEFLATE = 1032
#: Bytes of a .npy header that are looked at; NumPy itself reads headers of up to 10,000.
_LONGEST_HEADER = 16_384
_LABEL, _SEQUENCE = "label", "sequence"
_MOST_LABELS = 100
_IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def table_of(array: np.ndarray, where: str) -> tuple[pa.Table, tuple[int, ...]]:
    """The columns of an array, and the grid of its images.

    (n,) is one column, (n, d) is d columns `x0`, `x1`, …; (n, h, w) and (n, h, w, c) are images with columns
    `pixel_0_0`, …. Masked cells are missing. Raises `DataError` for objects, complex numbers and no cells.
    """
    if array.dtype.hasobject or array.dtype.kind not in "biufUMm":
        raise DataError(
            f"{where}: an array of {array.dtype} is not a table of numbers: give each column its own type, "
            "in a dataframe or a CSV file"
        )
    if array.ndim == 0 or array.size == 0:
        raise DataError(f"{where}: an array of shape {array.shape} has no rows of data")
    grid = array.shape[1:] if array.ndim > 2 else ()
    cells = array.reshape(len(array), -1)
    check_columns(cells.shape[1], where)
    names = (
        [_pixel(place) for place in np.ndindex(*grid)] if grid else [f"x{i}" for i in range(cells.shape[1])]
    )
    with reading(where, "give numbers, text or dates"):
        table = pa.table([_column(cells[:, i]) for i in range(cells.shape[1])], names=names)
        table.validate(full=True)
    return mark_nameless(mark_pixels(table, tuple(grid))), tuple(grid)


def read_npy(path: Path) -> np.ndarray:
    """The array in a .npy file, which is never unpickled."""
    check_file(path, "npy")
    with reading(path), path.open("rb") as file:
        shape, dtype, begin = _header(file, str(path))
        _check_size(shape, dtype, str(path))
        if path.stat().st_size < begin + math.prod(shape) * dtype.itemsize:
            raise DataError(
                f"{path} is truncated: its header promises an array of shape {shape}; copy it again"
            )
        return np.load(path, allow_pickle=False)


def read_npz(path: Path, key: str | None) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """The inputs, the labels (or None) and the offsets of sequences (or None) in a .npz file.

    `key` names one array, or `train` or `test` for a pair `x_train`, `y_train`; without it, one of `PAIRS` (with one of
    `OFFSETS`, where the rows are in sequences) or the only array. Sizes are checked against what the file declares
    before anything is decompressed.
    """
    check_file(path, "npz")
    with reading(path), zipfile.ZipFile(path) as archive:
        keys = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        chosen = _choose(keys, key, path)
        offsets = (
            next((name for name in OFFSETS if name in keys), None) if len(chosen) == 2 and not key else None
        )
        chosen = (*chosen, offsets) if offsets else chosen
        for name in chosen:
            _check_packed(archive.getinfo(f"{name}.npy"), f"{path}::{name}")
            with archive.open(f"{name}.npy") as member:
                shape, dtype, begin = _header(member, f"{path}::{name}")
                _check_size(shape, dtype, f"{path}::{name}")
                declared = begin + math.prod(shape) * dtype.itemsize
                if declared != archive.getinfo(f"{name}.npy").file_size:
                    raise DataError(
                        f"{path}::{name} does not have the bytes that its shape {shape} needs: "
                        "it is damaged or incomplete, write or copy it again"
                    )
        with np.load(path, allow_pickle=False) as arrays:
            found = [arrays[name] for name in chosen]
    return found[0], found[1] if len(found) > 1 else None, found[2] if len(found) > 2 else None


def read_idx(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """The array in an idx file (plain or gzip), with the labels that lie beside it as MNIST's do.

    LeCun, Cortes & Burges (1998), *The MNIST database of handwritten digits*.
    """
    array = _read_idx(path)
    beside = path.with_name(
        path.name.replace("images-idx3", "labels-idx1").replace("images.idx3", "labels.idx1")
    )
    return array, _read_idx(beside) if beside != path and beside.is_file() else None


def add_labels(table: pa.Table, labels: np.ndarray, where: str) -> tuple[pa.Table, dict[str, str]]:
    """The table with a column `label`, categorical where it has at most 100 whole numbers or words."""
    labels = labels.reshape(-1) if labels.size == len(labels) else labels
    if labels.ndim != 1 or len(labels) != table.num_rows:
        raise DataError(
            f"{where}: labels of shape {labels.shape} do not fit {table.num_rows} rows: name the array to "
            f"load, as in {where}::X"
        )
    column = table_of(labels, where)[0].column(0)
    few = labels.dtype.kind in "biuU" and len(np.unique(labels)) <= _MOST_LABELS
    return table.append_column(_LABEL, column), {_LABEL: "categorical"} if few else {}


def add_sequences(table: pa.Table, offsets: np.ndarray, where: str) -> tuple[pa.Table, dict[str, str]]:
    """The table with a column `sequence`, of the number of each row's sequence: row i is in sequence s where
    `offsets[s] <= i < offsets[s + 1]`."""
    whole = offsets.ndim == 1 and offsets.dtype.kind in "iu" and len(offsets) > 1
    ends = offsets.astype(np.int64) if whole else np.zeros(1, np.int64)
    if not whole or ends[0] != 0 or ends[-1] != table.num_rows or (np.diff(ends) < 0).any():
        raise DataError(
            f"{where}: the offsets do not cut {table.num_rows} rows into sequences: they begin with 0, never fall, and "
            f"end with {table.num_rows}"
        )
    number = np.repeat(np.arange(len(ends) - 1), np.diff(ends))
    return table.append_column(_SEQUENCE, pa.array(number)), {_SEQUENCE: "sequence"}


def _pixel(place: tuple[int, ...]) -> str:
    return "pixel_" + "_".join(map(str, place))


def _column(cells: np.ndarray) -> pa.Array:
    mask = np.ma.getmaskarray(cells) if np.ma.isMaskedArray(cells) else None
    values = np.ascontiguousarray(np.ma.getdata(cells)).astype(cells.dtype.newbyteorder("="), copy=False)
    if values.dtype.kind == "f" and values.dtype.itemsize > 8:
        values = values.astype(np.float64)
    if values.dtype.kind == "U":
        return (
            clean_table(pa.table([pa.array(values.tolist(), mask=mask)], names=["x"]))
            .column(0)
            .combine_chunks()
        )
    return pa.array(values, mask=mask)


def _header(start: IO[bytes], where: str) -> tuple[tuple[int, ...], np.dtype, int]:
    """The shape and type that a .npy file declares, and where its numbers begin."""
    # NumPy would allocate whatever length the first bytes say that the header has.
    file = io.BytesIO(start.read(_LONGEST_HEADER))
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, _, dtype = read(file)
    except MemoryError:  # what Python's parser says of brackets or signs too deep for it
        raise DataError(f"{where} has a header that is no header: it is damaged, copy it again") from None
    if dtype.hasobject:
        raise DataError(
            f"{where} holds Python objects (a pickle), which are never opened: save it as numbers or text, "
            "or as CSV or Parquet"
        )
    return shape, dtype, file.tell()


def _check_size(shape: tuple[int, ...], dtype: np.dtype, where: str) -> None:
    if min(shape, default=1) < 1 or dtype.itemsize == 0:
        raise DataError(
            f"{where} declares an array of shape {shape} and type {dtype}, which has no rows of data"
        )
    check_bytes(
        math.prod(shape) * dtype.itemsize,
        f"{where} declares an array of shape {shape}",
        "store it as Parquet, which is read in pieces",
    )


def _check_packed(member: zipfile.ZipInfo, where: str) -> None:
    """Raise `DataError` unless the packed bytes can hold what they are said to unpack to."""
    most = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: _DEFLATE}.get(member.compress_type)
    if most is None:
        raise DataError(f"{where} is packed in a way that NumPy does not write: save it with np.savez")
    if member.file_size > most * member.compress_size:
        raise DataError(
            f"{where} cannot unpack to the {member.file_size:,} bytes that the archive declares: it is damaged"
        )


def _choose(keys: list[str], key: str | None, path: Path) -> tuple[str, ...]:
    if key is not None:
        pair = (f"x_{key}", f"y_{key}")
        if key in keys:
            return (key,)
        if key in ("train", "test") and set(pair) <= set(keys):
            return pair
        raise DataError(f"{path} has no array {key!r}: it has {', '.join(sorted(keys)) or 'none'}")
    for pair in PAIRS:
        if set(pair) <= set(keys):
            return pair
    if len(keys) == 1:
        return (keys[0],)
    listed = ", ".join(sorted(keys)) or "none"
    example = f", as in {path}::{keys[0]}" if keys else ""
    raise DataError(f"{path} has the arrays {listed}: name the one to load{example}")


def _read_idx(path: Path) -> np.ndarray:
    if not path.is_file():
        raise DataError(f"there is no file {path}: check the path")
    with reading(path), path.open("rb") as plain:
        packed = plain.read(2) == b"\x1f\x8b"
        plain.seek(0)
        with gzip.open(plain) if packed else nullcontext(plain) as file:
            dtype, shape = _idx_header(file, path)
            size = math.prod(shape) * dtype.itemsize
            # One byte more than declared, so that a file that goes on is noticed and never unpacked.
            data = _at_most(file, size + 1)
    if len(data) != size:
        has = f"{len(data):,}" if len(data) < size else "more"
        raise DataError(
            f"{path} declares an array of shape {shape}, {size:,} bytes, and has {has}: it is damaged or "
            "incomplete, copy it again"
        )
    return np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder("="))


def _idx_header(file: IO[bytes] | gzip.GzipFile, path: Path) -> tuple[np.dtype, tuple[int, ...]]:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _IDX_TYPES or magic[3] == 0:
        raise DataError(f"{path} is not an idx file (it begins with {magic!r}): is it damaged or misnamed?")
    sizes = file.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise DataError(f"{path} is truncated within its header: copy it again")
    dtype, shape = np.dtype(_IDX_TYPES[magic[2]]), struct.unpack(f">{magic[3]}I", sizes)
    _check_size(shape, dtype, str(path))
    return dtype, shape


def _at_most(file: IO[bytes] | gzip.GzipFile, size: int) -> bytes:
    """Up to `size` bytes, in pieces: `read(size)` would allocate them before it knows that they are there."""
    pieces, left = [], size
    while left and (piece := file.read(min(left, 1 << 24))):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)
