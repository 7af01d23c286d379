"""The answers of an energy over rows that come in sequences: every row's with its neighbours'."""

from dataclasses import replace

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float

from thalweg.data.packing import Packed, gathered, lengths_of, pack, scattered, separate
from thalweg.data.rows import Rows
from thalweg.energy.capabilities import AbstractSequential
from thalweg.questions.batches import by_row, in_batches

#: Rows of packed sequences a dispatch at most.
LARGEST = 256


def labelled(F: AbstractSequential, rows: Rows) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n k"]]:
    r"""The codes of the answers of least energy, and \(\log p(y_i = v \mid x)\) of each row's; those known are held."""
    packed = pack(lengths(rows))
    best, log_shares = in_batches(_labelled, F, *_laid(rows, packed), largest=LARGEST)
    return scattered(best, packed, len(rows)), scattered(log_shares, packed, len(rows)).astype(np.float64)


def row_energies(F: AbstractSequential, rows: Rows) -> Float[np.ndarray, "n"]:
    r"""\(-\log p(y_i \mid x)\) of each row's answer given the inputs of its whole sequence; 0 where it has none."""
    (target,) = F.answers
    _, log_shares = labelled(F, without(rows, F.answers))
    known = rows.observed[:, target]
    codes = np.where(known, rows.values[:, target], 0).astype(int)
    return np.where(known, -log_shares[np.arange(len(rows)), codes], 0.0)


def paths(
    F: AbstractSequential, rows: Rows, k: int
) -> tuple[Float[np.ndarray, "k n"], Float[np.ndarray, "k s"]]:
    r"""The `k` best labellings of each sequence, in codes, and \(F = -\log p(y \mid x)\) of each; infinite where there
    are fewer."""
    packed = separate(lengths(rows))
    found, energies = in_batches(lambda F, *a: _paths(F, k, *a), F, *_laid(rows, packed), largest=LARGEST)
    return scattered(np.moveaxis(found, 1, 2), packed, len(rows)).T, energies.T.astype(np.float64)


def drawn(F: AbstractSequential, rows: Rows, n: int, seed: int) -> Float[np.ndarray, "m d"]:
    """Codes (rows · n, d): `n` joint draws of the missing answers of each sequence, the draws of one row together."""
    packed = pack(lengths(rows))
    out = []
    for i in range(n):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), i), len(packed.place))
        laid = (*_laid(rows, packed), np.asarray(jax.random.key_data(keys)))
        out.append(put(F, rows, scattered(in_batches(_drawn, F, *laid, largest=LARGEST), packed, len(rows))))
    return np.stack(out, axis=1).reshape(-1, rows.values.shape[1])


def put(F: AbstractSequential, rows: Rows, answers: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n d"]:
    """The codes of the rows, with these answers where theirs are missing."""
    (target,) = F.answers
    values = rows.values.copy()
    missing = ~rows.observed[:, target]
    values[missing, target] = answers[missing]
    return values


def without(rows: Rows, answers: tuple[int, ...]) -> Rows:
    """The rows without their answers."""
    return replace(rows, observed=rows.observed & ~np.isin(np.arange(rows.values.shape[1]), answers))


def lengths(rows: Rows) -> np.ndarray:
    """How many rows each sequence has; rows without a sequence are each by themselves."""
    return np.ones(len(rows), int) if rows.sequence is None else lengths_of(rows.sequence)


def _laid(rows: Rows, packed: Packed) -> tuple[np.ndarray, ...]:
    return gathered(rows.values, packed), gathered(rows.observed, packed), packed.mask, packed.starts


@eqx.filter_jit
def _labelled(F, values, observed, mask, starts):
    return by_row(F.labelled, values, observed, mask, starts)


@eqx.filter_jit
def _paths(F, k, values, observed, mask, starts):
    return by_row(lambda *a: F.paths(*a, k), values, observed, mask, starts)


@eqx.filter_jit
def _drawn(F, values, observed, mask, starts, keys):
    return by_row(
        lambda v, o, m, s, key: F.drawn(v, o, m, s, key=jax.random.wrap_key_data(key)),
        values, observed, mask, starts, keys,
    )  # fmt: skip
