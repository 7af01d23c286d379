"""The boundary to other people's bytes: what a decoder raises becomes one `DataError` naming the file."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from thalweg.errors import DataError, ThalwegError

T = TypeVar("T")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn any failure to decode `path` into `DataError`, and silence the decoder's own warnings."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ThalwegError:
        raise
    # Decoders of damaged files raise nearly anything; this is the one place where that is caught.
    except Exception as error:
        detail = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(
            f"{path} cannot be read, it is damaged or incomplete ({detail}): write or copy it again"
        ) from error


def each(items: Iterator[T], path: Path) -> Iterator[T]:
    """`items`, with every failure to produce the next one as `DataError`."""
    while True:
        # Not around the yield: what the consumer does is not this file's fault.
        with reading(path):
            item = next(items, None)
        if item is None:
            return
        yield item
