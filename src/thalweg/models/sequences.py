"""Rows of a table that come in sequences, as inputs with their answers: what energies over sequences are trained on."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np

from thalweg.data.packing import Packed, gathered, lengths_of, pack, separate
from thalweg.data.rows import Rows
from thalweg.errors import DataError
from thalweg.learning.rows import Pairs
from thalweg.models.inputs import Elements, Seen


def laid_out(rows: Rows, target: int, *, together: bool, width: int = 0) -> Pairs:
    """The sequences in rows of one length, several in a row where `together`, with their answers (b, t); 0 where there
    is none.

    Raises `DataError` where an element has no answer.
    """
    unknown = np.flatnonzero(~rows.observed[:, target])
    if len(unknown):
        count = f"{len(unknown):,} of {len(rows):,} training rows"
        raise DataError(f"{count} have no label: leave their sequences out, or label all of them")
    lengths = np.ones(len(rows), int) if rows.sequence is None else lengths_of(rows.sequence)
    packed = pack(lengths, width) if together else separate(lengths)
    return Pairs(elements(rows, target, packed), jnp.asarray(gathered(rows.values[:, target], packed)))


def elements(rows: Rows, target: int, packed: Packed) -> Elements:
    """The inputs of the rows where they stand."""
    seen = rows.observed.copy()
    seen[:, target] = False
    rows = replace(rows, values=np.where(seen, rows.values, np.float32(0)), observed=seen)
    x = Seen(jnp.asarray(gathered(rows.values, packed)), jnp.asarray(gathered(rows.observed, packed)))
    return Elements(x, jnp.asarray(packed.mask), jnp.asarray(packed.starts))
