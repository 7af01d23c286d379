r"""The log-sum-exp recursion along a chain by logarithms: exact for any scores.

\[ \alpha_t(w) = s_t(w) + \log \sum_u e^{\alpha_{t-1}(u) + S(u, w)}, \qquad \log Z = \log \sum_w e^{\alpha_n(w)}. \]

`thalweg.energy.sumproduct` comes here where products are not exact.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from thalweg.energy.base import Scalar
from thalweg.energy.scores import Scores, enter, even, finite, last_axis, unpadded


class Moments(NamedTuple):
    """log Z and its derivatives: in the scores of places and of pairs."""

    log_z: Scalar
    places: Float[Array, "n k"]
    pairs: Float[Array, "..."]


def log_partition_in_logs(scores: Scores) -> Scalar:
    """log Z by logarithms at every step: exact for any scores, and slow."""
    return jnp.sum(ahead_in_logs(scores)[2])


def ahead_in_logs(scores: Scores) -> tuple[Float[Array, "n ..."], Float[Array, "n ..."], Float[Array, "n"]]:
    """The logarithm of the message before and after each place, and of what it was divided by."""

    def step(message, at):
        place, begins, mask, start, pairs = at
        start, pairs = (start, pairs) if scores.varying else (scores.start, scores.pairs)
        reached = log_sum(message[..., None] + pairs, axis=0)
        weighted = enter(reached, start, begins, -jnp.inf) + last_axis(place, message)
        total = log_sum(jnp.ravel(weighted), axis=0)
        after = jnp.where(mask, weighted - finite(total), message)
        return after, (message, after, jnp.where(mask, total, 0.0))

    return jax.lax.scan(step, jnp.log(even(scores.state)), scores.steps())[1]


def moments_in_logs(scores: Scores) -> Moments:
    """What `Moments` holds, by logarithms; those of pairs are summed on the way back."""
    before, after, totals = ahead_in_logs(scores)

    def step(carry, at):
        message, summed = carry
        earlier, now, (place, begins, mask, _, pairs) = at
        pairs = pairs if scores.varying else scores.pairs
        both = now + message
        overlap = finite(log_sum(jnp.ravel(both), axis=0))
        marginal = jnp.where(mask, jnp.exp(both - overlap), 0)
        onward = unpadded(message + last_axis(place, message))
        joint = earlier[..., None] + pairs + onward[None]
        total = finite(log_sum(jnp.ravel(joint), axis=0))
        pair = jnp.where(mask & ~begins, jnp.exp(joint - total), 0)
        back = log_sum(pairs + onward[None], axis=-1)
        back = jnp.where(begins, jnp.log(even(scores.state)), back - finite(jnp.max(back)))
        moved = jnp.where(mask, back, message)
        found = (marginal, pair) if scores.varying else (marginal, None)
        return (moved, None if scores.varying else summed + pair), found

    summed = None if scores.varying else jnp.zeros_like(scores.pairs)
    (_, summed), (both, varied) = jax.lax.scan(
        step, (jnp.log(even(scores.state)), summed), (before, after, scores.steps()), reverse=True
    )
    places = both.reshape(len(both), -1, both.shape[-1]).sum(axis=1)
    pairs = varied if scores.varying else summed
    assert pairs is not None
    return Moments(jnp.sum(totals), places, pairs)


def log_sum(values: Float[Array, "..."], axis: int) -> Float[Array, "..."]:
    """log-sum-exp whose derivative is 0 where all is forbidden."""
    largest = jax.lax.stop_gradient(finite(jnp.max(values, axis=axis, keepdims=True)))
    total = jnp.sum(jnp.exp(values - largest), axis=axis)
    some = total > 0
    return jnp.where(some, jnp.log(jnp.where(some, total, 1)) + jnp.squeeze(largest, axis), -jnp.inf)
