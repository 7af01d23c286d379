"""`EnergyOutlierDetector`: rows that are odder than a calibrated share of usual ones."""

import warnings
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import numpy as np
from sklearn.base import OutlierMixin

from thalweg.energy.base import AbstractEnergy
from thalweg.errors import DataWarning, SettingsError
from thalweg.questions.score import threshold
from thalweg.sklearn.base import AbstractEnergyEstimator, quietly


class EnergyOutlierDetector(OutlierMixin, AbstractEnergyEstimator):
    """Flags rows of high energy, at a false-alarm rate measured on rows held out of the training.

    Parameters
    ----------
    recipe, settings, kinds, random_state, verbose
        See `AbstractEnergyEstimator`.
    contamination : "auto" or float, default="auto"
        With "auto" a row is an outlier where its conformal p-value is at most `alpha`; a float in (0, 0.5] is the
        share of the training rows that are to be outliers.
    alpha : float, default=0.05
        The false-alarm rate: of fresh rows like those of `fit` at most this share is flagged, whatever the recipe.
        Where there are too few rows to tell so small a rate, the smallest that they tell is taken, with a warning:
        0.01 needs 300 rows, 0.05 needs 60.

    Attributes
    ----------
    offset_ : float
        `decision_function = score_samples - offset_`.
    model_ : thalweg.Model
        The fitted model; its `score` has the p-values, its `explain` says which cell is wrong.
    n_features_in_ : int
        The number of columns seen in `fit`.
    feature_names_in_ : ndarray of str
        Their names, where X had such.
    """

    def __init__(
        self,
        recipe: str | AbstractEnergy | Callable[..., AbstractEnergy] = "gmm",
        *,
        contamination: str | float = "auto",
        alpha: float = 0.05,
        settings: Mapping[str, Any] | None = None,
        kinds: Mapping[str, str] | None = None,
        random_state: Any = None,
        verbose: bool = False,
    ):
        self.recipe = recipe
        self.contamination = contamination
        self.alpha = alpha
        self.settings = settings
        self.kinds = kinds
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None) -> "EnergyOutlierDetector":
        """Fit the energy to the rows of X (n_samples, n_features) and calibrate it; y is ignored."""
        self._check_rates()
        self.model_ = self._learn(self._rows_to_fit(X))
        usual = self.model_.calibration.surprises
        automatic = isinstance(self.contamination, str)
        rate = float(self.alpha if automatic else self.contamination)
        self._alpha = _attainable(rate, len(usual), automatic)
        self._threshold = threshold(usual, self._alpha)
        self.offset_ = -self._threshold
        if not automatic:
            self.offset_ = float(np.percentile(self.score_samples(X), 100 * rate))
        return self

    def score_samples(self, X: Any) -> np.ndarray:
        """How usual each row is, the higher the more, float64 (n_samples,).

        Minus the row's surprise (see `thalweg.Model.score`). Of a row with missing cells it is moved so that one
        offset serves all rows: such a row is compared with held-out rows that lack the same cells.
        """
        rows = self._rows(X)
        with quietly():
            scores = self.model_.score(rows, alpha=self._alpha)
        return scores.threshold - self._threshold - scores.surprise

    def decision_function(self, X: Any) -> np.ndarray:
        """`score_samples` less `offset_`: below 0 for outliers."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> np.ndarray:
        """1 for an inlier and -1 for an outlier (n_samples,)."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def _check_rates(self) -> None:
        share = self.contamination
        if share != "auto" and not (isinstance(share, Real) and 0 < share <= 0.5):
            raise SettingsError(f"contamination is 'auto' or a share in (0, 0.5], not {share!r}")
        if not 0 < self.alpha < 1:
            raise SettingsError(f"alpha is a false-alarm rate between 0 and 1, not {self.alpha!r}")


def _attainable(alpha: float, held_out: int, say_so: bool) -> float:
    """The rate, or the smallest that so many held-out rows can tell."""
    smallest = 1 / (held_out + 1)
    if alpha < smallest and say_so:
        warnings.warn(
            f"{held_out} held-out rows cannot tell a false-alarm rate of {alpha:g}: {smallest:.3g} is taken; "
            "fit on more rows, or ask for a larger alpha",
            DataWarning,
            stacklevel=3,
        )
    return max(alpha, smallest)
