"""Who may write into a directory: locks that the system releases when their process ends, however it ends.

They are advisory `flock`s: they hold between the processes of one machine on Linux and macOS, and between machines
where the file system passes them on (NFS from version 4 does). Where a file system has none, nothing is locked.
"""

import errno
import fcntl
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from thalweg.errors import OutputError
from thalweg.files import naming

#: The file that the only fit into a directory holds, and removes as it ends.
LOCK = ".lock"

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF}


@contextmanager
def alone_in(directory: Path) -> Iterator[None]:
    """Be the only one who fits into `directory`, which is made where it is not there.

    Raises `OutputError` at once, naming the process, its host and its start, where another one is at it.
    """
    new = not directory.exists()
    with naming(directory):
        directory.mkdir(exist_ok=True)
        descriptor = _hold(directory)
    try:
        yield
    finally:
        (directory / LOCK).unlink(missing_ok=True)
        os.close(descriptor)
        if new and not any(directory.iterdir()):
            directory.rmdir()


@contextmanager
def in_turn(directory: Path, *, shared: bool = False) -> Iterator[None]:
    """Wait for whoever changes the files of `directory`, and let others wait; `shared` among those who read."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        _flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _hold(directory: Path) -> int:
    """A descriptor of the lock file, locked."""
    while True:
        descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            _flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 4096)
            os.close(descriptor)
            raise OutputError(
                f"{directory} is being fitted into by {_named(holder)}: wait until it ends, stop it, or give another "
                "path"
            ) from None
        if _is_there(descriptor, directory / LOCK):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, _holder(), 0)
            return descriptor
        os.close(descriptor)  # whoever held it has removed it meanwhile


def _flock(descriptor: int, kind: int) -> None:
    try:
        fcntl.flock(descriptor, kind)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


def _is_there(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


def _holder() -> bytes:
    since = datetime.now().astimezone().isoformat(" ", "seconds")
    return json.dumps({"pid": os.getpid(), "host": platform.node(), "since": since}).encode()


def _named(holder: bytes) -> str:
    try:
        record = json.loads(holder)
        return f"process {record['pid']} on {record['host']}, since {record['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
