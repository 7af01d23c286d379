"""The files of a model directory: written ahead, found again, and compared with their manifest."""

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from thalweg import __version__
from thalweg.errors import ModelDirectoryError, OutputError
from thalweg.files import atomic_directory, tidy
from thalweg.learning.checkpoint import checkpoints
from thalweg.locks import in_turn
from thalweg.persist.layout import CONTENTS, FORMAT, LARGEST_TEXT, MANIFEST_FILE, NEXT
from thalweg.persist.migrations import oldest
from thalweg.persist.plain import from_json, to_json
from thalweg.there import no_model


@dataclass(frozen=True)
class Entry:
    """What the manifest says about a file."""

    size: int
    sha256: str


def write_new(directory: Path, contents: Mapping[str, bytes]) -> None:
    """The files and their manifest in an empty directory."""
    for name, blob in contents.items():
        (directory / name).write_bytes(blob)
    entries = {name: Entry(len(blob), hashlib.sha256(blob).hexdigest()) for name, blob in contents.items()}
    (directory / MANIFEST_FILE).write_bytes(_manifest_bytes(entries))


def write_ahead(directory: Path, contents: Mapping[str, bytes]) -> None:
    """The files into a directory that is there, readable at every moment (see the package's own words)."""
    with in_turn(directory):
        finish(directory)
        tidy(directory / NEXT)
        with atomic_directory(directory / NEXT) as temporary:
            write_new(temporary, contents)
        finish(directory)


def finish(directory: Path) -> None:
    """Move a model that waits in `.next` into the directory; nothing to do where none waits."""
    waiting = directory / NEXT
    if not os.path.lexists(waiting):
        return
    if waiting.is_symlink():
        raise OutputError(f"{waiting} is a symbolic link, which is not followed: remove it")
    for name in (*CONTENTS, MANIFEST_FILE):
        if os.path.lexists(waiting / name):
            os.replace(waiting / name, directory / name)
    _sync(directory)
    waiting.rmdir()


class Snapshot:
    """A model directory as its manifest describes it at one moment.

    Raises `ModelDirectoryError` where there is none, or none that this version can read.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        if absent := no_model(directory):
            raise ModelDirectoryError(absent)
        blob = self._read(MANIFEST_FILE, LARGEST_TEXT[MANIFEST_FILE])
        self.digest = hashlib.sha256(blob).digest()
        self.format, self.entries = _parse_manifest(blob)

    def is_current(self) -> bool:
        """Whether the manifest is the same still: if not, a save came between, and reading again may help."""
        try:
            return Snapshot(self.directory).digest == self.digest
        except ModelDirectoryError:
            return True

    def text(self, name: str) -> bytes:
        """The whole of a small file, as the manifest describes it."""
        blob = self._read(name, LARGEST_TEXT[name])
        self.check(name, blob)
        return blob

    def check(self, name: str, blob: bytes) -> None:
        """Raise `ModelDirectoryError` unless these are the bytes that were saved."""
        entry = self.entries[name]
        if len(blob) != entry.size:
            raise ModelDirectoryError(f"{name} has {len(blob):,} bytes, and the manifest says {entry.size:,}")
        if hashlib.sha256(blob).hexdigest() != entry.sha256:
            raise ModelDirectoryError(
                f"{name} is not what was saved: its SHA-256 differs from the manifest's; copy the directory "
                "again or save the model again"
            )

    @contextmanager
    def open(self, name: str) -> Iterator[tuple[BinaryIO, int]]:
        """A file and its size: a regular file of this directory, never what a link points to."""
        with _open(self.directory, name) as file:
            yield file, os.fstat(file.fileno()).st_size

    def _read(self, name: str, most: int) -> bytes:
        with self.open(name) as (file, size):
            if size > most:
                raise ModelDirectoryError(f"{name} has {size:,} bytes, more than the {most:,} that are read")
            return file.read(size)


def fingerprint(path: str | Path) -> str:
    """The SHA-256 of a model's manifest, which names its files by theirs: equal for equal models.

    Raises `ModelDirectoryError` where there is no model.
    """
    try:
        return Snapshot(Path(path)).digest.hex()
    except ModelDirectoryError as error:
        raise ModelDirectoryError(f"{path}: {error}") from error


def _open(directory: Path, name: str) -> BinaryIO:
    waiting = directory / NEXT
    if waiting.is_symlink():
        raise ModelDirectoryError(f"{NEXT} is a symbolic link, which is not followed")
    for folder in (waiting, directory):
        path = folder / name
        try:
            found = os.lstat(path)
            if stat.S_ISLNK(found.st_mode):
                raise ModelDirectoryError(f"{name} is a symbolic link, which is not followed: copy the file")
            if not stat.S_ISREG(found.st_mode):
                raise ModelDirectoryError(f"{name} is not a regular file")
            flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
            return os.fdopen(os.open(path, flags | getattr(os, "O_NONBLOCK", 0)), "rb")
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise ModelDirectoryError(f"{name} cannot be read: {error.strerror}") from error
    raise ModelDirectoryError(f"{name} is missing: {_what_is_there(directory)}")


def _what_is_there(directory: Path) -> str:
    if checkpoints(directory):
        return "the directory holds an unfinished run; continue it with `thalweg fit … --resume`"
    if any((directory / name).exists() for name in CONTENTS):
        return "the model directory is not whole; copy it again, with all its files"
    return "this is not a model directory; name one that `thalweg fit` or model.save wrote"


def _parse_manifest(blob: bytes) -> tuple[int, dict[str, Entry]]:
    """The version of the format, and what is said about each file."""
    record = from_json(blob, MANIFEST_FILE)
    written = record.get("format")
    if type(written) is int and not oldest() <= written <= FORMAT:
        remedy = "upgrade Thalweg" if written > FORMAT else "fit the model again"
        known = f"format {FORMAT}" if oldest() == FORMAT else f"formats {oldest()} to {FORMAT}"
        raise ModelDirectoryError(
            f"the model is in format {str(written)[:20]}, and this Thalweg ({__version__}) reads {known}: {remedy}"
        )
    files = record.get("files")
    if type(written) is not int or not isinstance(files, dict) or files.keys() != set(CONTENTS):
        raise ModelDirectoryError(f"{MANIFEST_FILE} must list {', '.join(CONTENTS)} and nothing else")
    entries = {name: _entry(name, item) for name, item in files.items()}
    if _manifest_bytes(entries, written) != blob:
        raise ModelDirectoryError(f"{MANIFEST_FILE} is damaged: it is not as it was written")
    return written, entries


def _entry(name: str, item: Any) -> Entry:
    item = item if isinstance(item, dict) else {}
    if type(item.get("bytes")) is not int or type(item.get("sha256")) is not str:
        raise ModelDirectoryError(f"{MANIFEST_FILE} needs the bytes and the sha256 of {name}")
    return Entry(item["bytes"], item["sha256"])


def _manifest_bytes(entries: Mapping[str, Entry], written: int = FORMAT) -> bytes:
    files = {name: {"bytes": entries[name].size, "sha256": entries[name].sha256} for name in CONTENTS}
    return to_json({"format": written, "files": files})


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some file systems cannot synchronise a directory
    finally:
        os.close(descriptor)
