"""The energies of all points one change away: the one place where their exact shortcut is chosen."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from thalweg.energy.base import AbstractEnergy
from thalweg.energy.capabilities import AbstractNeighbours
from thalweg.energy.spaces import AbstractSpace
from thalweg.errors import SettingsError
from thalweg.inference.profile import profile


def neighbours(energy: AbstractEnergy, y: Float[Array, "..."], x: PyTree = None) -> Float[Array, "d v"]:
    r"""\(F(y_{i \to v}, x)\) for each finite coordinate and each of as many values as the largest has.

    What lies beyond a coordinate's own values is to be left out (`changes`). By the energy itself where it is an
    `AbstractNeighbours`, else by one energy for each.
    """
    if isinstance(energy, AbstractNeighbours):
        return energy.neighbour_energies(y, x)
    sizes, index = finite_coordinates(energy.space)
    values = jnp.arange(sizes.max(), dtype=jnp.float32)
    return jax.vmap(lambda i: profile(energy, y, i, values, x=x))(jnp.asarray(index))


def changes(space: AbstractSpace, y: Float[Array, "..."]) -> Bool[Array, "d v"]:
    """Which entries of `neighbours` are other points of the space."""
    sizes, index = finite_coordinates(space)
    values = np.arange(sizes.max(), dtype=np.float32)[None]
    return (values < sizes[:, None]) & (values != jnp.ravel(y)[index][:, None])


def finite_coordinates(space: AbstractSpace) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of values and the places of the finite coordinates. Raises `SettingsError` where there are none."""
    levels = space.levels()
    index = np.array([i for i, level in enumerate(levels) if level is not None], np.int32)
    if not len(index):
        raise SettingsError(f"{space} has no finite coordinate, so no point has neighbours")
    return np.array([levels[i] or 1 for i in index], np.int32), index
