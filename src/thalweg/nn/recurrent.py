r"""A gated recurrent network that reads ragged sequences laid one after another, in both directions.

\[ r, u = \sigma(W x + U h + b), \qquad c = \tanh(W_c x + r \odot U_c h + b_c), \qquad h \leftarrow u \odot h + (1 - u)
\odot c \]

Cho, van Merriënboer, Gulcehre, Bahdanau, Bougares, Schwenk & Bengio (2014), *Learning phrase representations using RNN
encoder–decoder for statistical machine translation*; both directions: Schuster & Paliwal (1997), *Bidirectional
recurrent neural networks*.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from thalweg.nn.initial import Initial
from thalweg.nn.mlp import linear_weights


class Gated(eqx.Module):
    """One direction: `inward` (f, 3h) of what is read, `onward` (h, 3h) of the state before."""

    inward: Float[Array, "f g"]
    onward: Float[Array, "h g"]
    bias: Float[Array, "g"]

    def __init__(self, features: int, width: int, initial: Initial):
        self.inward = linear_weights(initial, rows=features, columns=3 * width)
        self.onward = linear_weights(initial, rows=width, columns=3 * width)
        self.bias = initial.zeros(3 * width)

    def __call__(
        self, x: Float[Array, "n f"], mask: Bool[Array, "n"], starts: Bool[Array, "n"]
    ) -> Float[Array, "n h"]:
        """The state after each element; it is forgotten where a sequence starts, and skips what is not there."""
        width = len(self.onward)

        def step(h, inputs):
            a, there, first = inputs
            h = jnp.where(first, 0.0, h)
            gates = a[: 2 * width] + h @ self.onward[:, : 2 * width]
            reset, keep = jnp.split(jax.nn.sigmoid(gates), 2)
            candidate = jnp.tanh(a[2 * width :] + reset * (h @ self.onward[:, 2 * width :]))
            h = jnp.where(there, keep * h + (1 - keep) * candidate, h)
            return h, h

        # What is read does not wait for the state: one product for all elements.
        _, states = jax.lax.scan(step, jnp.zeros(width), (x @ self.inward + self.bias[None], mask, starts))
        return states


class BothWays(eqx.Module):
    """The states of two networks side by side (n, 2h): one reads onwards, one back."""

    onwards: Gated
    back: Gated

    def __init__(self, features: int, width: int, initial: Initial):
        self.onwards = Gated(features, width, initial)
        self.back = Gated(features, width, initial)

    def __call__(
        self, x: Float[Array, "n f"], mask: Bool[Array, "n"], starts: Bool[Array, "n"]
    ) -> Float[Array, "n 2h"]:
        ends = jnp.append(starts[1:], True)
        back = self.back(x[::-1], mask[::-1], ends[::-1])[::-1]
        return jnp.concatenate([self.onwards(x, mask, starts), back], axis=1)
