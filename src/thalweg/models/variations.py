"""Pictures that are moved, mirrored and lit otherwise at random, so that a network learns not to mind."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from thalweg.learning.groups import Groups
from thalweg.learning.objective import AbstractAround, AbstractObjective
from thalweg.models.inputs import Inputs


class Varied(AbstractAround):
    r"""An objective of `Groups` of rows whose pictures are varied anew at each step; the columns beside them stay.

    Moved by up to `shift` pixels along each axis, with the border repeated; mirrored, left for right, half of the time;
    and \(p \mapsto e^{a} p + b\) with \(a, b \sim N(0, light^2)\), in deviations of the pixels.
    """

    objective: AbstractObjective
    inputs: Inputs
    shift: int = eqx.field(static=True, default=0)
    mirror: bool = eqx.field(static=True, default=False)
    light: float = eqx.field(static=True, default=0.0)

    def __call__(self, energy, batch, memory, *, key):
        vary_key, key = jax.random.split(key)
        values, observed = batch.rows
        keys = jax.random.split(vary_key, values.shape[:2])
        varied = jax.vmap(jax.vmap(self.varied))(values, observed, keys)
        known = observed.at[..., self._pixels].set(True)
        return self.objective(energy, Groups((varied, known), batch.of, batch.present), memory, key=key)

    @property
    def _pixels(self) -> np.ndarray:
        return self.inputs.index[self.inputs.canvas.pixels]

    def varied(
        self, y: Float[Array, "d"], observed: Bool[Array, "d"], key: PRNGKeyArray
    ) -> Float[Array, "d"]:
        """The row with its picture varied; a missing pixel is what it reads as."""
        canvas, picture = self.inputs.canvas, self.inputs.picture(y, observed)
        move_key, mirror_key, light_key = jax.random.split(key, 3)
        if self.shift:
            around = (self.shift, self.shift)
            wide = jnp.pad(picture, (around, around, (0, 0)), mode="edge")
            row, column = jax.random.randint(move_key, (2,), 0, 2 * self.shift + 1)
            picture = jax.lax.dynamic_slice(wide, (row, column, 0), picture.shape)
        if self.mirror:
            picture = jnp.where(jax.random.bernoulli(mirror_key), picture[:, ::-1], picture)
        if self.light:
            a, b = self.light * jax.random.normal(light_key, (2,))
            picture = jnp.exp(a) * picture + b
        codes = jnp.ravel(picture)[canvas.place] / canvas.factor + canvas.center
        return y.at[self._pixels].set(codes.astype(y.dtype))
