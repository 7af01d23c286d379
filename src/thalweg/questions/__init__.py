"""The questions, one file each; `methods` says how an energy answers them."""

from thalweg.energy.base import AbstractEnergy

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


def methods(kind: type[AbstractEnergy]) -> dict[str, str | None]:
    """How an energy of this class answers each question: "exact: …", "generic: …", or None where it can't."""
    from importlib import import_module

    return {name: import_module(f"thalweg.questions.{name}").method(kind) for name in QUESTIONS}
