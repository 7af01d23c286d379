"""sample: draw more."""

import equinox as eqx
import jax
import numpy as np

from thalweg.data.rows import Rows
from thalweg.energy.base import AbstractDensity, AbstractEnergy
from thalweg.energy.capabilities import (
    AbstractConditional,
    AbstractConditionalSampler,
    AbstractSequential,
    AbstractZeroTemperature,
)
from thalweg.errors import SettingsError
from thalweg.questions import chains, sequences
from thalweg.questions.batches import by_row, in_batches
from thalweg.questions.given import silent_about_cells


def method(kind: type[AbstractEnergy]) -> str | None:
    if silent_about_cells(kind):
        return None
    if issubclass(kind, AbstractConditional):
        exact = issubclass(kind, AbstractConditionalSampler | AbstractSequential)
        return f"{'exact' if exact else 'chains'}: draws of its target, all other columns given"
    if issubclass(kind, AbstractConditionalSampler):
        return "exact: independent draws, conditional on any columns"
    if issubclass(kind, AbstractDensity):
        return "exact: independent draws; chains where columns are held"
    if issubclass(kind, AbstractZeroTemperature):
        return None
    return "chains: each row the end of a chain of its own, with any columns held"


def draw(
    F: AbstractEnergy, n: int, given: Rows | None, seed: int, walker: chains.Walker, steps: int | None = None
) -> np.ndarray:
    """Codes (n, d) of independent draws; `given` is one row whose observed cells are held."""
    if n < 1:
        raise SettingsError(f"the number of draws must be at least 1, not {n}")
    keys = np.asarray(jax.random.key_data(jax.random.split(jax.random.key(seed), n)))
    if given is None and isinstance(F, AbstractDensity):
        return in_batches(_free, F, keys)
    if given is not None and isinstance(F, AbstractSequential):
        return sequences.drawn(F, given[:1], n, seed)
    if given is not None and isinstance(F, AbstractConditionalSampler):
        return in_batches(lambda F, k: _held(F, given.values[0], given.observed[0], k), F, keys)
    return chains.draws(walker, _nothing(F) if given is None else given[:1], n, seed, steps)


def _nothing(F: AbstractEnergy) -> Rows:
    """A row of which no cell is known."""
    shape = (1, *F.space.shape)
    return Rows(np.zeros(shape, np.float32), np.zeros(shape, bool), np.zeros(1, np.int64))


@eqx.filter_jit
def _free(F, keys):
    return by_row(lambda k: F.sample(key=jax.random.wrap_key_data(k)), keys)


@eqx.filter_jit
def _held(F, y, observed, keys):
    return by_row(lambda k: F.sample_given(y, observed, key=jax.random.wrap_key_data(k)), keys)
