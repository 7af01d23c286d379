"""Good files of every format that `load` reads, and damaged ones that only somebody who knows the format makes."""

import gzip
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.feather as feather
import pyarrow.parquet as pq
from PIL import Image

from hostile.mutate import WORDS, Generator, damaged, damaged_end, pick

#: The file's name (images lie in a folder) of each format.
NAMES = {
    "csv": "a.csv",
    "tsv": "a.tsv",
    "parquet": "a.parquet",
    "arrow": "a.arrow",
    "stream": "a.arrows",
    "feather": "a.feather",
    "npy": "a.npy",
    "npz": "a.npz",
    "idx": "a-idx3-ubyte",
    "gz": "a-idx3-ubyte.gz",
    "png": "a.png",
    "jpeg": "a.jpg",
}


def write_mutated(folder: Path, format_: str, rng: Generator) -> Path:
    """One damaged file in `folder`; returns what to load."""
    special = SPECIAL[format_]
    way = int(rng.integers(4))
    blob = pick(rng, special)(rng) if way == 0 else good(format_, rng)
    if way == 1 or (way == 0 and rng.random() < 0.2):
        blob = damaged_end(blob, rng)
    elif way > 1:
        blob = damaged(blob, rng)
    path = folder / NAMES[format_]
    path.write_bytes(blob)
    if format_ not in ("png", "jpeg"):
        return path
    if rng.random() < 0.3:
        (folder / f"b{path.suffix}").write_bytes(good(format_, rng))
    return folder


def good(format_: str, rng: Generator) -> bytes:
    out = io.BytesIO()
    match format_:
        case "csv" | "tsv":
            options = pacsv.WriteOptions(delimiter="\t" if format_ == "tsv" else pick(rng, ",;"))
            pacsv.write_csv(_table(rng), out, options)
        case "parquet":
            _parquet(_table(rng), out, rng)
        case "arrow":
            _ipc(_table(rng), out, rng, pa.ipc.new_file)
        case "stream":
            _ipc(_table(rng), out, rng, pa.ipc.new_stream)
        case "feather":
            feather.write_feather(_table(rng), out, compression=pick(rng, ("lz4", "zstd", "uncompressed")))
        case "npy":
            np.save(out, pick(rng, _arrays(rng)))
        case "npz":
            pick(rng, (np.savez, np.savez_compressed))(out, X=pick(rng, _arrays(rng)), y=np.arange(30) % 2)
        case "idx" | "gz":
            blob = idx((30, 3, 2), rng.integers(0, 9, 180).astype(np.uint8).tobytes())
            return gzip.compress(blob) if format_ == "gz" else blob
        case "png" | "jpeg":
            _image(rng, format_).save(out, format_)
    return out.getvalue()


def idx(shape: tuple[int, ...], body: bytes, code: int = 8) -> bytes:
    return struct.pack(f">HBB{len(shape)}I", 0, code, len(shape), *shape) + body


def _table(rng: Generator) -> pa.Table:
    n = 60
    return pa.table(
        {
            "x": pa.array(rng.normal(size=n), mask=rng.random(n) < 0.1),
            "n": rng.integers(0, 9, n),
            "t": pa.array(rng.choice(["red", "grün", "b"], n)),
            "d": np.datetime64("2024-02-28") + rng.integers(0, 400, n),
            "c": pa.array(rng.choice(["p", "q"], n)).dictionary_encode(),
            "b": rng.random(n) < 0.5,
        }
    )


def _parquet(table: pa.Table, out: io.BytesIO, rng: Generator) -> None:
    pq.write_table(
        table,
        out,
        compression=pick(rng, ("none", "snappy", "zstd", "gzip", "lz4", "brotli")),
        use_dictionary=bool(rng.integers(2)),
        row_group_size=int(pick(rng, (7, 60))),
        data_page_version=pick(rng, ("1.0", "2.0")),
    )


def _ipc(table: pa.Table, out: io.BytesIO, rng: Generator, make: Callable) -> None:
    options = pa.ipc.IpcWriteOptions(compression=pick(rng, (None, "lz4", "zstd")))
    with make(out, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=int(pick(rng, (7, 60))))


def _arrays(rng: Generator) -> list[np.ndarray]:
    numbers = rng.normal(size=(30, 3))
    return [
        numbers,
        np.asfortranarray(numbers.astype(">f4")),
        rng.integers(0, 255, (30, 4, 4)).astype(np.uint8),
        rng.choice(["red", "green"], 30),
    ]


def _image(rng: Generator, format_: str) -> Image.Image:
    modes = ("L", "RGB", "1", "P", "RGBA", "LA") if format_ == "png" else ("L", "RGB", "CMYK")
    pixels = Image.fromarray(rng.integers(0, 255, (8, 9, 3)).astype(np.uint8))
    return pixels.convert(pick(rng, modes))


# --- structure ----------------------------------------------------------------------------------------------

CELLS = (
    *('"', '""', '"a', 'a"b', "\0", "", " ", "NaN", "inf", "-inf", "1e999", "-1e-999", "9" * 400, "1" * 30),
    *("0x1F", "1_000", "٣", "１", "½", "\ufeff", "\u2028", "\x85", "\r", "\n", "a" * 70_000, "true", "False"),
    *("9999-12-31", "0000-01-01", "1677-01-01", "2024-02-30", "2024-01-01T25:00:00", "2024-01-01T00:00:00Z"),
    *("2262-04-12", "-9223372036854775809", "18446744073709551616", "1e308", "5e-324", "1,5", "#", "=1+1"),
)
HEADERS = ("", " ", "x", "x\ny", "\0", "x" * 70_000, "\u202e", "0", "label", "pixel_0_0", "None")
ODD_BYTES = (
    b"\xff",
    b"\xc3",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b"\0",
    b"\r",
    b'"',
    b"\xf4\x90\x80\x80",
    b"\x1a",
)


def _odd_csv(rng: Generator, delimiter: str = ",") -> bytes:
    columns = int(pick(rng, (1, 2, 3, 3, 3, 30)))
    rows = [[str(rng.integers(9)) for _ in range(columns)] for _ in range(int(pick(rng, (1, 2, 40))))]
    rows.insert(0, [f"c{i}" for i in range(columns)])
    for _ in range(int(rng.integers(1, 6))):
        row = int(rng.integers(len(rows)))
        rows[row][int(rng.integers(columns))] = pick(rng, HEADERS if row == 0 else CELLS)
    newline = pick(rng, ("\n", "\r\n", "\r", "\n\n"))
    text = newline.join(delimiter.join(row) for row in rows) + pick(rng, ("", newline, '"', newline * 3))
    blob = text.encode()
    if rng.random() < 0.4:
        place = int(rng.integers(len(blob)))
        blob = blob[:place] + pick(rng, ODD_BYTES) + blob[place:]
    return blob


def _one_word_columns(rng: Generator) -> bytes:
    """A column whose every cell is the same odd one."""
    cells = [pick(rng, CELLS) for _ in range(2)]
    return ("a,b\n" + "\n".join(f"{cells[0]},{cells[1] if i % 7 else i}" for i in range(30)) + "\n").encode()


def _wide_csv(rng: Generator) -> bytes:
    width = int(pick(rng, (5_000, 250_000, 1_000_000)))
    return (",".join(f"c{i}" for i in range(width)) + "\n" + ",".join("1" * width) + "\n").encode()


DESCRIPTIONS = (
    *(
        "'|O'",
        "'<V8'",
        "'<f2'",
        "'<f16'",
        "'<c16'",
        "'<M8[ns]'",
        "'<m8[s]'",
        "'>U3'",
        "'|S5'",
        "'|b1'",
        "'<U0'",
    ),
    *(
        "[('a', '<f4'), ('b', '<i2')]",
        "[('a', '|O')]",
        "'<M8'",
        "'x'",
        "1",
        "None",
        "'<i3'",
        "'<f8' ",
        "'|V0'",
    ),
)
SHAPES = (
    *("(30, 3)", "(1099511627776, 4)", "(-1, 3)", "(0,)", "()", "(1,) * 3", "(True, 3)", "(3.0,)", "'x'"),
    *("(9223372036854775807, 3)", "(1, 1000000000)", "(2, 400000)", "(30, 3, 1, 1)", "(0, 0)", "(1,)*33"),
    *("(2, -1)", "(-3, -3)", "(1," + "1," * 70 + ")", "((30, 3),)", "[30, 3]", "30"),
)


def _odd_npy(rng: Generator) -> bytes:
    shape = pick(rng, SHAPES) if rng.random() < 0.6 else "(30, 3)"
    description = pick(rng, DESCRIPTIONS) if rng.random() < 0.6 else "'<f8'"
    order = pick(rng, ("False", "False", "True", "1", "None"))
    header = f"{{'descr': {description}, 'fortran_order': {order}, 'shape': {shape}, }}"
    if rng.random() < 0.15:
        header = pick(
            rng, ("(" * 5000, "{}", "", "[" * 90 + "]" * 90, "\0", "9" * 20_000, "{'a': 1}", "-" * 9000)
        )
    version = pick(rng, ((1, 0), (1, 0), (2, 0), (3, 0), (9, 9)))
    text = header.encode() + b" " * (-len(header) % 64) + b"\n"
    length = struct.pack("<H" if version == (1, 0) else "<I", len(text) % 65536)
    return b"\x93NUMPY" + bytes(version) + length + text + rng.bytes(int(pick(rng, (0, 720, 5000))))


def _odd_npz(rng: Generator) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for _ in range(int(rng.integers(1, 4))):
            name = pick(rng, ("X.npy", "y.npy", "../x.npy", "/x.npy", "x.txt", ".npy", "a\0.npy", "x.npy/"))
            kind = pick(rng, (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
            blob = pick(rng, (_odd_npy, lambda r: good("npy", r), lambda r: r.bytes(50)))(rng)
            if name.partition("\0")[0] not in archive.namelist():
                archive.writestr(name, blob, kind)
    blob = bytearray(out.getvalue())
    if rng.random() < 0.5:  # encrypted, another method, other sizes: in the central directory
        start = blob.rfind(b"PK\x01\x02")
        place = start + int(pick(rng, (8, 10, 16, 20, 24, 28, 42)))
        blob[place : place + 4] = pick(rng, WORDS[:8])
    return bytes(blob)


def _bomb_npz(rng: Generator) -> bytes:
    """More than the archive could hold: half a gigabyte said, or hidden behind a small number."""
    body = good("npy", rng)[:80]
    header = body.replace(b"(30, 3)", b"(8000000, 8)") if rng.random() < 0.5 else body
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", header + bytes(4 << 20))
    return out.getvalue()


def _odd_idx(rng: Generator) -> bytes:
    shape = tuple(int(pick(rng, (0, 1, 2, 30, 65_535, 2**32 - 1))) for _ in range(int(rng.integers(0, 5))))
    return idx(shape, bytes(int(pick(rng, (0, 4, 60, 480)))), int(pick(rng, (8, 9, 11, 12, 13, 14, 7, 255))))


def _wide_idx(rng: Generator) -> bytes:
    return idx((2, 1500, 1000), bytes(3_000_000))


def _gzip_bomb(rng: Generator) -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    head = idx((30, 3, 2), bytes(180))
    return (
        packer.compress(head) + b"".join(packer.compress(bytes(1 << 24)) for _ in range(24)) + packer.flush()
    )


def _odd_types(rng: Generator) -> pa.Table:
    """Columns of types that a table may have and Thalweg need not read, and names of every sort."""
    n = int(pick(rng, (0, 1, 2, 30)))
    choices: list[pa.DataType] = [
        *(pa.list_(pa.int8()), pa.struct([("a", pa.int8())]), pa.map_(pa.string(), pa.int8())),
        *(pa.binary(), pa.large_binary(), pa.binary(3), pa.decimal128(38, 10), pa.decimal256(76, -3)),
        *(pa.float16(), pa.uint64(), pa.null(), pa.large_string(), pa.string_view(), pa.date64()),
        *(pa.time32("s"), pa.time64("ns"), pa.timestamp("ns", "Europe/Berlin"), pa.timestamp("s", "+01:00")),
        *(pa.duration("ns"), pa.dictionary(pa.int8(), pa.string()), pa.timestamp("us", "Nowhere/Land")),
        *(pa.dictionary(pa.int32(), pa.float64()), pa.month_day_nano_interval(), pa.int64(), pa.float64()),
    ]
    columns = {}
    for i in range(int(rng.integers(1, 5))):
        type_ = pick(rng, choices)
        columns[pick(rng, (f"c{i}", "", " ", "c\0", "x" * 9000, "ü", "label"))] = _cells(type_, n, rng)
    table = pa.table(columns)
    return table.replace_schema_metadata(pick(rng, METADATA)) if rng.random() < 0.5 else table


METADATA = (
    {b"thalweg.nameless": b"1"},
    {b"thalweg.nameless": b"\xff"},
    {b"pandas": b"{"},
    {b"pandas": b'{"index_columns": ["x"], "columns": 3}'},
    {b"ARROW:schema": b"AAAA"},
    {b"huggingface": b"[" * 5000},
)
PIXELS = (
    b"0/2x2",
    b"0/0x0",
    b"0/",
    b"0/99999999999999999999x9",
    b"\xff\xfe",
    b"0/1",
    b"0/" + b"1x" * 500 + b"1",
)


def _cells(type_: pa.DataType, n: int, rng: Generator) -> pa.Array:
    try:
        values = rng.integers(-(2**62), 2**62, n).tolist() if rng.random() < 0.3 else list(range(n))
        return pa.array(values, pa.int64()).cast(type_)
    except (pa.ArrowException, NotImplementedError):
        return pa.nulls(n, type_)


def _pixel_notes(rng: Generator) -> pa.Table:
    fields = [pa.field(f"p{i}", pa.uint8(), metadata={b"thalweg.pixel": pick(rng, PIXELS)}) for i in range(4)]
    return pa.table([pa.array([1, 2, 3], pa.uint8())] * 4, schema=pa.schema(fields))


def _extension(rng: Generator) -> pa.Table:
    name = pick(rng, (b"arrow.py_extension_type", b"arrow.json", b"arrow.uuid", b"arrow.fixed_shape_tensor"))
    note = {b"ARROW:extension:name": name, b"ARROW:extension:metadata": pick(rng, (b"", b"\x80\x04.", b"{"))}
    field = pa.field("x", pick(rng, (pa.int8(), pa.binary(16), pa.string())), metadata=note)
    return pa.table([pa.nulls(3, field.type)], schema=pa.schema([field]))


def _odd_table(rng: Generator) -> pa.Table:
    return pick(rng, (_odd_types, _odd_types, _pixel_notes, _extension))(rng)


def _odd_parquet(rng: Generator) -> bytes:
    out = io.BytesIO()
    try:
        _parquet(_odd_table(rng), out, rng)
    except (pa.ArrowException, NotImplementedError, OSError):  # what Parquet cannot hold
        return good("parquet", rng)
    return out.getvalue()


def _bomb_parquet(rng: Generator) -> bytes:
    """Two hundred million equal numbers in some thousand bytes."""
    out = io.BytesIO()
    part = pa.table({"x": pa.array(np.zeros(4_000_000, np.int64))})
    with pq.ParquetWriter(out, part.schema, compression="zstd") as writer:
        for _ in range(50):
            writer.write_table(part)
    return out.getvalue()


def _odd_footer(rng: Generator) -> bytes:
    blob = good("parquet", rng)
    return blob[:-8] + pick(rng, WORDS[:8])[:4] + blob[-4:]


def _odd_arrow(make: Callable) -> Callable[[Generator], bytes]:
    def write(rng: Generator) -> bytes:
        out = io.BytesIO()
        _ipc(_odd_table(rng), out, rng, make)
        return out.getvalue()

    return write


def _bomb_arrow(make: Callable) -> Callable[[Generator], bytes]:
    def write(rng: Generator) -> bytes:
        out, part = io.BytesIO(), pa.table({"x": np.zeros(20_000_000)})
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with make(out, part.schema, options=options) as writer:
            for _ in range(10):
                writer.write_table(part)
        return out.getvalue()

    return write


TEXT_BOMB = b"a\0\0" + zlib.compress(bytes(80 << 20))


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _odd_png(rng: Generator) -> bytes:
    size = [int(pick(rng, (0, 1, 8, 700, 13_000, 2**31 - 1))) for _ in range(2)]
    depth, colour = int(pick(rng, (1, 2, 8, 16, 3))), int(pick(rng, (0, 2, 3, 4, 6, 5)))
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, int(rng.integers(3))))
    extra = _chunk(
        pick(rng, (b"zTXt", b"iTXt", b"iCCP", b"acTL", b"fcTL", b"tRNS", b"PLTE", b"eXIf", b"abcd")),
        pick(rng, (b"", TEXT_BOMB, rng.bytes(30))),
    )
    body = zlib.compress(bytes(int(pick(rng, (0, 100, 1000, 5_000_000)))))
    return b"\x89PNG\r\n\x1a\n" + header + extra + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def _large_png(rng: Generator) -> bytes:
    out = io.BytesIO()
    Image.new("L", (13_000, 13_000)).save(out, "png")
    return out.getvalue()


def _odd_jpeg(rng: Generator) -> bytes:
    """The sizes in the frame header, exchanged."""
    blob = bytearray(good("jpeg", rng))
    place = blob.find(b"\xff\xc0")
    blob[place + 5 : place + 9] = pick(
        rng, (b"\xff\xff\xff\xff", bytes(4), b"\x30\x00\x30\x00", b"\x00\x01\xff\xff")
    )
    return bytes(blob)


def _other(rng: Generator) -> bytes:
    """A file of another format under this name."""
    return pick(
        rng,
        (
            *(
                lambda r: good(pick(r, list(NAMES)), r),
                lambda r: b"",
                lambda r: r.bytes(int(r.integers(1, 3000))),
            ),
            *(lambda r: json.dumps([{"a": 1}]).encode(), lambda r: b"\n" * 50, lambda r: bytes(5000)),
        ),
    )(rng)


_RARE = 40  # what takes a second comes once among many


def _often(*common: Callable, rare: tuple[Callable, ...] = ()) -> list[Callable]:
    return [*common, _other] * _RARE + list(rare)


SPECIAL: dict[str, list[Callable[[Generator], bytes]]] = {
    "csv": _often(_odd_csv, _odd_csv, _one_word_columns, rare=(_wide_csv,)),
    "tsv": _often(lambda rng: _odd_csv(rng, "\t")),
    "parquet": _often(_odd_parquet, _odd_footer, rare=(_bomb_parquet,)),
    "arrow": _often(_odd_arrow(pa.ipc.new_file), rare=(_bomb_arrow(pa.ipc.new_file),)),
    "stream": _often(_odd_arrow(pa.ipc.new_stream), rare=(_bomb_arrow(pa.ipc.new_stream),)),
    "feather": _often(_odd_arrow(pa.ipc.new_file)),
    "npy": _often(_odd_npy),
    "npz": _often(_odd_npz, rare=(_bomb_npz,)),
    "idx": _often(_odd_idx, rare=(_wide_idx,)),
    "gz": _often(lambda rng: gzip.compress(_odd_idx(rng)), rare=(_gzip_bomb,)),
    "png": _often(_odd_png, rare=(_large_png,)),
    "jpeg": _often(_odd_jpeg),
}
