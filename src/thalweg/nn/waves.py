r"""Waves of numbers: with them a smooth network follows what changes quickly along an input.

Tancik, Srinivasan, Mildenhall, Fridovich-Keil, Raghavan, Singhal, Ramamoorthi, Barron & Ng (2020), *Fourier features
let networks learn high frequency functions in low dimensional domains*; with frequencies that are learnt, Gorishniy,
Rubachev & Babenko (2022), *On embeddings for numerical features in tabular deep learning*.
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from thalweg.nn.initial import Initial


class Waves(eqx.Module):
    r"""\((\sin 2\pi c_{ij} u_i, \cos 2\pi c_{ij} u_i)\) of each number \(u_i\), with frequencies c that are learnt."""

    frequencies: Float[Array, "n k"]

    def __init__(self, numbers: int, count: int, deviation: float, *, initial: Initial):
        self.frequencies = initial.normal((numbers, count), deviation)

    def __call__(self, u: Float[Array, "n"]) -> Float[Array, "w"]:
        angles = jnp.ravel(2 * np.pi * u[:, None] * self.frequencies)
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)])

    @property
    def width(self) -> int:
        """How many numbers come out."""
        return 2 * self.frequencies.size
