r"""The points of a finite space, or of its free part, in order, and the energy of each.

Nothing is materialised but one number a point: the points are computed from their index, a chunk at a time.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from thalweg.energy.base import AbstractEnergy
from thalweg.energy.spaces import LARGEST_ENUMERATION, AbstractSpace, Record
from thalweg.errors import SettingsError


class Lattice(eqx.Module):
    """The points that agree with `start` but on the `free` coordinates, which take `sizes` values each."""

    start: Float[Array, "..."]
    free: tuple[int, ...] = eqx.field(static=True)
    sizes: tuple[int, ...] = eqx.field(static=True)

    @property
    def count(self) -> int:
        return math.prod(self.sizes)

    def at(self, index: Int[Array, ""]) -> Float[Array, "..."]:
        """The point of this rank in lexicographic order."""
        if not self.free:
            return self.start
        codes = jnp.stack(jnp.unravel_index(index, self.sizes)).astype(self.start.dtype)
        flat = jnp.ravel(self.start).at[jnp.array(self.free)].set(codes)
        return flat.reshape(self.start.shape)


def lattice(
    space: AbstractSpace,
    start: Float[Array, "..."] | None = None,
    observed: np.ndarray | None = None,
    largest: int = LARGEST_ENUMERATION,
) -> Lattice:
    """Every point of `space` that agrees with `start` where `observed`.

    Raises `SettingsError` where a free coordinate is real or the points are more than `largest`.
    """
    size = math.prod(space.shape)
    held = np.zeros(size, bool) if observed is None else np.asarray(observed, bool).reshape(size)
    levels = space.levels()
    free = tuple(i for i in range(size) if not held[i])
    real = [i for i in free if levels[i] is None]
    if real:
        raise SettingsError(
            f"the space is not finite: {named(space, real)} free and real, so it cannot be enumerated; "
            "use a gradient solver, or observe what is real"
        )
    sizes = tuple(levels[i] or 1 for i in free)
    if math.prod(sizes) > largest:
        raise SettingsError(
            f"{math.prod(sizes):,} points are more than the {largest:,} that are enumerated: observe more "
            "coordinates, or use coordinate-wise or alternating minimisation"
        )
    origin = jnp.zeros(space.shape, jnp.float32) if start is None else jnp.asarray(start)
    return Lattice(origin, free, sizes)


def energies(
    energy: AbstractEnergy, points: Lattice, x: PyTree = None, chunk: int = 4096
) -> Float[Array, "n"]:
    r"""\(F(y_i, x)\) of every point, computed (and differentiated) `chunk` points at a time."""
    chunk = min(chunk, points.count)

    def of_chunk(first: Int[Array, ""]) -> Float[Array, "chunk"]:
        rank = jnp.minimum(first + jnp.arange(chunk), points.count - 1)
        return jax.vmap(lambda i: energy(points.at(i), x))(rank)

    if chunk == points.count:
        return of_chunk(jnp.array(0))
    first = jnp.arange(0, points.count, chunk)
    return jax.lax.map(jax.checkpoint(of_chunk), first).reshape(-1)[: points.count]


def named(space: AbstractSpace, coordinates: list[int]) -> str:
    """'column 'age' is' or 'coordinates 0, 3 are', for a message; long lists are cut."""
    names = space.names if isinstance(space, Record) else None
    shown = ", ".join(repr(names[i]) if names else str(i) for i in coordinates[:5])
    shown += f" and {len(coordinates) - 5} more" if len(coordinates) > 5 else ""
    noun = "column" if names else "coordinate"
    return f"{noun} {shown} is" if len(coordinates) == 1 else f"{noun}s {shown} are"
