"""What the recursions along a chain share: the scores of its labellings, and messages between its places."""

import math

import equinox as eqx
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Bool, Float


class Scores(eqx.Module):
    r"""What a labelling of a chain scores: the sum of its terms.

    `places` (n, k); `pairs` (…, k, k) score label w after label u as `[u, …, w]`, with the labels between them on the
    axes between, and `start` (k,) the first label. A leading axis of n on both: of each place. `begins` where a
    sequence begins; where `mask` is False there is no label.
    """

    places: Float[Array, "n k"]
    start: Float[Array, "*n k"]
    pairs: Float[Array, "..."]
    begins: Bool[Array, "n"]
    mask: Bool[Array, "n"]

    @property
    def varying(self) -> bool:
        return self.start.ndim == 2

    @property
    def state(self) -> tuple[int, ...]:
        """The shape of a message: the labels that the next step has to know, the last of them the latest."""
        step = self.pairs.shape[1:] if self.varying else self.pairs.shape
        return step[:-1]

    def steps(self) -> tuple:
        """What the recursion reads at each place; tables that do not vary are left out."""
        tables = (self.start, self.pairs) if self.varying else (None, None)
        return (self.places, self.begins, self.mask, *tables)


def enter(
    reached: Float[Array, "..."], start: Float[Array, "k"], begins: Bool[Array, ""], nothing: float
) -> Float[Array, "..."]:
    """The message after a step: of what was reached, or of the first label where a sequence begins."""
    if reached.ndim == 1:
        return jnp.where(begins, start, reached)
    before = [(0, 0)] * reached.ndim
    before[-2] = (0, 1)
    inside = jnp.pad(reached, before, constant_values=nothing)
    corner = (-1,) * (inside.ndim - 1)
    return jnp.where(begins, jnp.full_like(inside, nothing).at[corner].set(start), inside)


def unpadded(message: Float[Array, "..."]) -> Float[Array, "..."]:
    """The part of a message that a step that begins nothing can have reached."""
    return message if message.ndim == 1 else message[..., :-1, :]


def last_axis(values: Float[Array, "k"], message: Float[Array, "... k"]) -> Float[Array, "... k"]:
    """Values of the latest label, with as many axes as a message."""
    return values.reshape((1,) * (message.ndim - 1) + (-1,))


@custom_vmap
def everywhere(flag: Bool[Array, ""]) -> Bool[Array, ""]:
    """Whether the flag is true for every member of the batch, so that `lax.cond` on it remains a choice."""
    return flag


@everywhere.def_vmap
def _of_the_batch(size, batched, flags):
    return everywhere(jnp.all(flags)), False


def finite(largest: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """The largest of some scores as something to take away: 0 where all are forbidden."""
    return jnp.where(jnp.isfinite(largest), largest, 0)


def even(shape: tuple[int, ...]) -> Float[Array, "..."]:
    """A message that says nothing."""
    return jnp.full(shape, 1 / math.prod(shape))
