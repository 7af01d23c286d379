"""`EnergyImputer`: missing cells at their best guess."""

from typing import Any

from sklearn.base import OneToOneFeatureMixin, TransformerMixin

from thalweg.sklearn.base import AbstractEnergyEstimator, quietly


class EnergyImputer(OneToOneFeatureMixin, TransformerMixin, AbstractEnergyEstimator):
    """Fills missing cells by what the rest of their row says.

    A number becomes its conditional mean given the observed cells of the row (rounded where its column has whole
    numbers only), a category its most probable value. Observed cells stay untouched.

    Parameters
    ----------
    recipe, settings, kinds, random_state, verbose
        See `AbstractEnergyEstimator`.

    Attributes
    ----------
    model_ : thalweg.Model
        The fitted model; its `complete(X, n=5)` draws completions instead.
    n_features_in_ : int
        The number of columns seen in `fit`.
    feature_names_in_ : ndarray of str
        Their names, where X had such.
    """

    def fit(self, X: Any, y: Any = None) -> "EnergyImputer":
        """Fit the energy to the rows of X, missing cells included (n_samples, n_features); y is ignored."""
        self.model_ = self._learn(self._rows_to_fit(X), calibrate=False)
        return self

    def transform(self, X: Any) -> Any:
        """X with its missing cells filled, an array or a frame as it came.

        A column without any cell in `fit` stays missing.
        """
        rows = self._rows(X)
        with quietly():
            return self.model_.complete(rows)
