"""How an energy tells answers apart, for the guard: the answers of other rows stand for incorrect ones."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def contrast(
    y: Float[Array, "n ..."],
    other: Float[Array, "n ..."],
    right: Float[Array, "n"],
    beside: Float[Array, "n"],
) -> dict[str, Float[Array, ""]]:
    """`data_energy`, the mean energy of the answers `y`, `right`; `answer_spread`, the root of the mean square of its
    difference to that of `other` answers to the same inputs, `beside`, where they are others; and `ahead`, how often it
    is the lower of the two, where they differ."""
    different = jnp.any((y != other).reshape(len(y), -1), axis=1) & jnp.isfinite(beside)
    square = jnp.where(different, jnp.where(different, beside - right, 0.0) ** 2, 0.0)
    spread = jnp.sqrt(jnp.sum(square) / jnp.maximum(jnp.sum(different, dtype=y.dtype), 1))
    lower, apart = different & (right < beside), different & (right != beside)
    ahead = jnp.sum(lower, dtype=y.dtype) / jnp.maximum(jnp.sum(apart, dtype=y.dtype), 1)
    return jax.lax.stop_gradient({"data_energy": jnp.mean(right), "answer_spread": spread, "ahead": ahead})
