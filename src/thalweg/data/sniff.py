"""What a file is by its name and by its first bytes, and whether the two agree."""

from pathlib import Path

from thalweg import there
from thalweg.errors import DataError

_SUFFIXES = {
    "text": (".csv", ".tsv", ".tab"),
    "parquet": (".parquet", ".pq"),
    "arrow": (".arrow", ".feather", ".ipc", ".arrows"),
    "npy": (".npy",),
    "npz": (".npz",),
    "tagged": (".conll", ".conllu", ".iob", ".bio", ".tagged"),
}
FORMATS = (
    "CSV, TSV, Parquet, Arrow, Feather, .npy, .npz, idx (plain or .gz), text with tags (.conll, .conllu, .tagged) or a "
    "folder of PNG or JPEG images"
)
_MAGIC = (
    (b"PAR1", "parquet", "a Parquet file (.parquet)"),
    (b"ARROW1", "arrow", "an Arrow file (.arrow)"),
    (b"FEA1", "", "a Feather file of version 1; write it again as .arrow"),
    (b"\x93NUMPY", "npy", "a NumPy array (.npy)"),
    (b"PK\x03\x04", "npz", "a zip archive (.npz, .xlsx or .zip)"),
    (b"\x1f\x8b", "gzip", "a file compressed with gzip (decompress it first)"),
    (b"\x89PNG", "image", "a PNG image (load the folder it is in)"),
    (b"\xff\xd8\xff", "image", "a JPEG image (load the folder it is in)"),
    (b"\x89HDF", "", "an HDF5 file; export it as CSV or Parquet"),
    (b"%PDF", "", "a PDF document"),
    (b"SQLite", "", "an SQLite database; export the table as CSV"),
    (b"\xd0\xcf\x11\xe0", "", "an old Excel workbook; export the sheet as CSV"),
    (b"\xff\xfe", "", "text in UTF-16; convert it: iconv -f UTF-16 -t UTF-8"),
    (b"\xfe\xff", "", "text in UTF-16; convert it: iconv -f UTF-16 -t UTF-8"),
    (b"\x80\x04", "", "a Python pickle, which is never opened"),
    (b"\x80\x05", "", "a Python pickle, which is never opened"),
)


def format_of(path: Path) -> str:
    """`text`, `parquet`, `arrow`, `npy`, `npz` or `idx`, by name; raises `DataError` for any other."""
    suffix, name = path.suffix.lower(), path.name.lower()
    for format_, suffixes in _SUFFIXES.items():
        if suffix in suffixes:
            return format_
    if name.endswith(".gz") and Path(name.removesuffix(".gz")).suffix in _SUFFIXES["tagged"]:
        return "tagged"
    if (
        (suffix in (".idx", ".gz") and not name.endswith((".csv.gz", ".tsv.gz")))
        or "ubyte" in name
        or "-idx" in name
    ):
        return "idx"
    there.check_file(path)
    seen = looks_like(_head(path))
    hint = f"it looks like {seen[1]}" if seen else f"Thalweg reads {FORMATS}"
    raise DataError(f"{path}: files named {path.suffix or 'without a suffix'} are not read: {hint}")


def check_file(path: Path, format_: str) -> None:
    """Raise `DataError` unless `path` is a file, not empty, and not plainly of another format."""
    there.check_file(path)
    head = _head(path)
    if not head:
        raise DataError(f"{path} is empty (0 bytes): was it written completely?")
    seen = looks_like(head)
    if format_ == "text" and seen is None and b"\0" in head:
        raise DataError(
            f"{path} is binary, not text (a zero byte at {head.index(bytes(1))}): Thalweg reads {FORMATS}"
        )
    if seen and seen[0] != format_:
        raise DataError(f"{path} is named {path.suffix} but looks like {seen[1]}: rename or convert it")
    if seen is None and format_ not in ("text", "arrow"):
        raise DataError(
            f"{path} is not a {format_} file (it begins with {head[:8]!r}): is it damaged or misnamed?"
        )


def looks_like(head: bytes) -> tuple[str, str] | None:
    """The format that the first bytes announce, and its description."""
    return next(((format_, about) for magic, format_, about in _MAGIC if head.startswith(magic)), None)


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(4096)
    except OSError as error:
        raise DataError(f"{path} cannot be opened: {error.strerror or error}") from error
