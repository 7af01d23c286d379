"""Small tables filled up to few shapes: what one fit has compiled serves the next, of nearly the same size.

Compiling takes seconds and fitting a small table milliseconds. Rows that fill a table up have weight 0, and
coordinates that do are 0 in every row; both leave the fit as it is.
"""

import numpy as np
from jaxtyping import Array

#: Rows on the host or on a device.
AnyArray = Array | np.ndarray
#: The fewest rows, and the most rows that are filled up (to a power of two).
FEWEST, MOST = 256, 4096
#: Widths, and the most rows that are brought to one of them.
WIDTHS, MOST_WIDENED = (4, 8, 16), 1024


def length_for(rows: int) -> int:
    """How many rows a table of so many has when it is filled up."""
    return rows if rows == 0 or rows > MOST else max(FEWEST, 1 << (rows - 1).bit_length())


def width_for(width: int, rows: int) -> int:
    """How many coordinates the rows have when they are filled up."""
    return next((w for w in WIDTHS if width <= w), width) if rows <= MOST_WIDENED else width


def filled_up(array: AnyArray, shape: tuple[int, ...], value: float | bool = 0) -> AnyArray:
    """The array with `value` after its ends, on the host; itself where it has the shape already."""
    if array.shape == shape:
        return array
    out = np.full(shape, value, array.dtype)
    out[tuple(slice(size) for size in array.shape)] = np.asarray(array)
    return out
