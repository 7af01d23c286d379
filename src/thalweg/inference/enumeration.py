"""Exact sums and minima over finite spaces."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from thalweg.energy.base import AbstractEnergy, Scalar
from thalweg.energy.finite import LARGEST_ENUMERATION, energies, lattice


def log_partition(
    energy: AbstractEnergy,
    x: PyTree = None,
    *,
    beta: float | Scalar = 1.0,
    largest: int = LARGEST_ENUMERATION,
    chunk: int = 4096,
) -> Scalar:
    r"""\(\log Z(x) = \log \sum_y e^{-\beta F(y, x)}\) over a finite space, in nats; exact, `chunk` points at
    a time.

    Raises `SettingsError` where the space is infinite or has more than `largest` points.
    """
    values = energies(energy, lattice(energy.space, largest=largest), x, chunk)
    return jax.nn.logsumexp(-beta * values)


def argmin(
    energy: AbstractEnergy, x: PyTree = None, *, largest: int = LARGEST_ENUMERATION, chunk: int = 4096
) -> tuple[Float[Array, "..."], Scalar]:
    r"""The point of least energy of a finite space, the first in lexicographic order, and its energy.

    Raises `SettingsError` where the space is infinite or has more than `largest` points.
    """
    points = lattice(energy.space, largest=largest)
    values = energies(energy, points, x, chunk)
    best = jnp.argmin(values)
    return points.at(best), values[best]


def probabilities(
    energy: AbstractEnergy, x: PyTree = None, *, largest: int = LARGEST_ENUMERATION, chunk: int = 4096
) -> Float[Array, "n"]:
    r"""\(e^{-F(y, x)} / Z(x)\) of every point of a finite space in lexicographic order (`space.points()`).

    Raises `SettingsError` where the space is infinite or has more than `largest` points.
    """
    return jax.nn.softmax(-energies(energy, lattice(energy.space, largest=largest), x, chunk))
