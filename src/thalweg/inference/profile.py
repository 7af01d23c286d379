"""The energy along one coordinate: the one place where its exact shortcut is chosen."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from thalweg.energy.base import AbstractEnergy
from thalweg.energy.capabilities import AbstractColumnConditional, AbstractMarginal
from thalweg.errors import NotAnswered


def profile(
    energy: AbstractEnergy,
    y: Float[Array, "..."],
    index: Int[Array, ""] | int,
    values: Float[Array, "v"],
    observed: Bool[Array, "..."] | None = None,
    x: PyTree = None,
) -> Float[Array, "v"]:
    r"""\(F(y_{index} = v, y_{observed})\) for each candidate `v`, in nats up to one constant; `index` counts
    coordinates in C order and may be traced.

    By the energy's own conditional of a column, else by its marginal, else by evaluating it at each
    candidate, for which every other coordinate must be observed (None: all are). Raises `NotAnswered` where
    one is not.
    """
    index = jnp.asarray(index)
    known = jnp.ones(jnp.shape(y), bool) if observed is None else jnp.asarray(observed)
    if isinstance(energy, AbstractColumnConditional):
        return energy.column_energies(y, index, values, known, x)
    known = _put(known, index, True)
    if isinstance(energy, AbstractMarginal):
        return jax.vmap(lambda v: energy.marginal(_put(y, index, v), known, x))(values)
    if observed is not None:
        y = _require_all(y, known, type(energy).__name__)
    return jax.vmap(lambda v: energy(_put(y, index, v), x))(values)


def _put(y, index, value):
    return jnp.ravel(y).at[index].set(value).reshape(jnp.shape(y))


def _require_all(y, known, name):
    message = (
        f"{name} cannot marginalise: fill in the other missing coordinates first, or use an energy that is "
        f"an "
        "AbstractMarginal or an AbstractColumnConditional"
    )
    missing = ~jnp.all(known)
    if isinstance(missing, jax.core.Tracer):
        return eqx.error_if(y, missing, message)
    if missing:
        raise NotAnswered(message)
    return y
