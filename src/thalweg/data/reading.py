"""The boundary to other people's bytes: what a decoder raises becomes one `DataError` naming the file."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from thalweg.errors import DataError, ThalwegError

T = TypeVar("T")
_DAMAGED = "it is damaged or incomplete, write or copy it again"


@contextmanager
def reading(where: Path | str, remedy: str = _DAMAGED) -> Iterator[None]:
    """Turn any failure to decode what is at `where` into `DataError`; silence the decoder's own warnings."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ThalwegError:
        raise
    except MemoryError as error:
        raise DataError(
            f"{where} asks for more memory than there is ({error or 'out of memory'}): it is damaged, or too "
            "large to be read at once"
        ) from error
    # Decoders of damaged files raise nearly anything; this is the one place where that is caught.
    except Exception as error:
        detail = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{where} cannot be read ({detail}): {remedy}") from error


def each(items: Iterator[T], path: Path) -> Iterator[T]:
    """`items`, with every failure to produce the next one as `DataError`."""
    while True:
        # Not around the yield: what the consumer does is not this file's fault.
        with reading(path):
            item = next(items, None)
        if item is None:
            return
        yield item
