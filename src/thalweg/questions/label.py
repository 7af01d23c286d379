"""label: which labels has a sequence?"""

import numpy as np

from thalweg.data.rows import Rows
from thalweg.data.schema import Schema
from thalweg.energy.base import AbstractEnergy
from thalweg.energy.capabilities import AbstractSequential
from thalweg.errors import NotAnswered, SettingsError
from thalweg.questions import sequences
from thalweg.questions.records import Labels


def method(kind: type[AbstractEnergy]) -> str | None:
    if issubclass(kind, AbstractSequential):
        return "exact: the labelling of least energy, and each label's marginal probability"
    return None


def label(F: AbstractEnergy, rows: Rows, schema: Schema, k: int, anew: bool = False) -> Labels:
    """The `k` best labellings of each sequence; labels that the rows have already are held, unless `anew`.

    Raises `NotAnswered` for an energy whose rows are each by themselves.
    """
    if not isinstance(F, AbstractSequential):
        raise NotAnswered(f"{type(F).__name__} sees each row by itself: ask predict, or fit crf to sequences")
    if k < 1:
        raise SettingsError(f"the number of labellings must be at least 1, not {k}")
    (target,) = F.answers
    if anew:
        rows = sequences.without(rows, F.answers)
    found, energies = sequences.paths(F, rows, k)
    _, log_shares = sequences.labelled(F, rows)
    shares = np.exp(log_shares)[np.arange(len(rows)), found[0].astype(int)]
    number = np.repeat(np.arange(energies.shape[1]), sequences.lengths(rows))
    return Labels(
        schema.space.names[target],
        [schema.decode_column(target, codes.astype(np.float32)) for codes in found],
        shares,
        number,
        energies,
        rows.observed[:, target],
    )
