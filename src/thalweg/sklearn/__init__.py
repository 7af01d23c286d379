"""Energies as scikit-learn estimators: densities, outliers, missing cells, classes, numbers and labels of sequences.

>>> from thalweg.sklearn import EnergyDensity
>>> EnergyDensity(recipe="gmm").fit(X).score_samples(X)
"""

from thalweg.sklearn.classifier import EnergyClassifier
from thalweg.sklearn.density import EnergyDensity
from thalweg.sklearn.imputer import EnergyImputer
from thalweg.sklearn.labeller import EnergyLabeller
from thalweg.sklearn.outliers import EnergyOutlierDetector
from thalweg.sklearn.regressor import EnergyRegressor

__all__ = [
    "EnergyClassifier",
    "EnergyDensity",
    "EnergyImputer",
    "EnergyLabeller",
    "EnergyOutlierDetector",
    "EnergyRegressor",
]
