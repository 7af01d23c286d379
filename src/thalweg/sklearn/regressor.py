"""`EnergyRegressor`: the mean of a number given the rest of its row."""

from typing import Any

import numpy as np
import pyarrow as pa
from sklearn.base import RegressorMixin

from thalweg.sklearn.base import AbstractEnergyEstimator, quietly, with_target
from thalweg.sklearn.target import target_of


class EnergyRegressor(RegressorMixin, AbstractEnergyEstimator):
    r"""One energy of X and y together; predicts the mean of \(p(y \mid x) \propto e^{-F(x, y)}\).

    Parameters
    ----------
    recipe, settings, kinds, random_state, verbose
        See `AbstractEnergyEstimator`.

    Attributes
    ----------
    model_ : thalweg.Model
        The fitted model of X and y; the number is its target, `model_.schema.target`. Its `predict` has quantiles
        and the value of least energy too.
    n_features_in_ : int
        The number of columns seen in `fit`.
    feature_names_in_ : ndarray of str
        Their names, where X had such.
    """

    def fit(self, X: Any, y: Any) -> "EnergyRegressor":
        """Fit the energy to X (n_samples, n_features) and the numbers y (n_samples,)."""
        dataset = self._rows_to_fit(X)
        numbers = np.asarray(target_of(self, dataset, y), np.float64)
        dataset, target = with_target(dataset, pa.array(numbers), "continuous")
        self.model_ = self._learn(dataset, target=target, calibrate=False)
        return self

    def predict(self, X: Any, return_std: bool = False) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """The conditional mean of each row (n_samples,), and with `return_std` the standard deviation about it.

        The mean is exact where the energy knows it; the deviation is that of the energy along a grid over the range
        of y in `fit`.
        """
        rows = self._rows(X)
        with quietly():
            if not return_std:
                return self.model_.mean(rows)
            answer = self.model_.predict(rows)
        return np.asarray(answer.mean), np.asarray(answer.std)
