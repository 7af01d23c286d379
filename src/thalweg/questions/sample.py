"""sample: draw more."""

import equinox as eqx
import jax
import numpy as np

from thalweg.data.rows import Rows
from thalweg.energy.base import AbstractDensity, AbstractEnergy
from thalweg.energy.capabilities import AbstractConditionalSampler
from thalweg.errors import NotAnswered, SettingsError
from thalweg.questions.batches import by_row, in_batches


def method(kind: type[AbstractEnergy]) -> str | None:
    if issubclass(kind, AbstractConditionalSampler):
        return "exact: independent draws, conditional on any columns"
    if issubclass(kind, AbstractDensity):
        return "exact: independent draws (no conditions)"
    return None


def draw(F: AbstractEnergy, n: int, given: Rows | None, seed: int) -> np.ndarray:
    """Codes (n, d) of independent draws; `given` is one row whose observed cells are held."""
    if n < 1:
        raise SettingsError(f"the number of draws must be at least 1, not {n}")
    keys = np.asarray(jax.random.key_data(jax.random.split(jax.random.key(seed), n)))
    if given is None:
        if not isinstance(F, AbstractDensity):
            raise NotAnswered(f"{type(F).__name__} has no exact draws: fit orderless, gmm or pca")
        return in_batches(_free, F, keys)
    if not isinstance(F, AbstractConditionalSampler):
        raise NotAnswered(f"{type(F).__name__} has no exact conditional draws: fit orderless, gmm or pca")
    return in_batches(lambda F, k: _held(F, given.values[0], given.observed[0], k), F, keys)


@eqx.filter_jit
def _free(F, keys):
    return by_row(lambda k: F.sample(key=jax.random.wrap_key_data(k)), keys)


@eqx.filter_jit
def _held(F, y, observed, keys):
    return by_row(lambda k: F.sample_given(y, observed, key=jax.random.wrap_key_data(k)), keys)
