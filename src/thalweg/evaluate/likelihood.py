"""Likelihoods: what they are worth, and in the units that papers use."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from thalweg.energy.base import AbstractEnergy
from thalweg.errors import DataError
from thalweg.evaluate.annealing import log_partition

#: Rows whose energies are taken at once.
CHUNK = 4096


@dataclass(frozen=True)
class Likelihood:
    r"""The mean of \(\log p(y) = -F(y) - \log Z\) over rows, in nats a row.

    `lower` and `upper` are what the bracket of log Z leaves open, equal where the likelihood is `exact`; `error` is the
    standard error of `value`, by log Z and by the number of rows.
    """

    value: float
    error: float
    lower: float
    upper: float
    kind: Literal["exact", "bracket"]
    how: str

    def __str__(self) -> str:
        within = "exact" if self.kind == "exact" else f"within [{self.lower:.6g}, {self.upper:.6g}]"
        return f"log p = {self.value:.6g} ± {self.error:.2g} nats a row, {within} ({self.how})"


def log_likelihood(
    energy: AbstractEnergy, rows: Float[Array, "n ..."], *, key: PRNGKeyArray, **annealing: Any
) -> Likelihood:
    r"""The mean log likelihood of whole rows, which says whether it is exact or lies in a bracket.

    log Z is exact where it can be had; otherwise `annealing` are the options of
    `thalweg.evaluate.annealing.log_partition`. Raises `DataError` for no rows.
    """
    if not len(rows):
        raise DataError("there are no rows whose likelihood could be taken")
    energies = np.concatenate(
        [np.asarray(_energies(energy, jnp.asarray(rows[i : i + CHUNK]))) for i in range(0, len(rows), CHUNK)]
    ).astype(np.float64)
    found = log_partition(energy, key=key, **annealing)
    mean = -float(np.mean(energies))
    spread = float(np.std(energies, ddof=1) / math.sqrt(len(energies))) if len(energies) > 1 else math.nan
    return Likelihood(
        mean - found.value,
        math.hypot(spread, found.error),
        mean - found.upper,
        mean - found.lower,
        found.kind,
        found.how,
    )


@eqx.filter_jit
def _energies(energy: AbstractEnergy, rows: Float[Array, "n ..."]) -> Float[Array, "n"]:
    return jax.vmap(energy)(rows)


def bits_per_dimension(nats: float, dimensions: int) -> float:
    r"""\(\mathrm{NLL} / (D \ln 2)\), from nats a row."""
    return nats / (dimensions * math.log(2.0))
