"""Files and directories that are written whole or not at all: temporary place, fsync, rename."""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path

from thalweg.errors import OutputError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def atomic_file(path: str | Path, *, force: bool = False) -> Iterator[Path]:
    """A temporary path beside `path` (same suffix), renamed to `path` when the block succeeds.

    Raises `OutputError` where `path` exists (unless `force`), its folder does not, or the disk is full; the
    temporary file is removed on any failure.
    """
    path = Path(path)
    check_output(path, force=force)
    temporary = _beside(path)
    try:
        with naming(path):
            yield temporary
            _sync(temporary)
            check_output(path, force=force)
            os.replace(temporary, path)
            _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: str | Path, *, force: bool = False) -> Iterator[Path]:
    """A temporary directory beside `path`, renamed to `path` when the block succeeds.

    With `force` an old directory is moved aside by one rename and removed only after the new one stands.
    Raises as `atomic_file` does.
    """
    path = Path(path)
    check_output(path, force=force)
    temporary = _beside(path)
    try:
        with naming(path):
            temporary.mkdir()
            yield temporary
            for entry in [*temporary.rglob("*"), temporary]:
                _sync(entry)
            check_output(path, force=force)
            _swap(temporary, path)
            _sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def tidy(path: str | Path) -> None:
    """Remove what earlier writes of `path` left that were killed; for whoever is the only one to write it."""
    path = Path(path)
    for left in path.absolute().parent.glob(
        f".{escape(path.stem[:64])}-{'[0-9a-f]' * 12}{escape(path.suffix)}"
    ):
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def write_first(path: str | Path, blob: bytes) -> bool:
    """Write `path` unless it is there: True where this call wrote it. Of many that try at once, one does.

    Raises `OutputError` as `atomic_file` does.
    """
    path = Path(path)
    temporary = _beside(path)
    try:
        with naming(path):
            temporary.write_bytes(blob)
            _sync(temporary)
            try:
                os.link(temporary, path)
            except FileExistsError:
                return False
            except OSError:  # a file system without hard links: the look and the rename are not one act
                if os.path.lexists(path):
                    return False
                os.replace(temporary, path)
            _sync(path.parent)
            return True
    finally:
        temporary.unlink(missing_ok=True)


def check_output(path: str | Path, *, force: bool = False) -> None:
    """Raise `OutputError` unless `path` can be written: it is free (or `force`) and its folder exists."""
    path = Path(path)
    if os.path.lexists(path) and not force:
        raise OutputError(f"{path} exists already: give another path, or --force (force=True) to replace it")
    if not path.absolute().parent.is_dir():
        raise OutputError(
            f"{path} cannot be written: there is no folder {path.absolute().parent}; make it first"
        )


def _beside(path: Path) -> Path:
    # The suffix stays, because writers choose their format by it.
    return path.absolute().parent / f".{path.stem[:64]}-{secrets.token_hex(6)}{path.suffix}"


def _swap(new: Path, path: Path) -> None:
    if not os.path.lexists(path):
        os.rename(new, path)
        return
    old = _beside(path)
    os.rename(path, old)
    try:
        os.rename(new, path)
    except BaseException:
        os.rename(old, path)
        raise
    if old.is_dir() and not old.is_symlink():
        shutil.rmtree(old, ignore_errors=True)
    else:
        old.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems cannot sync a directory; what matters is that a full disk is never missed.
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.EACCES, errno.EBADF)):
            raise
    finally:
        os.close(descriptor)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn the system's refusals to write into `OutputError`, naming the path and the remedy."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        if error.errno in _FULL or "No space left" in str(error):
            raise OutputError(
                f"{path} could not be written, the disk is full: free some space or choose another disk "
                "(nothing was left behind)"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise OutputError(
                f"{path} could not be written: {error.strerror}; choose another place"
            ) from error
        raise
