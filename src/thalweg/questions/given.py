"""What cannot be asked: of an energy of some columns given the others, about these; of one that only orders rows or
matches the two sides of a row, about what is in a cell."""

import numpy as np
from jaxtyping import Bool

from thalweg.data.rows import Rows
from thalweg.energy.base import AbstractEnergy
from thalweg.energy.capabilities import (
    AbstractConditional,
    AbstractEmbedded,
    AbstractScored,
    AbstractSequential,
)
from thalweg.energy.spaces import Record
from thalweg.errors import NotAnswered

#: The recipe that says something about every column.
JOINT = "fit orderless, which is of all columns"
#: Columns that a message names at most.
NAMED = 20


def check_answer(F: AbstractEnergy, index: int) -> None:
    """Raise `NotAnswered` where the column at `index` is an input of the energy."""
    check_cells(F)
    if isinstance(F, AbstractConditional) and index not in F.answers:
        raise NotAnswered(
            f"the model is of {_answers(F)} given the other columns, and says nothing about "
            f"{_names(F)[index]!r}: {JOINT}"
        )


def check_inputs(F: AbstractEnergy, rows: Rows | None, first_row: int | None = None) -> None:
    """Raise `NotAnswered` where inputs of the energy are missing in any of the rows (None: in all), which are counted
    from `first_row` (None: there is one)."""
    check_cells(F)
    if not isinstance(F, AbstractConditional):
        return
    if rows is None:
        raise NotAnswered(
            f"the model is of {_answers(F)} given the other columns, which it cannot draw: say what they are "
            f"(given=, --given), or {JOINT}"
        )
    if isinstance(
        F, AbstractSequential
    ):  # a short or a new word has columns without a value, and is read as it is
        return
    hidden = ~rows.observed
    hidden[:, list(F.answers)] = False
    if hidden.any():
        row = int(hidden.any(axis=1).argmax())
        where = "" if first_row is None else f" in row {first_row + row}"
        raise NotAnswered(
            f"the model is of {_answers(F)} given the other columns, and cannot fill these: missing{where} "
            f"{_some(F, hidden[row])}; {JOINT}"
        )


def emptied(F: AbstractEnergy, codes: np.ndarray, observed: Bool[np.ndarray, "n d"]) -> np.ndarray:
    """The codes (n, d) with NaN where an input of the energy is not known, for it says nothing about these."""
    if not isinstance(F, AbstractConditional):
        return codes
    inputs = ~np.isin(np.arange(observed.shape[1]), F.answers)
    return np.where(inputs & ~observed, np.float32(np.nan), codes)


def check_whole(F: AbstractEnergy, question: str) -> None:
    """Raise `NotAnswered` for a question about whole rows."""
    check_cells(F)
    if isinstance(F, AbstractConditional):
        raise NotAnswered(
            f"the model is of {_answers(F)} given the other columns, and {question} is about whole rows: {JOINT}"
        )


def silent_about_cells(kind: type[AbstractEnergy]) -> bool:
    """Whether an energy of this class says which row comes first, or which sides match, and of no cell what it is."""
    return issubclass(kind, AbstractScored) or (
        issubclass(kind, AbstractEmbedded) and not issubclass(kind, AbstractConditional)
    )


def check_cells(F: AbstractEnergy) -> None:
    """Raise `NotAnswered` for an energy that says nothing about what is in a cell."""
    if isinstance(F, AbstractScored):
        raise NotAnswered(
            f"the model says which row comes before which, and nothing about their cells: {JOINT}"
        )
    if silent_about_cells(type(F)):
        raise NotAnswered(
            "the model says how well the two sides of a row match, and nothing about what a side looks like: ask "
            f"retrieve or rank for the partner among those there are, or {JOINT}"
        )


def check_usual(F: AbstractEnergy) -> None:
    """Raise `NotAnswered` for an energy that does not say which rows are usual."""
    if isinstance(F, AbstractScored):
        raise NotAnswered(
            "the model says which row comes before which, and not which are unusual, as score does (ask rank): "
            f"{JOINT}"
        )


def _names(F: AbstractConditional) -> tuple[str, ...]:
    assert isinstance(F.space, Record)
    return F.space.names


def _some(F: AbstractConditional, chosen: Bool[np.ndarray, "d"]) -> str:
    """The names of columns, in a sentence."""
    names = [repr(_names(F)[i]) for i in np.flatnonzero(chosen)]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{'is' if len(names) == 1 else 'are'} {', '.join(names[:NAMED])}{more}"


def _answers(F: AbstractConditional) -> str:
    return ", ".join(repr(_names(F)[i]) for i in F.answers)
