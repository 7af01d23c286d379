"""How much is read at most: what a damaged or malicious file asks for beyond is refused before it is allocated."""

from thalweg.errors import DataError

#: No array, folder of images or table read at once is larger than this in memory.
LARGEST_BYTES = 8 << 30
#: No table has more columns, and no image more pixels times channels: each costs some tenths of a millisecond.
MOST_COLUMNS = 65_536


def check_bytes(size: int, what: str, remedy: str) -> None:
    """Raise `DataError` where `what` needs more than `LARGEST_BYTES`."""
    if size > LARGEST_BYTES:
        raise DataError(
            f"{what}, {size / (1 << 30):,.1f} GiB, more than the {LARGEST_BYTES / (1 << 30):.4g} GiB that are "
            f"read: {remedy}"
        )


def check_columns(count: int, where: str) -> None:
    """Raise `DataError` for more than `MOST_COLUMNS` columns."""
    if count > MOST_COLUMNS:
        raise DataError(
            f"{where} has {count:,} columns, more than the {MOST_COLUMNS:,} that are read: leave some out, or "
            "use smaller images"
        )
