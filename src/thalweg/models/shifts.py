"""Pictures that are moved by a few pixels at random, so that a network learns not to mind."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from thalweg.learning.groups import Groups
from thalweg.learning.objective import AbstractAround, AbstractObjective
from thalweg.models.inputs import Inputs


class Shifted(AbstractAround):
    """An objective of `Groups` of rows, whose pictures are moved by up to `most` pixels along each axis.

    What comes in at a border repeats it. Moved anew at each step; the columns beside the picture stay.
    """

    objective: AbstractObjective
    inputs: Inputs
    most: int = eqx.field(static=True)

    def __call__(self, energy, batch, memory, *, key):
        move_key, key = jax.random.split(key)
        values, observed = batch.rows
        keys = jax.random.split(move_key, values.shape[:2])
        moved = jax.vmap(jax.vmap(self.moved))(values, observed, keys)
        known = observed.at[..., self._pixels].set(True)
        return self.objective(energy, Groups((moved, known), batch.of, batch.present), memory, key=key)

    @property
    def _pixels(self) -> np.ndarray:
        return self.inputs.index[self.inputs.canvas.pixels]

    def moved(self, y: Float[Array, "d"], observed: Bool[Array, "d"], key: PRNGKeyArray) -> Float[Array, "d"]:
        """The row with its picture moved; a missing pixel is what it reads as."""
        canvas, pixels = self.inputs.canvas, self._pixels
        picture = self.inputs.picture(y, observed)
        wide = jnp.pad(picture, ((self.most, self.most), (self.most, self.most), (0, 0)), mode="edge")
        row, column = jax.random.randint(key, (2,), 0, 2 * self.most + 1)
        seen = jax.lax.dynamic_slice(wide, (row, column, 0), picture.shape)
        codes = jnp.ravel(seen)[canvas.place] / canvas.factor + canvas.center
        return y.at[pixels].set(codes.astype(y.dtype))
