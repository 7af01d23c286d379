"""What can be asked of an energy of some columns given the others, which are its input: nothing about these."""

import numpy as np
from jaxtyping import Bool

from thalweg.data.rows import Rows
from thalweg.energy.base import AbstractEnergy
from thalweg.energy.capabilities import AbstractConditional, AbstractScored, AbstractSequential
from thalweg.energy.spaces import Record
from thalweg.errors import NotAnswered

#: The recipe that says something about every column.
JOINT = "fit orderless, which is of all columns"


def check_answer(F: AbstractEnergy, index: int) -> None:
    """Raise `NotAnswered` where the column at `index` is an input of the energy."""
    check_order(F)
    if isinstance(F, AbstractConditional) and index not in F.answers:
        raise NotAnswered(
            f"the model is of {_answers(F)} given the other columns, and says nothing about "
            f"{_names(F)[index]!r}: {JOINT}"
        )


def check_inputs(F: AbstractEnergy, rows: Rows | None, first_row: int = 0) -> None:
    """Raise `NotAnswered` where an input of the energy is missing in any of the rows (None: in all), which are counted
    from `first_row`."""
    check_order(F)
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
        row, index = np.argwhere(hidden)[0]
        raise NotAnswered(
            f"the model is of {_answers(F)} given the other columns, and cannot fill these: "
            f"{_names(F)[index]!r} is missing in row {first_row + row}; {JOINT}"
        )


def emptied(F: AbstractEnergy, codes: np.ndarray, observed: Bool[np.ndarray, "n d"]) -> np.ndarray:
    """The codes (n, d) with NaN where an input of the energy is not known, for it says nothing about these."""
    if not isinstance(F, AbstractConditional):
        return codes
    inputs = ~np.isin(np.arange(observed.shape[1]), F.answers)
    return np.where(inputs & ~observed, np.float32(np.nan), codes)


def check_whole(F: AbstractEnergy, question: str) -> None:
    """Raise `NotAnswered` for a question about whole rows."""
    check_order(F)
    if isinstance(F, AbstractConditional):
        raise NotAnswered(
            f"the model is of {_answers(F)} given the other columns, and {question} is about whole rows: {JOINT}"
        )


def check_order(F: AbstractEnergy, question: str = "") -> None:
    """Raise `NotAnswered` for an energy that orders rows and says nothing about what is in them."""
    if isinstance(F, AbstractScored):
        said = (
            "nothing about their cells"
            if not question
            else f"not which are unusual, as {question} does (ask rank)"
        )
        raise NotAnswered(f"the model says which row comes before which, and {said}: {JOINT}")


def _names(F: AbstractConditional) -> tuple[str, ...]:
    assert isinstance(F.space, Record)
    return F.space.names


def _answers(F: AbstractConditional) -> str:
    return ", ".join(repr(_names(F)[i]) for i in F.answers)
