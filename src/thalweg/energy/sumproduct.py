r"""The log-sum-exp recursion along a chain, and its derivatives.

\[ \alpha_t(w) = s_t(w) + \log \sum_u e^{\alpha_{t-1}(u) + S(u, w)}, \qquad \log Z = \log \sum_w e^{\alpha_n(w)}, \]

over *scores*, \(s = -\beta E\). With messages that sum to 1 a step is one matrix product, some ten times faster than
logarithms, and exact as long as no number that matters is flushed to zero. That is checked: the overlap of the
messages from both sides says what was lost (`EXACT`), and where a chain of a batch fails, the batch goes the slow way.

Baum, Petrie, Soules & Weiss (1970), *A maximization technique occurring in the statistical analysis of probabilistic
functions of Markov chains*; the scaling: Rabiner (1989), *A tutorial on hidden Markov models*.
"""

import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Bool, Float

from thalweg.energy.base import Scalar

#: A state is lost where its share of a message is below the least float, 1e-38; by then it must not matter. The share
#: of it in Z is 1e-38 / (overlap · scales), so it is below 1e-9 for each state and place.
EXACT = 1e-29
#: Enough without the messages from behind: what every state receives of the message before it.
CLEAR = 1e-14


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


def enter(reached: Float[Array, "..."], start: Float[Array, "k"], begins: Bool[Array, ""], nothing: float):
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


class Messages(NamedTuple):
    """Scaled messages: `ahead` sums to 1 after each place, `scale` is by what it was divided and `log_z` its total."""

    ahead: Float[Array, "n ..."]
    before: Float[Array, "n ..."]
    scale: Float[Array, "n"]
    least: Float[Array, "n"]
    log_z: Scalar


class Weights(NamedTuple):
    """The exponentials of scores, each group divided by its largest, and the logarithm of what was divided by."""

    places: Float[Array, "n k"]
    start: Float[Array, "*n k"]
    pairs: Float[Array, "..."]
    offset: Scalar


def weights_of(scores: Scores) -> Weights:
    place = jax.lax.stop_gradient(_finite(jnp.max(scores.places, axis=-1)))
    tables = [jnp.max(scores.start), jnp.max(scores.pairs)]
    start, pair = (jax.lax.stop_gradient(_finite(table)) for table in tables)
    offsets = place + jnp.where(scores.begins, start, pair)
    return Weights(
        jnp.exp(scores.places - place[:, None]),
        jnp.exp(scores.start - start),
        jnp.exp(scores.pairs - pair),
        jnp.sum(jnp.where(scores.mask, offsets, 0)),
    )


def _finite(largest: Float[Array, "*n"]) -> Float[Array, "*n"]:
    return jnp.where(jnp.isfinite(largest), largest, 0)


def _contract(message: Float[Array, "..."], pairs: Float[Array, "..."]) -> Float[Array, "..."]:
    return jnp.einsum("u...,u...w->...w", message, pairs, precision="highest")


def ahead(scores: Scores, weights: Weights) -> Messages:
    """The messages from the first place to the last."""

    def step(message, at):
        place, begins, mask, start, pairs = at
        start, pairs = (start, pairs) if scores.varying else (weights.start, weights.pairs)
        reached = _contract(message, pairs)
        weighted = enter(reached, start, begins, 0.0) * last_axis(place, message)
        total = jnp.sum(weighted)
        after = jnp.where(mask, weighted / total, message)
        free = begins | ~mask
        return after, (message, after, jnp.where(mask, total, 1.0), jnp.where(free, 1.0, jnp.min(reached)))

    tables = (weights.start, weights.pairs) if scores.varying else (None, None)
    at = (weights.places, scores.begins, scores.mask, *tables)
    _, (before, after, scale, least) = jax.lax.scan(step, _even(scores.state), at)
    return Messages(after, before, scale, least, jnp.sum(jnp.log(scale)) + weights.offset)


def behind(scores: Scores, weights: Weights) -> tuple[Float[Array, "n ..."], Float[Array, "n"]]:
    """The messages from the last place to the first, each with a sum of 1, and by what they were divided."""

    def step(message, at):
        place, begins, mask, pairs = at
        pairs = pairs if scores.varying else weights.pairs
        back = jnp.einsum(
            "u...w,...w->u...", pairs, unpadded(message * last_axis(place, message)), precision="highest"
        )
        total = jnp.where(mask & ~begins, jnp.sum(back), 1.0)
        before = jnp.where(mask, jnp.where(begins, _even(scores.state), back / total), message)
        return before, (message, total)

    pairs = weights.pairs if scores.varying else None
    at = (weights.places, scores.begins, scores.mask, pairs)
    _, found = jax.lax.scan(step, _even(scores.state), at, reverse=True)
    return found


def _even(shape: tuple[int, ...]) -> Float[Array, "..."]:
    return jnp.full(shape, 1 / math.prod(shape))


def log_partition_in_logs(scores: Scores) -> Scalar:
    """log Z by logarithms at every step: exact for any scores, and slow."""
    _, scale = filtered_in_logs(scores)
    return jnp.sum(scale)


def filtered_in_logs(scores: Scores) -> tuple[Float[Array, "n ..."], Float[Array, "n"]]:
    """The logarithm of the message after each place, of sum 1, and of what it was divided by."""

    @jax.checkpoint
    def step(message, at):
        place, begins, mask, start, pairs = at
        start, pairs = (start, pairs) if scores.varying else (scores.start, scores.pairs)
        reached = _log_sum(message[..., None] + pairs, axis=0)
        weighted = enter(reached, start, begins, -jnp.inf) + last_axis(place, message)
        total = _log_sum(jnp.ravel(weighted), axis=0)
        after = jnp.where(mask, weighted - _finite(total), message)
        return after, (after, jnp.where(mask, total, 0.0))

    return jax.lax.scan(step, jnp.log(_even(scores.state)), scores.steps())[1]


def _log_sum(values: Float[Array, "..."], axis: int) -> Float[Array, "..."]:
    """log-sum-exp whose derivative is 0 where all is forbidden."""
    largest = jax.lax.stop_gradient(_finite(jnp.max(values, axis=axis, keepdims=True)))
    total = jnp.sum(jnp.exp(values - largest), axis=axis)
    some = total > 0
    return jnp.where(some, jnp.log(jnp.where(some, total, 1)) + jnp.squeeze(largest, axis), -jnp.inf)


def both_ways(scores: Scores) -> tuple[Messages, Weights, Float[Array, "n ..."], Bool[Array, ""]]:
    """The messages from both sides, and whether nothing that matters was lost on the way."""
    weights = weights_of(scores)
    forth = ahead(scores, weights)
    back, divided = behind(scores, weights)
    overlap = jnp.sum((forth.ahead * back).reshape(len(back), -1), axis=-1)
    kept = overlap * forth.scale * divided > EXACT
    return forth, weights, back, jnp.all(kept | ~scores.mask)


@jax.custom_jvp
def log_partition(scores: Scores) -> Scalar:
    r"""\(\log Z\), the log-sum-exp of the scores of all labellings, in nats; -inf where all are forbidden.

    Differentiable any number of times. Several sequences in one row have the sum of theirs.
    """
    forth = ahead(scores, weights_of(scores))
    clear = everywhere(jnp.all(forth.least > CLEAR) & jnp.isfinite(forth.log_z))

    def checked():
        exact = both_ways(scores)[-1]
        return jax.lax.cond(everywhere(exact), lambda: forth.log_z, lambda: log_partition_in_logs(scores))

    return jax.lax.cond(clear, lambda: forth.log_z, checked)


@log_partition.defjvp
def _derivative(primals, tangents):
    (scores,), (moves,) = primals, tangents
    places, start, pairs = moves.places, moves.start, moves.pairs
    forth, weights, back, exact = both_ways(scores)

    def fast(places, start, pairs):
        return forth.log_z, _expected(scores, weights, forth, back, places, start, pairs)

    def slow(places, start, pairs):
        def of(*changed):
            arrays = eqx.tree_at(lambda s: (s.places, s.start, s.pairs), scores, changed)
            return log_partition_in_logs(arrays)

        at = (scores.places, scores.start, scores.pairs)
        return jax.jvp(of, at, (places, start, pairs))

    return jax.lax.cond(everywhere(exact), fast, slow, places, start, pairs)


def _expected(scores, weights, forth, back, places, start, pairs) -> Scalar:
    """The expectation of changes of the scores, linear in them: the derivative of log Z.

    Marginals of pairs are not formed: for one table and many chains its derivative is one matrix product.
    """
    both = forth.ahead * back
    overlap = jnp.sum(both.reshape(len(both), -1), axis=-1)
    counts = jnp.where(scores.mask, 1 / overlap, 0)
    marginals = jnp.einsum("t...w,t->tw", both, counts)
    first = jnp.where(scores.begins[:, None], marginals, 0)
    later = jnp.where(scores.begins, 0, counts / forth.scale)
    onward = jax.vmap(unpadded)(back * _between(weights.places, back.ndim) * _after(later, back.ndim))
    moved = weights.pairs * pairs
    letters = "tu...,tu...w->t...w" if scores.varying else "tu...,u...w->t...w"
    pair = jnp.einsum(letters, forth.before, moved, precision="highest") * onward
    begun = first if scores.varying else jnp.sum(first, axis=0)
    return jnp.sum(pair) + jnp.sum(marginals * places) + jnp.sum(begun * start)


def _between(values: Float[Array, "n k"], ndim: int) -> Float[Array, "n ... k"]:
    return values.reshape(len(values), *(1,) * (ndim - 2), -1)


def _after(values: Float[Array, "n"], ndim: int) -> Float[Array, "n ..."]:
    return values.reshape(len(values), *(1,) * (ndim - 1))
