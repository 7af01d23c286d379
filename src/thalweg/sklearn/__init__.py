"""Energies as scikit-learn estimators: densities, outliers, missing cells, classes and numbers.

>>> from thalweg.sklearn import EnergyDensity
>>> EnergyDensity(recipe="gmm").fit(X).score_samples(X)
"""

from thalweg.sklearn.classifier import EnergyClassifier
from thalweg.sklearn.density import EnergyDensity
from thalweg.sklearn.imputer import EnergyImputer
from thalweg.sklearn.outliers import EnergyOutlierDetector
from thalweg.sklearn.regressor import EnergyRegressor

__all__ = [
    "EnergyClassifier",
    "EnergyDensity",
    "EnergyImputer",
    "EnergyOutlierDetector",
    "EnergyRegressor",
]
