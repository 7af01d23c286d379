"""The next useful command: what one asks after an answer, of what this model answers."""

from typing import Any

from thalweg.cli.arguments import command

#: What one asks after an answer; after what is not named here, the question that the model is for.
FOLLOWS = {
    "combine": "sample",
    "complete": "sample",
    "denoise": "explain",
    "encode": "report",
    "explain": "complete",
    "label": "explain",
    "predict": "explain",
    "rank": "explain",
    "retrieve": "encode",
    "sample": "report",
    "score": "explain",
}
#: The words of a question after the model, where they are not the data alone.
_WORDS: dict[str, tuple[Any, ...]] = {
    "detect": ("PICTURES",),
    "explain": ("DATA", "--top", 3),
    "sample": ("-n", 5),
}


def after(done: str, model: Any, directory: Any, data: Any = None) -> str | None:
    """The command line that is useful after this one; None where no model was asked.

    Of a model that would refuse the question it is the one that the model is for.
    """
    if model is None:
        return None
    from thalweg.questions import answers, purpose

    kind = type(model.F)
    question = FOLLOWS.get(done)
    if question is None or not answers(kind, question):
        question = purpose(kind)
    if question == done:
        question = "report"
    words = _WORDS.get(question, () if data is None else ("DATA",))
    return command(question, directory, *(data if word == "DATA" and data else word for word in words))
