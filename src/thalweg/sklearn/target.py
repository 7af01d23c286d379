"""The target y, checked as scikit-learn does."""

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import assert_all_finite, check_consistent_length, column_or_1d

from thalweg.data.dataset import Dataset


def target_of(estimator: BaseEstimator, rows: Dataset, y: Any) -> np.ndarray:
    """y as one array (n_samples,) without missing or infinite values. Raises `ValueError`."""
    if y is None:
        name = type(estimator).__name__
        raise ValueError(f"This {name} estimator requires y to be passed, but the target y is None.")
    y = column_or_1d(y, warn=True)
    assert_all_finite(y, input_name="y")
    check_consistent_length(rows.table.columns[0], y)
    return y
