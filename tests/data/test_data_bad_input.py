"""Bad input: every way in which it is bad has a DataError that names the place and the remedy."""

import contextlib
import gzip
import io
import os
import struct
import tracemalloc
import zipfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from thalweg.data import Schema, batches, limits, load
from thalweg.errors import DataError, DataWarning, ThalwegError


def _write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


BAD_TEXT = {
    "empty": ("", r"a\.csv is empty \(0 bytes\)"),
    "header only": ("x,y\n", r"a\.csv has a header and no rows"),
    "header without newline": ("x,y", r"a\.csv has a header and no rows|cannot be read"),
    "blank": ("\n\n\n", r"a\.csv.*(no rows|cannot be read|no name)"),
    "binary": (b"x,y\n1,\0\n", r"is binary, not text \(a zero byte at 6\)"),
    "parquet": (b"PAR1....", r"is named \.csv but looks like a Parquet file"),
    "zip": (b"PK\x03\x04....", r"looks like a zip archive"),
    "pickle": (b"\x80\x04\x95", r"a Python pickle, which is never opened"),
    "utf-16": ("x,y\n1,2\n".encode("utf-16"), r"looks like text in UTF-16; convert it"),
    "latin-1": (b"x,y\n1,2\n3,caf\xe9\n", r"a\.csv, line 3: byte 13 \(0xe9\) is not UTF-8.*iconv -f LATIN1"),
    "latin-1 header": (b"x,\xe9\n1,2\n", r"line 1: byte 2 \(0xe9\) is not UTF-8"),
    "short row": ("x,y\n1,2\n3\n5,6\n", r"a\.csv, row 1 \(line 3\): 1 cells where the header has 2"),
    "long row": ("x,y\n1,2\n3,4,5\n", r"row 1 \(line 3\): 3 cells where the header has 2"),
    "open quote": ('x,y\n"1,2\n3,4\n', r"row 0 .* is a quotation mark left open\?"),
    "duplicate": ("x,x\n1,2\n", r"two columns are named 'x': rename one"),
    "unnamed": ("x,,y\n1,2,3\n", r"column 2 has no name"),
    "no header": ("5.1,3.5\n4.9,3.0\n", r"the first line \(5\.1, 3\.5, …\) looks like data"),
}


@pytest.mark.parametrize("case", BAD_TEXT)
def test_bad_text_files(tmp_path, case):
    content, message = BAD_TEXT[case]
    path = _write(tmp_path / "a.csv", content)
    with pytest.raises(DataError, match=message):
        load(path)
    with pytest.raises(DataError, match=message):
        list(batches(path))


def test_a_word_among_numbers_is_named(tmp_path):
    cells = [f"{i}.5" for i in range(30)]
    cells[6] = "seven"
    path = _write(tmp_path / "a.csv", "x\n" + "\n".join(cells) + "\n")
    with pytest.raises(
        DataError, match=r"a\.csv, column 'x', row 6: 'seven' is not a number.*--kind x=categorical"
    ):
        load(path)
    assert load(path, kinds={"x": "categorical"}).table["x"][6].as_py() == "seven"
    with pytest.raises(DataError, match=r"column 'x', row 6: 'seven' is not a number"):
        load(path, kinds={"x": "continuous"})
    with pytest.raises(DataError, match=r"column 'x', row 0: '0.5' is not an ISO date"):
        load(path, kinds={"x": "datetime"})
    with pytest.raises(DataError, match=r"every column is dropped"):
        load(path, drop=["x"])


def test_decimal_commas_are_named(tmp_path):
    path = _write(tmp_path / "a.csv", "x;y\n1,5;2\n2,5;3\n")
    with pytest.raises(
        DataError, match=r"a\.csv, column 'x', row 0: '1,5' has a comma: write decimals with a point"
    ):
        load(path)
    assert load(path, kinds={"x": "categorical"}).table["x"].to_pylist() == ["1,5", "2,5"]


def test_missing_files_and_names(tmp_path):
    _write(tmp_path / "cars.csv", "x\n1\n")
    with pytest.raises(DataError, match=r"there is no file .*car\.csv: did you mean 'cars\.csv'\?"):
        load(tmp_path / "car.csv")
    with pytest.raises(DataError, match=r"named 'digit': did you mean 'digits'\?"):
        load("digit")
    with pytest.raises(DataError, match=r"the built-in ones are digits, wine"):
        load("qqqq")
    with pytest.raises(DataError, match=r"files named \.xlsx are not read: it looks like a zip"):
        load(_write(tmp_path / "a.xlsx", b"PK\x03\x04"))
    with pytest.raises(DataError, match=r"files named \.txt are not read: Thalweg reads CSV"):
        load(_write(tmp_path / "a.txt", "x"))
    for nothing in ("", " ", "x" * 5000, "a\0b"):
        with pytest.raises(DataError, match=r"there is no file|cannot be opened"):
            load(nothing)
    with pytest.raises(DataError, match=r"^int is not something to load rows from"):
        load(3)


def test_unknown_columns_and_kinds():
    frame = pd.DataFrame({"age": [1, 2, 3], "size": [1.5, 2.5, 3.5]})
    with pytest.raises(DataError, match=r"no column 'agee': did you mean 'age'"):
        load(frame, drop=["agee"])
    with pytest.raises(DataError, match=r"no column 'q': the columns are age, size"):
        load(frame, kinds={"q": "integer"})
    with pytest.raises(DataError, match=r"cannot be of kind 'categorial': did you mean 'categorical'"):
        load(frame, kinds={"age": "categorial"})
    with pytest.raises(DataError, match=r"column 'size': not every value is a whole number"):
        Schema.infer(load(frame, kinds={"size": "integer"}))
    with pytest.raises(DataError, match=r"3 different values cannot be binary"):
        Schema.infer(load(frame, kinds={"size": "binary"}))


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_damaged_columnar_files(tmp_path, suffix):
    with pytest.raises(DataError, match=r"is not a parquet file|cannot be read .*it is damaged"):
        load(_write(tmp_path / f"text{suffix}", "x,y\n1,2\n"))
    path = tmp_path / f"a{suffix}"
    table = pa.table({"x": list(range(1000))})
    if suffix == ".parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)
    _write(path, path.read_bytes()[:-200])
    with pytest.raises(DataError, match=rf"a\{suffix} cannot be read .*it is damaged or incomplete"):
        load(path)


def test_cells_that_are_no_cells(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"x": [1, 2], "l": [[1], [2]]}), path)
    with pytest.raises(DataError, match=r"column 'l': cells of type list.*--drop l"):
        load(path)
    assert load(path, drop=["l"]).table.column_names == ["x"]
    for frame in (pd.DataFrame({"x": [1, "a", [3]]}), pd.DataFrame({"x": [1j, 2]}), {"a": [1], "b": [1, 2]}):
        with pytest.raises(DataError, match=r"cannot be read .*: give every column one type"):
            load(frame)
    with pytest.raises(DataError, match="the DataFrame has two columns of one name"):
        load(pd.DataFrame([[1, 2]], columns=["a", "a"]))


def test_bad_npy(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.array([{"a": 1}, None], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"a\.npy holds Python objects \(a pickle\), which are never opened"):
        load(path)
    np.save(path, np.zeros((50, 4)))
    _write(path, path.read_bytes()[:-8])
    with pytest.raises(DataError, match=r"is truncated: its header promises an array of shape \(50, 4\)"):
        load(path)
    with pytest.raises(DataError, match=r"is not a npy file \(it begins with b'x,y"):
        load(_write(path, "x,y\n"))
    for array, message in (
        (np.zeros((0, 3)), r"shape \(0, 3\) has no rows"),
        (np.zeros(3, complex), "an array of complex128 is not a table"),
        (np.array([[object()]]), "an array of object is not a table"),
    ):
        with pytest.raises(DataError, match=message):
            load(array)


def _npz_declaring(path, shape):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", header.getvalue() + bytes(1000))
    return path


def test_bad_npz(tmp_path):
    path = _npz_declaring(tmp_path / "bomb.npz", (1 << 40, 4))
    with pytest.raises(
        DataError, match=r"bomb\.npz::x declares an array .* more than the 8 GiB that are read"
    ):
        load(path)
    with pytest.raises(DataError, match="damaged or incomplete"):
        load(_npz_declaring(tmp_path / "short.npz", (1 << 20, 4)))
    np.savez(tmp_path / "many.npz", a=np.ones(3), b=np.ones(3))
    with pytest.raises(DataError, match=r"has the arrays a, b: name the one to load, as in .*many\.npz::a"):
        load(tmp_path / "many.npz")
    with pytest.raises(DataError, match=r"has no array 'c': it has a, b"):
        load(f"{tmp_path}/many.npz::c")
    np.savez(tmp_path / "unequal.npz", X=np.ones((3, 2)), y=np.ones(4))
    with pytest.raises(DataError, match=r"labels of shape \(4,\) do not fit 3 rows"):
        load(tmp_path / "unequal.npz")
    _write(tmp_path / "cut.npz", (tmp_path / "many.npz").read_bytes()[:100])
    with pytest.raises(DataError, match=r"cut\.npz cannot be read"):
        load(tmp_path / "cut.npz")


def test_bad_idx(tmp_path):
    good = struct.pack(">HBBII", 0, 8, 2, 3, 2) + bytes(6)
    path = tmp_path / "a-idx2-ubyte"
    with pytest.raises(DataError, match=r"is not an idx file \(it begins with"):
        load(_write(path, b"\1\2" + good[2:]))
    with pytest.raises(DataError, match=r"shape \(3, 2\), 6 bytes, and has 5"):
        load(_write(path, good[:-1]))
    with pytest.raises(DataError, match="truncated within its header"):
        load(_write(path, good[:6]))
    with pytest.raises(DataError, match="is not an idx file"):
        load(_write(path, b""))
    packed = gzip.compress(good)
    with pytest.raises(DataError, match="damaged or incomplete"):
        load(_write(tmp_path / "b-idx2-ubyte.gz", packed[:-4]))


def test_bad_images(tmp_path):
    with pytest.raises(DataError, match="has no pictures in it"):
        load(tmp_path)
    Image.new("L", (4, 3)).save(tmp_path / "a.png")
    Image.new("L", (4, 4)).save(tmp_path / "b.png")
    with pytest.raises(DataError, match=r"b\.png is 4×4 pixels where a\.png is 4×3: resize"):
        load(tmp_path)
    _write(tmp_path / "b.png", b"not a picture")
    with pytest.raises(DataError, match=r"b\.png cannot be read"):
        load(tmp_path)
    Image.fromarray(np.zeros((3, 4), np.uint16)).save(tmp_path / "b.png")
    with pytest.raises(DataError, match="not 8 bits: convert"):
        load(tmp_path)
    with pytest.raises(DataError, match=r"files named \.png are not read: it looks like a PNG image"):
        load(tmp_path / "a.png")


def _infer(target=None, **columns):
    return Schema.infer(load(pa.table(columns)), target)


def test_what_cannot_be_learned():
    with pytest.raises(DataError, match=r"has 1 row, which does not show what varies"):
        _infer(x=[1.0])
    with pytest.raises(DataError, match=r"has no rows"):
        load(pd.DataFrame({"x": []}))
    with pytest.raises(DataError, match=r"every column is constant or missing"):
        _infer(x=[1, 1, 1])
    with pytest.warns(DataWarning, match=r"column 'y': every cell is missing"):
        schema = _infer(x=[1, 2, 3], y=pa.nulls(3))
    assert schema["y"].levels == (None,)
    with pytest.raises(DataError, match=r"column 'x', row 2: the value is -inf, not a finite number"):
        _infer(x=[1.0, 2.0, -np.inf])
    with pytest.raises(DataError, match=r"no column 'z' to predict: the columns are x"):
        _infer("z", x=[1.0, 2.0])
    with pytest.raises(DataError, match=r"did you mean 'price'"):
        _infer("prise", price=[1.0, 2.0])
    with pytest.raises(DataError, match=r"the target 'y' is the same in every row"):
        _infer("y", x=[1.0, 2.0], y=[3, 3])
    with pytest.raises(DataError, match=r"1,001 different values are too many categories.*--drop t"):
        _infer(t=[f"w{i}" for i in range(1001)])
    with pytest.raises(
        DataError, match=r"60 different values in 100 cells look like an identifier.*--kind t="
    ):
        _infer(t=[f"w{i % 60}" for i in range(100)])
    assert (
        len(Schema.infer(load({"t": [f"w{i}" for i in range(60)]}, kinds={"t": "categorical"}))["t"].levels)
        == 60
    )


def test_numbers_that_float32_cannot_tell_apart():
    with pytest.raises(DataError, match=r"column 'x': its values range from 1\.0 to 1e\+300, so far apart"):
        _infer(x=[1.0, 2.0, 1e300])
    with pytest.raises(DataError, match="so far apart"):
        _infer(x=[0, 1, 2, 1 << 62])
    for fine in ([1.0, 1e308, -1e308], [1e-300, 2e-300, 3e-300], [1e15, 1e15 + 1, 1e15 + 2.5]):
        codes = Schema.infer(load(pa.table({"x": fine}))).encode(pa.table({"x": fine})).values
        assert np.isfinite(codes).all()
        assert len(np.unique(codes)) == 3


@pytest.mark.parametrize("mode", ["flip", "cut", "zero"])
@pytest.mark.parametrize("format_", ["csv", "parquet", "arrow", "npy", "npz", "idx", "gz", "png"])
def test_mutated_files_raise_nothing_else(tmp_path, format_, mode):
    """Eight damaged copies of each of 24 kinds: whatever is raised is a ThalwegError."""
    rng = np.random.default_rng([ord(c) for c in format_ + mode])
    original = _good(tmp_path, format_)
    content = np.frombuffer(original.read_bytes(), np.uint8)
    for trial in range(8):
        damaged = content.copy()
        if mode == "flip":
            places = rng.integers(0, len(damaged), 5)
            damaged[places] ^= rng.integers(1, 256, 5).astype(np.uint8)
        elif mode == "cut":
            damaged = damaged[: rng.integers(0, len(damaged))]
        else:
            start = rng.integers(0, len(damaged))
            damaged[start : start + 40] = 0
        folder = tmp_path / f"{trial}"
        folder.mkdir()
        path = folder / original.name
        path.write_bytes(damaged.tobytes())
        with contextlib.suppress(ThalwegError):
            Schema.infer(load(folder if format_ == "png" else path))
        with contextlib.suppress(ThalwegError):
            assert sum(batch.num_rows for batch in batches(folder if format_ == "png" else path)) > 0


def _good(folder, format_):
    rng = np.random.default_rng(0)
    table = pa.table(
        {"x": rng.normal(size=60), "n": rng.integers(0, 9, 60), "t": [f"w{i % 3}" for i in range(60)]}
    )
    path = folder / {"idx": "a-idx2-ubyte", "gz": "a-idx2-ubyte.gz"}.get(format_, f"a.{format_}")
    match format_:
        case "csv":
            table.to_pandas().to_csv(path, index=False)
        case "parquet":
            pq.write_table(table, path)
        case "arrow":
            with pa.ipc.new_file(path, table.schema) as writer:
                writer.write_table(table)
        case "npy":
            np.save(path, rng.normal(size=(60, 3)))
        case "npz":
            np.savez_compressed(path, X=rng.normal(size=(60, 3)), y=np.arange(60) % 2)
        case "png":
            Image.fromarray(rng.integers(0, 255, (8, 8)).astype(np.uint8)).save(path)
        case _:
            data = struct.pack(">HBBII", 0, 8, 2, 60, 2) + rng.integers(0, 9, 120).astype(np.uint8).tobytes()
            path.write_bytes(gzip.compress(data) if format_ == "gz" else data)
    return path


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read(tmp_path):
    path = _write(tmp_path / "a.csv", "x\n1\n2\n")
    path.chmod(0)
    with pytest.raises(DataError, match="cannot be opened: Permission denied"):
        load(path)


def test_a_name_that_is_not_utf_8(tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff.npy"
    with pytest.raises(DataError, match="the name of the file is not UTF-8, rename the file"):
        load(os.fsdecode(path))


# --- files that ask for more than they hold -----------------------------------------------------------------


def test_a_table_of_very_many_columns_is_refused(tmp_path):
    message = r"has 70,000 columns, more than the 65,536 that are read: leave some out, or use smaller images"
    names = ",".join(f"c{i}" for i in range(70_000))
    np.save(tmp_path / "a.npy", np.zeros((2, 70_000), np.uint8))
    Image.new("L", (280, 250)).save(tmp_path / "a.png")
    for source in (
        _write(tmp_path / "a.csv", names + "\n" + "1," * 69_999 + "1\n"),
        tmp_path / "a.npy",
        tmp_path,
    ):
        with pytest.raises(DataError, match=message):
            load(source)


def test_an_idx_file_is_believed_only_as_far_as_it_goes(tmp_path):
    head = struct.pack(">HBBI", 0, 8, 1, 10) + bytes(10)
    with pytest.raises(DataError, match="10 bytes, and has more: it is damaged"):
        load(_write(tmp_path / "a-idx1-ubyte.gz", gzip.compress(head + bytes(1 << 26))))
    huge = struct.pack(">HBBII", 0, 14, 2, 1 << 31, 1 << 31)
    for blob in (huge, gzip.compress(huge)):
        with pytest.raises(DataError, match=r"declares an array .* more than the 8 GiB that are read"):
            load(_write(tmp_path / "b-idx2-ubyte", blob))
    with pytest.raises(DataError, match=r"4,294,967,295 bytes, and has 0"):
        _peak_below(
            50e6,
            lambda: load(_write(tmp_path / "c-idx1-ubyte", struct.pack(">HBBI", 0, 8, 1, (1 << 32) - 1))),
        )


@pytest.mark.parametrize(
    ("type_", "shape"),
    [("<f8", (0, 3)), ("<f8", (-2, 3)), ("<f8", (1 << 62, 0)), ("|V0", (1 << 40, 9)), ("<U0", (9,))],
)
def test_arrays_of_nothing(tmp_path, type_, shape):
    header = {"descr": type_, "fortran_order": False, "shape": shape}
    with open(tmp_path / "a.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(DataError, match=r"declares an array of shape .* which has no rows of data"):
        load(tmp_path / "a.npy")
    blob = struct.pack(">HBBIII", 0, 8, 3, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    with pytest.raises(DataError, match=r"declares an array of shape .* which has no rows of data"):
        load(_write(tmp_path / "a-idx3-ubyte", blob))


def _peak_below(most, call):
    tracemalloc.start()
    try:
        return call()
    finally:
        assert tracemalloc.get_traced_memory()[1] < most
        tracemalloc.stop()


def test_a_header_of_four_gigabytes_is_not_read(tmp_path):
    blob = b"\x93NUMPY\x02\x00" + struct.pack("<I", (1 << 32) - 2) + b"{}"
    with pytest.raises(DataError, match="cannot be read"):
        _peak_below(50e6, lambda: load(_write(tmp_path / "a.npy", blob)))


def test_a_header_that_is_too_deep_for_the_parser(tmp_path):
    blob = b"\x93NUMPY\x02\x00" + struct.pack("<I", 9000) + b"-" * 8999 + b"\n"
    with pytest.raises(DataError, match=r"a\.npy has a header that is no header: it is damaged"):
        load(_write(tmp_path / "a.npy", blob))


def test_an_archive_that_cannot_hold_what_it_says(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((30, 3)))
    blob = bytearray((tmp_path / "a.npz").read_bytes())
    place = blob.rfind(b"PK\x01\x02") + 24
    blob[place : place + 4] = struct.pack("<I", 1 << 30)
    with pytest.raises(
        DataError, match=r"cannot unpack to the 1,073,741,824 bytes that the archive declares"
    ):
        load(_write(tmp_path / "a.npz", bytes(blob)))
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_LZMA) as archive:
        np.save(buffer := io.BytesIO(), np.zeros(3))
        archive.writestr("x.npy", buffer.getvalue())
    with pytest.raises(DataError, match=r"packed in a way that NumPy does not write: save it with np\.savez"):
        load(tmp_path / "a.npz")


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_a_columnar_file_that_unpacks_to_too_much(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(limits, "LARGEST_BYTES", 1 << 20)
    path, table = tmp_path / f"a{suffix}", pa.table({"x": np.zeros(300_000)})
    if suffix == ".parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_file(
            path, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")
        ) as writer:
            writer.write_table(table)
    assert path.stat().st_size < 100_000
    with pytest.raises(DataError, match="unpacks to a large table"):
        load(path)
    assert sum(batch.num_rows for batch in batches(path)) == 300_000


def test_no_memory_is_an_error_of_ours(tmp_path, monkeypatch):
    def read(*args, **keywords):
        raise MemoryError("Unable to allocate 7 GiB")

    np.save(tmp_path / "a.npy", np.zeros((3, 2)))
    monkeypatch.setattr(np, "load", read)
    with pytest.raises(
        DataError, match=r"a\.npy asks for more memory than there is \(Unable to allocate 7 GiB\)"
    ):
        load(tmp_path / "a.npy")


@pytest.mark.parametrize("note", [b"\xff", b"0/0x0", b"0/" + b"9" * 5000, b"0/2x2x", b"0/-1", b"1/2"])
def test_notes_on_pixels_that_are_none(tmp_path, note):
    fields = [pa.field(f"p{i}", pa.int8(), metadata={b"thalweg.pixel": note}) for i in range(2)]
    table = pa.table([pa.array([1, 2], pa.int8())] * 2, schema=pa.schema(fields))
    pq.write_table(table, tmp_path / "a.parquet")
    assert load(tmp_path / "a.parquet").grid == ()


def test_text_of_an_array_that_is_no_text(tmp_path):
    np.save(tmp_path / "a.npy", np.array(["ab", "cd"]))
    blob = bytearray((tmp_path / "a.npy").read_bytes())
    blob[-4:] = struct.pack("<I", 0xD800)
    with pytest.raises(DataError, match=r"cannot be read .*give numbers, text or dates"):
        load(_write(tmp_path / "a.npy", bytes(blob)))
