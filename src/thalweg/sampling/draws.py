"""Random numbers of a step, all at once: a pass of the generator costs as much as a small step does."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray


def normals_and_uniforms(
    key: PRNGKeyArray, normals: int, uniforms: int
) -> tuple[Float[Array, "n"], Float[Array, "u"]]:
    r"""Standard normal numbers, \(\Phi^{-1}\) of uniform ones, and numbers uniform in [0, 1)."""
    draws = jax.random.uniform(key, (normals + uniforms,))
    inside = jnp.maximum(2 * draws[:normals] - 1, np.nextafter(np.float32(-1), np.float32(0)))
    return np.float32(np.sqrt(2)) * jax.lax.erf_inv(inside), draws[normals:]
