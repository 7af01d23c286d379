"""A damaged data file: made, loaded, and read in batches."""

from pathlib import Path

import numpy as np

from hostile.data_files import NAMES, write_mutated
from thalweg.data import Schema, batches, load
from thalweg.errors import ThalwegError

FORMATS = list(NAMES)


prepare = write_mutated


def attempt(path: Path) -> str:
    """Both ways to read a file end well or with an error of ours, and what is read can be learned from."""
    failure: ThalwegError | None = None
    try:
        rows = sum(batch.num_rows for batch in batches(path))
        assert rows > 0, "no rows and no error"
    except ThalwegError as error:
        failure = error
    dataset = load(path)
    if failure is not None and "cells of type" not in str(failure):
        raise AssertionError(f"loads, but in batches: {failure}")
    schema = Schema.infer(dataset)
    codes = schema.encode(dataset.table).values
    assert np.isfinite(codes).all(), "codes that are not finite"
    assert Schema.from_dict(schema.to_dict()) == schema, "a schema that does not come back"
    return f"{len(dataset)} rows, {len(schema.columns)} columns"
