"""What an objective is fed of a table with missing cells."""

import warnings

import numpy as np
from jaxtyping import Bool, Float

from thalweg.data.rows import Rows
from thalweg.errors import DataError, DataWarning

Points = Float[np.ndarray, "n d"] | tuple[Float[np.ndarray, "n d"], Bool[np.ndarray, "n d"]]


def points(rows: Rows, *, partial: bool) -> Points:
    """The rows; where cells are missing, with what is observed of them, or only whole rows unless `partial`.

    Warns of the rows that are left out. Raises `DataError` where none is whole.
    """
    if rows.complete.all():
        return rows.values
    if partial:
        return rows.values, rows.observed
    return whole_rows(
        rows,
        "which only contrastive divergence can use: take loss=pcd, fill the cells (thalweg complete), or fit orderless",
        "loss=pcd uses them too",
    )


def whole_rows(rows: Rows, none: str, some: str) -> Float[np.ndarray, "n d"]:
    """The rows without a missing cell; `none` says what to do where there is none, `some` what of those left out."""
    kept = rows.values[rows.complete]
    if not len(kept):
        raise DataError(f"every row has a missing cell, {none}")
    if left_out := len(rows) - len(kept):
        warnings.warn(f"{left_out} rows with missing cells are left out: {some}", DataWarning, stacklevel=4)
    return kept
