"""walk: the answers that a latent goes through, and how near they are: with z inferred, and with z from its prior."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from thalweg.data.rows import Rows
from thalweg.energy.base import AbstractEnergy
from thalweg.energy.capabilities import AbstractDecoder
from thalweg.errors import NotAnswered, SettingsError
from thalweg.questions.batches import by_row, in_batches


class Errors(NamedTuple):
    """Codes of answers minus the truth, (n, a): with the z that explains it best, and with one drawn from the prior."""

    inferred: Float[np.ndarray, "n a"]
    drawn: Float[np.ndarray, "n a"]


def walk(F: AbstractEnergy, rows: Rows, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each row in turn, codes (m, d) with the answers that z gives as it goes through its range; which row each is
    of (m,), and z (m, k). Raises `NotAnswered` for an energy without such a latent."""
    if not isinstance(F, AbstractDecoder):
        raise NotAnswered(
            f"{type(F).__name__} has no latent that says what the answer is: fit latent-regression"
        )
    if n < 2:
        raise SettingsError(f"a walk has at least two steps, not {n}")
    z = np.asarray(F.latents(n))
    row, which = np.repeat(np.arange(len(rows)), len(z)), np.tile(np.arange(len(z)), len(rows))
    codes = in_batches(_decoded, F, rows.values[row], rows.observed[row], z[which])
    return row, codes, z[which]


def errors(F: AbstractDecoder, rows: Rows, seed: int = 0) -> Errors:
    """Both errors of rows whose answers are known: a latent that leaks its answer is perfect by the first alone."""
    keys = np.asarray(jax.random.key_data(jax.random.split(jax.random.key(seed), len(rows))))
    return Errors(*in_batches(_errors, F, rows.values, rows.observed, keys))


@eqx.filter_jit
def _decoded(F, y, observed, z):
    return by_row(F.decode, y, observed, z)


@eqx.filter_jit
def _errors(F, y, observed, keys):
    answers = jnp.array(F.answers)

    def one(y, observed, key):
        drawn = F.draw_latent(key=jax.random.wrap_key_data(key))
        return tuple(F.decode(y, observed, z)[answers] - y[answers] for z in (F.infer(y, observed), drawn))

    return by_row(one, y, observed, keys)
