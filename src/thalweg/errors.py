"""The exceptions and warnings of Thalweg: each message names the cause and the remedy."""

import difflib
from collections.abc import Iterable


class ThalwegError(Exception):
    """Base of every error that Thalweg raises on purpose."""


class DataError(ThalwegError, ValueError):
    """Data that cannot be read or used; names the file, column and row where there is one."""


class SchemaError(DataError):
    """Rows that do not match the schema the model was fitted on."""


class SettingsError(ThalwegError, ValueError):
    """An unknown or impossible setting, recipe or argument."""


class NotAnswered(ThalwegError, NotImplementedError):
    """A question that has no meaning, or no method yet, for this energy; names what answers it."""


class NotConverged(ThalwegError, RuntimeError):
    """An inference that ended without reaching its minimum."""


class Diverged(ThalwegError, RuntimeError):
    """A training run that could not be kept healthy; names the cause and the remedy."""


class Interrupted(ThalwegError, KeyboardInterrupt):
    """A run stopped by the user; says how to resume it."""


class ProcessLost(ThalwegError, RuntimeError):
    """One of several processes that train together has ended; says how to go on."""


class ModelDirectoryError(ThalwegError, ValueError):
    """A model directory that is damaged, foreign or not a model directory."""


class OutputError(ThalwegError, OSError):
    """An output that exists already or cannot be written."""


class DataWarning(UserWarning):
    """Something about the rows that the user would want to know and that does not stop the work."""


class ChainWarning(UserWarning):
    """Draws of a Markov chain that are not to be trusted yet; names what would help."""


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "there are") -> str:
    """The end of a message about an unknown name: the nearest of the known ones, or `otherwise` and what there is."""
    known = list(known)
    near = difflib.get_close_matches(name, known, 1) or [k for k in known if k.lower() == name.lower()]
    if near:
        return f"did you mean {near[0]!r}?"
    return f"{otherwise} {', '.join(known[:12]) or 'none'}{', …' if len(known) > 12 else ''}"
