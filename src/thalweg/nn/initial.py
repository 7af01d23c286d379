"""What the arrays of a network are before training, drawn on the host.

For JAX each shape is a program of its own, and compiling those of a network took longer than its first two hundred
training steps.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

Shape = tuple[int, ...]


class Initial(NamedTuple):
    """`normal(shape, deviation)`: normal numbers around 0; `constant(shape, values)`: what `values()` returns,
    repeated; `permutations(n, d)`: n orderings of 0 to d - 1."""

    normal: Callable[[Shape, float], Float[Array, "..."]]
    constant: Callable[[Shape, Callable[[], np.ndarray | float]], Float[Array, "..."]]
    permutations: Callable[[int, int], Int[Array, "n d"]]

    def zeros(self, *shape: int) -> Float[Array, "..."]:
        return self.constant(shape, lambda: 0.0)


def drawn(key: PRNGKeyArray) -> Initial:
    """Arrays that are a function of the key."""
    generator = np.random.default_rng(np.asarray(jax.random.key_data(key)))

    def permutations(n: int, d: int) -> Int[Array, "n d"]:
        rows = np.broadcast_to(np.arange(d, dtype=np.int32), (n, d))
        return jnp.asarray(generator.permuted(rows, axis=1))

    return Initial(
        lambda shape, deviation: jnp.asarray(
            np.float32(deviation) * generator.standard_normal(shape, np.float32)
        ),
        lambda shape, values: jnp.asarray(np.broadcast_to(np.asarray(values(), np.float32), shape)),
        permutations,
    )


#: Shapes alone, by operations that `jax.eval_shape` follows without allocating anything.
OUTLINE = Initial(
    lambda shape, deviation: jnp.zeros(shape),
    lambda shape, values: jnp.zeros(shape),
    lambda n, d: jnp.zeros((n, d), jnp.int32),
)
