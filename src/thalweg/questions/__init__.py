"""The questions, one file each; `methods` says how an energy answers them."""

from importlib import import_module

from thalweg.energy.base import AbstractEnergy
from thalweg.energy.capabilities import (
    AbstractConditional,
    AbstractEmbedded,
    AbstractScored,
    AbstractSequential,
    AbstractSliding,
)

#: The questions in the order in which they are shown.
QUESTIONS = (
    "energy",
    "score",
    "complete",
    "denoise",
    "sample",
    "predict",
    "label",
    "rank",
    "explain",
    "encode",
    "detect",
    "retrieve",
)


#: What an energy is for, the special kinds before those that they are among; any other says how well a row fits.
_PURPOSES = (
    (AbstractScored, "rank"),
    (AbstractSliding, "detect"),
    (AbstractEmbedded, "retrieve"),
    (AbstractSequential, "label"),
    (AbstractConditional, "predict"),
)


def methods(kind: type[AbstractEnergy]) -> dict[str, str | None]:
    """How an energy of this class answers each question: "exact: …", "generic: …", or None where it can't."""
    return {name: import_module(f"thalweg.questions.{name}").method(kind) for name in QUESTIONS}


def purpose(kind: type[AbstractEnergy]) -> str:
    """The question that an energy of this class is fitted for."""
    return next((question for capability, question in _PURPOSES if issubclass(kind, capability)), "score")


def answers(kind: type[AbstractEnergy], question: str) -> bool:
    """Whether an energy of this class answers the question as it stands, with nothing given; `report` always."""
    if question not in QUESTIONS:
        return True
    if question in ("complete", "sample") and issubclass(kind, AbstractConditional):
        return False  # what it is given must be there
    return import_module(f"thalweg.questions.{question}").method(kind) is not None
