"""What an older `model.json` becomes: a step for each version, applied in order until it is of today's format.

A step takes the content of `model.json` as the version it is named by wrote it, and returns it as the next version
has it. The schema, the arrays and all else are checked after the last step. A released version is never taken out.
"""

from collections.abc import Callable
from typing import Any

from thalweg.errors import ModelDirectoryError
from thalweg.persist.layout import FORMAT, MODEL_FILE

Step = Callable[[dict[str, Any]], dict[str, Any]]

#: From the version named to the one after it. There is one version yet.
STEPS: dict[int, Step] = {}


def oldest() -> int:
    """The oldest version that is read."""
    return min(STEPS, default=FORMAT)


def migrated(record: dict[str, Any]) -> dict[str, Any]:
    """The record in today's format; raises `ModelDirectoryError` where it is not even of its own."""
    for version in range(record["format"], FORMAT):
        try:
            record = STEPS[version](record) | {"format": version + 1}
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise ModelDirectoryError(f"{MODEL_FILE} is not what format {version} has: {error!r}") from error
    return record
