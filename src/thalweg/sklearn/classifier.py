"""`EnergyClassifier`: the class of least energy."""

from typing import Any

import numpy as np
import pyarrow as pa
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets

from thalweg.errors import DataError
from thalweg.sklearn.base import AbstractEnergyEstimator, quietly, with_target
from thalweg.sklearn.target import target_of


class EnergyClassifier(ClassifierMixin, AbstractEnergyEstimator):
    r"""One energy of X and y together; \(p(y \mid x) \propto e^{-F(x, y)}\) over the classes.

    Parameters
    ----------
    recipe, settings, kinds, random_state, verbose
        See `AbstractEnergyEstimator`.

    Attributes
    ----------
    classes_ : ndarray (n_classes,)
        The labels, sorted.
    model_ : thalweg.Model
        The fitted model of X and y; the label is its target, `model_.schema.target`.
    n_features_in_ : int
        The number of columns seen in `fit`.
    feature_names_in_ : ndarray of str
        Their names, where X had such.
    """

    def fit(self, X: Any, y: Any) -> "EnergyClassifier":
        """Fit the energy to X (n_samples, n_features) and the labels y (n_samples,)."""
        dataset = self._rows_to_fit(X)
        labels = target_of(self, dataset, y)
        check_classification_targets(labels)
        self.classes_ = np.unique(labels)
        if len(self.classes_) < 2:
            raise DataError(f"y has one class, {self.classes_[0]!r}: there is nothing to tell apart")
        dataset, target = with_target(dataset, pa.array(labels.tolist()), "categorical")
        self.model_ = self._learn(dataset, target=target, calibrate=False)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """The probability of each class (n_samples, n_classes), in the order of `classes_`."""
        rows = self._rows(X)
        with quietly():
            answer = self.model_.predict(rows)
        levels = answer.levels or []
        return np.asarray(answer.probabilities)[:, [levels.index(label) for label in self.classes_.tolist()]]

    def predict(self, X: Any) -> np.ndarray:
        r"""The label \(\arg\min_y F(x, y)\) of each row (n_samples,)."""
        likeliest = np.argmax(self.predict_proba(X), axis=1)
        return self.classes_[likeliest]
