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
    kept = rows.values[rows.complete]
    if not len(kept):
        raise DataError(
            "every row has a missing cell, which only contrastive divergence can use: take loss=pcd, fill the cells "
            "(thalweg complete), or fit orderless"
        )
    warnings.warn(
        f"{len(rows) - len(kept)} rows with missing cells are left out: loss=pcd uses them too",
        DataWarning,
        stacklevel=3,
    )
    return kept
