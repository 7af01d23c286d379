"""Multilayer perceptrons that start after their first layer, so that a caller may build that layer by itself."""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from thalweg.errors import SettingsError
from thalweg.nn.initial import Initial


def linear_weights(
    initial: Initial, *lead: int, rows: int, columns: int, fan_in: int | None = None
) -> Float[Array, "..."]:
    """Normal weights of variance 1/fan_in, shape (*lead, rows, columns); LeCun, Bottou, Orr & Müller (1998)."""
    return initial.normal((*lead, rows, columns), 1 / math.sqrt(fan_in or rows))


class Trunk(eqx.Module):
    r"""Hidden layers after a first pre-activation: \(h_0 = \phi(a)\), \(h_{l+1} = h_l + \phi(W_l h_l + b_l)\).

    Dropout follows each activation while a `key` is given and the module is not in inference mode. `lead` are the
    leading axes of several networks in one.
    """

    weights: tuple[Float[Array, "h h"], ...]
    biases: tuple[Float[Array, "h"], ...]
    dropout: eqx.nn.Dropout
    activation: Callable = eqx.field(static=True)

    def __init__(self, width: int, layers: int, *lead: int, dropout: float = 0.0, initial: Initial):
        if width < 1 or layers < 1:
            raise SettingsError(f"a network needs at least one layer of one unit, not {layers} of {width}")
        above = range(layers - 1)
        self.weights = tuple(linear_weights(initial, *lead, rows=width, columns=width) for _ in above)
        self.biases = tuple(initial.zeros(*lead, width) for _ in above)
        self.dropout = eqx.nn.Dropout(dropout)
        self.activation = jax.nn.silu

    def __call__(self, a: Float[Array, "h"], *, key: PRNGKeyArray | None = None) -> Float[Array, "h"]:
        # Drawn for all layers at once: each draw is a program's dozen of loops.
        ones = jnp.ones((len(self.weights) + 1, len(a)))
        kept = self.dropout(ones, key=key, inference=True if key is None else None)
        h = kept[0] * self.activation(a)
        for weight, bias, share in zip(self.weights, self.biases, kept[1:], strict=True):
            h = h + share * self.activation(h @ weight + bias)
        return h
