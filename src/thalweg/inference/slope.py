"""What a gradient solver cannot follow: an energy that has no derivative, or one that is flat wherever it has one."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from thalweg.energy.base import AbstractEnergy
from thalweg.errors import SettingsError

#: Points at which a slope is looked for.
TRIED = 16


def has_derivative(energy: AbstractEnergy, y: Float[Array, "..."], x: PyTree) -> None:
    """Raise `SettingsError` where the energy is no function of JAX, or can be evaluated and not differentiated."""
    try:
        jax.eval_shape(energy, y, x)
    except jax.errors.TracerArrayConversionError as cause:
        raise SettingsError(
            f"{type(energy).__name__} turns its argument into an array of NumPy, which nothing can compile: write it "
            "in jax.numpy, or wrap it in jax.pure_callback and search without a slope, solver=Search()"
        ) from cause
    except Exception:
        return  # It cannot be evaluated: that error says more.
    try:
        jax.eval_shape(jax.grad(lambda y: energy(y, x)), y)
    except Exception as cause:
        lines = str(cause).strip().splitlines() or [""]
        raise SettingsError(
            f"{type(energy).__name__} has no derivative for a gradient solver to follow ({type(cause).__name__}: "
            f"{lines[0]}): write it in jax.numpy, give it one by jax.custom_jvp, or search without one, "
            "solver=Search()"
        ) from cause


def is_not_flat(energy: AbstractEnergy, y: Float[Array, "..."], x: PyTree) -> None:
    """Raise `SettingsError` where the energy differs between points and its slope is 0 at all of them, as of steps."""
    energies, slopes = map(np.asarray, _here_and_there(energy, y, x))
    if np.isfinite(energies).all() and np.ptp(energies) > 0 and not slopes.any():
        raise SettingsError(
            f"{type(energy).__name__} is flat between its steps: its energies differ and its slope is 0 at all of "
            f"{TRIED + 1} points, so that a gradient solver cannot move; round nothing, or search without a slope, "
            "solver=Search()"
        )


@eqx.filter_jit
def _here_and_there(energy: AbstractEnergy, y: Array, x: PyTree) -> tuple[Array, Array]:
    """The energy and its slope at `y` and at reference points of the space."""
    keys = jax.random.split(jax.random.key(0), TRIED)
    points = jnp.concatenate([y[None], jax.vmap(lambda key: energy.space.draw(key=key))(keys)])
    return jax.vmap(jax.value_and_grad(lambda y: energy(y, x)))(points)
