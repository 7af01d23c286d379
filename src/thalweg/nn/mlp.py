"""Multilayer perceptrons that start after their first layer, so that a caller may build that layer by itself."""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from thalweg.errors import SettingsError


def linear_weights(key: PRNGKeyArray, rows: int, columns: int, fan_in: int | None = None) -> Array:
    """Normal weights of variance 1/fan_in, shape (rows, columns); LeCun, Bottou, Orr & Müller (1998)."""
    return jax.random.normal(key, (rows, columns)) / math.sqrt(fan_in or rows)


class Trunk(eqx.Module):
    r"""Hidden layers after a first pre-activation: \(h_0 = \phi(a)\), \(h_{l+1} = h_l + \phi(W_l h_l + b_l)\).

    Dropout follows each activation while a `key` is given and the module is not in inference mode.
    """

    weights: tuple[Float[Array, "h h"], ...]
    biases: tuple[Float[Array, "h"], ...]
    dropout: eqx.nn.Dropout
    activation: Callable = eqx.field(static=True)

    def __init__(self, width: int, layers: int, *, dropout: float = 0.0, key: PRNGKeyArray):
        if width < 1 or layers < 1:
            raise SettingsError(f"a network needs at least one layer of one unit, not {layers} of {width}")
        keys = jax.random.split(key, max(layers - 1, 1))
        self.weights = tuple(linear_weights(keys[i], width, width) for i in range(layers - 1))
        self.biases = tuple(jnp.zeros(width) for _ in range(layers - 1))
        self.dropout = eqx.nn.Dropout(dropout)
        self.activation = jax.nn.silu

    def __call__(self, a: Float[Array, "h"], *, key: PRNGKeyArray | None = None) -> Float[Array, "h"]:
        depth = len(self.weights) + 1
        keys = [None] * depth if key is None else list(jax.random.split(key, depth))
        off = True if key is None else None
        h = self.dropout(self.activation(a), key=keys[0], inference=off)
        for weight, bias, k in zip(self.weights, self.biases, keys[1:], strict=True):
            h = h + self.dropout(self.activation(h @ weight + bias), key=k, inference=off)
        return h
