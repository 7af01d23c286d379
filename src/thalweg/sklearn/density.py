"""`EnergyDensity`: how probable rows are."""

from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from thalweg.sklearn.base import AbstractEnergyEstimator, quietly


class EnergyDensity(AbstractEnergyEstimator):
    r"""A density of rows, \(p(y) \propto e^{-F(y)}\).

    The density is normalised where the recipe is (`gmm`, `pca` and `orderless` on real columns); of `kmeans` and
    of an energy of your own that isn't, `score_samples` is \(-F\), right up to a constant.

    Parameters
    ----------
    recipe, settings, kinds, random_state, verbose
        See `AbstractEnergyEstimator`.

    Attributes
    ----------
    model_ : thalweg.Model
        The fitted model, of which every other question can be asked (but `score`: no rows were held out for it).
    n_features_in_ : int
        The number of columns seen in `fit`.
    feature_names_in_ : ndarray of str
        Their names, where X had such.
    """

    def fit(self, X: Any, y: Any = None) -> "EnergyDensity":
        """Fit the density to the rows of X (n_samples, n_features); y is ignored."""
        dataset = self._rows_to_fit(X)
        self.model_ = self._learn(dataset, calibrate=False)
        source = None if dataset.source is None else dataset.source[:0]
        self._like = replace(dataset, table=dataset.table[:0], source=source)
        return self

    def score_samples(self, X: Any) -> np.ndarray:
        r"""\(\log p\) of each row, in nats and the units of X, float64 (n_samples,).

        Of a row with missing cells it is that of its observed part.
        """
        rows = self._rows(X)
        with quietly():
            return -self.model_.energy(rows)

    def score(self, X: Any, y: Any = None) -> float:
        """The mean of `score_samples`, so that folds of different size compare; y is ignored."""
        return float(np.mean(self.score_samples(X)))

    def sample(self, n_samples: int = 1) -> Any:
        """New rows drawn from the density (n_samples, n_features), an array or a frame as X was in `fit`."""
        check_is_fitted(self, "model_")
        return self._like.restore(self.model_.sample(n_samples, seed=self._seed()))
