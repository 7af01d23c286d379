"""What the estimators share: their parameters, the way from X to rows, and the fit."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.types as is_
from narwhals.dependencies import is_into_dataframe
from sklearn.base import BaseEstimator
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from thalweg.data.dataset import Dataset
from thalweg.data.load import load
from thalweg.energy.base import AbstractEnergy
from thalweg.errors import DataWarning
from thalweg.fitting import fit
from thalweg.model import Model

_FLOATS = (np.float64, np.float32, np.float16)


class AbstractEnergyEstimator(BaseEstimator):
    """An estimator that fits one energy, its `model_`.

    Parameters
    ----------
    recipe : str, AbstractEnergy or callable, default="gmm"
        A name from `thalweg.models.RECIPES`, an energy of your own, or a function of `(space, key)` that builds one.
    settings : dict, default=None
        Settings of the recipe, such as `{"components": 3}`.
    kinds : dict, default=None
        What a column is, by name, where the inference would be wrong: `continuous`, `integer`, `categorical`,
        `binary` or `datetime`. Columns of an array are named `x0`, `x1`, … and are `continuous`.
    random_state : int, RandomState instance or None, default=None
        What the fit and the draws depend on.
    verbose : bool, default=False
        Whether to say on standard error what the fit did.
    """

    def __init__(
        self,
        recipe: str | AbstractEnergy | Callable[..., AbstractEnergy] = "gmm",
        *,
        settings: Mapping[str, Any] | None = None,
        kinds: Mapping[str, str] | None = None,
        random_state: Any = None,
        verbose: bool = False,
    ):
        self.recipe = recipe
        self.settings = settings
        self.kinds = kinds
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def _learn(self, dataset: Dataset, *, target: str | None = None, **options: Any) -> Model:
        """A model of the rows, which train all but those held out for early stopping (and calibration)."""
        kinds = {**dataset.kinds, **(self.kinds or {})}
        return fit(
            load(dataset, kinds=kinds),
            self.recipe,
            target=target,
            seed=self._seed(),
            progress=bool(self.verbose),
            log=None if self.verbose else _silent,
            **options,
            **(self.settings or {}),
        )

    def _seed(self) -> int:
        return int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))

    def _rows_to_fit(self, X: Any) -> Dataset:
        """X as rows, whose columns are remembered."""
        dataset = _read(self, X, reset=True)
        self._names = tuple(dataset.table.column_names)
        return dataset

    def _rows(self, X: Any) -> Dataset:
        """X as rows with the columns of the fit, which scikit-learn has checked by name and number."""
        check_is_fitted(self, "model_")
        dataset = _read(self, X, reset=False)
        return replace(dataset, table=dataset.table.rename_columns(list(self._names)))


def _read(estimator: BaseEstimator, X: Any, *, reset: bool) -> Dataset:
    """A dataframe by Thalweg's own loader, so that its columns may be of any kind; all else as numbers."""
    if is_into_dataframe(X):
        validate_data(estimator, X=X, reset=reset, skip_check_array=True)
        dataset = replace(load(X), name="X")
        # Not by their values: those of another fold may have fractions.
        kinds = {field.name: "continuous" for field in dataset.table.schema if is_.is_floating(field.type)}
        return replace(dataset, kinds=kinds if reset else {})
    # Thalweg itself refuses infinities, naming column and row.
    values = validate_data(
        estimator,
        X=X,
        reset=reset,
        dtype=_FLOATS,
        ensure_all_finite=False,
        ensure_min_samples=2 if reset else 1,
    )
    names = [f"x{i}" for i in range(values.shape[1])]
    table = pa.table([np.ascontiguousarray(column, np.float64) for column in values.T], names=names)
    kinds = dict.fromkeys(names, "continuous") if reset else {}
    return Dataset(table, "X", native="numpy", kinds=kinds, source=values[:0])


def _silent(line: str) -> None:
    """What is done with the lines of a fit that nobody asked for."""


def with_target(dataset: Dataset, y: pa.Array, kind: str) -> tuple[Dataset, str]:
    """The rows with the target beside them, under a name that no column has."""
    name = "y"
    while name in dataset.table.column_names:
        name += "_"
    table = dataset.table.append_column(name, y)
    return replace(dataset, table=table, kinds={**dataset.kinds, name: kind}), name


@contextmanager
def quietly() -> Iterator[None]:
    """Without the warning that numbers lie outside the range of training: folds of a table often do."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*outside the range of training", DataWarning)
        yield
