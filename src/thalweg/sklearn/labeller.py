"""`EnergyLabeller`: the labels of sequences."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from sklearn.utils.validation import check_is_fitted

from thalweg.data.dataset import Dataset
from thalweg.errors import DataError
from thalweg.sklearn.base import AbstractEnergyEstimator, quietly

_SEQUENCE, _LABEL = "sequence", "label"


class EnergyLabeller(AbstractEnergyEstimator):
    r"""One energy of a sequence and all its labels together; the labels are those of least energy.

    X is a list of sequences, each a list of elements, y a list of their lists of labels. An element is a dictionary of
    features by name (text, numbers, booleans; those that an element does not have are missing), or an array of numbers.

    Parameters
    ----------
    recipe, settings, kinds, random_state, verbose
        See `AbstractEnergyEstimator`; the recipe is `crf` by default.

    Attributes
    ----------
    classes_ : ndarray (n_classes,)
        The labels, sorted.
    model_ : thalweg.Model
        The fitted model, whose rows are the elements one after another.
    """

    def __init__(
        self,
        recipe: str = "crf",
        *,
        settings: Mapping[str, Any] | None = None,
        kinds: Mapping[str, str] | None = None,
        random_state: Any = None,
        verbose: bool = False,
    ):
        # Written out: scikit-learn reads an estimator's parameters off its own `__init__`.
        self.recipe = recipe
        self.settings = settings
        self.kinds = kinds
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Sequence[Any], y: Sequence[Sequence[Any]]) -> "EnergyLabeller":
        """Fit the energy to the sequences X and their labels y.

        Raises `DataError` where a sequence and its labels are of different length, or there is one label alone.
        """
        _check_lengths(X, y)
        labels = [label for sequence in y for label in sequence]
        self.classes_ = np.unique(np.asarray(labels))
        if len(self.classes_) < 2:
            raise DataError(f"y has one label, {labels[0]!r}: there is nothing to tell apart")
        columns, kinds = _columns(X)
        table = pa.table({**columns, _LABEL: pa.array(labels)})
        dataset = Dataset(table, "X", kinds={**kinds, _LABEL: "categorical", **(self.kinds or {})})
        self.model_ = self._learn(dataset, target=_LABEL, calibrate=False)
        self._names = tuple(columns)
        return self

    def predict(self, X: Sequence[Any]) -> list[list[Any]]:
        """The labels of each sequence; of an empty one none."""
        with quietly():
            found = self.model_.predict(self._table(X)).value.to_pylist() if _count(X) else []
        return _cut(found, X)

    def predict_marginals(self, X: Sequence[Any]) -> list[np.ndarray]:
        """For each sequence the probabilities of each element's labels (n, n_classes), in the order of `classes_`."""
        if not _count(X):
            return [np.zeros((0, len(self.classes_)))] * len(X)
        with quietly():
            answer = self.model_.predict(self._table(X))
        order = [(answer.levels or []).index(label) for label in self.classes_.tolist()]
        return _cut(np.asarray(answer.probabilities)[:, order], X)

    def score(self, X: Sequence[Any], y: Sequence[Sequence[Any]]) -> float:
        """The share of elements whose label is right."""
        _check_lengths(X, y)
        found = [label for sequence in self.predict(X) for label in sequence]
        return float(np.mean([a == b for a, b in zip(found, [t for s in y for t in s], strict=True)]))

    def _table(self, X: Sequence[Any]) -> pa.Table:
        check_is_fitted(self, "model_")
        columns, _ = _columns(X)
        known = {name: cells for name, cells in columns.items() if name in self._names}
        missing = {name: pa.nulls(_count(X)) for name in self._names if name not in known}
        return pa.table({**known, **missing})


def _check_lengths(X: Sequence[Any], y: Sequence[Sequence[Any]]) -> None:
    if len(X) != len(y):
        raise DataError(f"X has {len(X)} sequences and y {len(y)}: give the labels of every sequence")
    for i, (sequence, labels) in enumerate(zip(X, y, strict=True)):
        if len(sequence) != len(labels):
            raise DataError(
                f"sequence {i} has {len(sequence)} elements and {len(labels)} labels: give one label an element"
            )
    if not _count(X):
        raise DataError("every sequence is empty: there is nothing to learn from")


def _columns(X: Sequence[Any]) -> tuple[dict[str, pa.Array], dict[str, str]]:
    """The features of all elements as columns, with the number of each one's sequence; text is of words."""
    number = np.repeat(np.arange(len(X)), [len(sequence) for sequence in X])
    elements = [element for sequence in X for element in sequence]
    columns: dict[str, pa.Array] = {_SEQUENCE: pa.array(number)}
    kinds = {_SEQUENCE: "sequence"}
    if not isinstance(elements[0], Mapping):
        values = np.stack([np.asarray(element, np.float64).ravel() for element in elements])
        return columns | {f"x{i}": pa.array(column) for i, column in enumerate(values.T)}, kinds
    for name in dict.fromkeys(name for element in elements for name in element):
        cells = pa.array([element.get(name) for element in elements])
        columns[str(name)] = cells
        if pa.types.is_string(cells.type):
            kinds[str(name)] = "word"
    return columns, kinds


def _count(X: Sequence[Any]) -> int:
    return sum(len(sequence) for sequence in X)


def _cut(flat: Any, X: Sequence[Any]) -> list[Any]:
    """What belongs to all elements, by sequence."""
    ends = np.cumsum([len(sequence) for sequence in X])
    return [flat[end - len(sequence) : end] for end, sequence in zip(ends, X, strict=True)]
