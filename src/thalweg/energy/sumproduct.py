r"""The log-sum-exp recursion along a chain by matrix products, and its derivatives.

\[ a_t(w) \propto e^{s_t(w)} \sum_u a_{t-1}(u)\, e^{S(u, w)}, \qquad \sum_w a_t(w) = 1, \]

over *scores*, \(s = -\beta E\). With messages that sum to 1 a step is one matrix product, some ten times faster than
logarithms, and exact as long as no number that matters is flushed to zero. That is checked: the overlap of the messages
from both sides says what was lost (`EXACT`). Where a chain of a batch fails, the batch goes by logarithms.

Baum, Petrie, Soules & Weiss (1970), *A maximization technique occurring in the statistical analysis of probabilistic
functions of Markov chains*; the scaling: Rabiner (1989), *A tutorial on hidden Markov models*.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from thalweg.energy.base import Scalar
from thalweg.energy.logsum import Moments, log_partition_in_logs, moments_in_logs
from thalweg.energy.scores import Scores, enter, even, everywhere, finite, last_axis, unpadded

#: A state is lost where its share of a message is below the least float, 1e-38; by then it must not matter. The share
#: of it in Z is 1e-38 / (overlap · scales), so it is below 1e-11 for each state and place.
EXACT = 1e-27
#: Enough without the messages from behind: what every state receives of the message before it.
CLEAR = 1e-14


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
    place = jax.lax.stop_gradient(finite(jnp.max(scores.places, axis=-1)))
    tables = [jnp.max(scores.start), jnp.max(scores.pairs)]
    start, pair = (jax.lax.stop_gradient(finite(table)) for table in tables)
    offsets = place + jnp.where(scores.begins, start, pair)
    return Weights(
        jnp.exp(scores.places - place[:, None]),
        jnp.exp(scores.start - start),
        jnp.exp(scores.pairs - pair),
        jnp.sum(jnp.where(scores.mask, offsets, 0)),
    )


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
    _, (before, after, scale, least) = jax.lax.scan(step, even(scores.state), at)
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
        before = jnp.where(mask, jnp.where(begins, even(scores.state), back / total), message)
        return before, (message, total)

    pairs = weights.pairs if scores.varying else None
    at = (weights.places, scores.begins, scores.mask, pairs)
    _, found = jax.lax.scan(step, even(scores.state), at, reverse=True)
    return found


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


class Factors(NamedTuple):
    r"""The marginal of a pair is `before` · \(e^{pairs}\) · `onward`; left as factors, since for many chains with one
    table the sum over all of them is then a matrix product a place."""

    before: Float[Array, "n u ..."]
    onward: Float[Array, "n ... w"]


def moments(scores: Scores) -> tuple[Moments, Factors]:
    """By products, where they are exact; else what is to be added for pairs, by logarithms, and no factors."""
    forth, weights, back, exact = both_ways(scores)
    exact = everywhere(exact)
    both = forth.ahead * back
    overlap = jnp.sum(both.reshape(len(both), -1), axis=-1)
    counts = jnp.where(scores.mask & exact, 1 / overlap, 0)
    later = jnp.where(scores.begins, 0, counts / forth.scale)
    onward = back * (later[:, None] * weights.places).reshape(len(both), *(1,) * (both.ndim - 2), -1)
    onward = jax.vmap(unpadded)(onward)
    fast = Moments(forth.log_z, jnp.einsum("t...w,t->tw", both, counts), jnp.zeros_like(scores.pairs))
    slow = jax.lax.cond(exact, lambda: jax.tree.map(jnp.zeros_like, fast), lambda: moments_in_logs(scores))
    found = jax.tree.map(lambda f, s: jnp.where(exact, f, s), fast, slow)
    return found, Factors(*(jnp.where(exact, factor, 0) for factor in (forth.before, onward)))


@log_partition.defjvp
def _derivative(primals, tangents):
    (scores,), (moves,) = primals, tangents
    (log_z, places, pairs), factors = moments(scores)
    first = jnp.where(scores.begins[:, None], places, 0)
    first = first if scores.varying else jnp.sum(first, axis=0)
    moved = weights_of(scores).pairs * moves.pairs

    def step(total, at):
        before, onward, table = at
        table = table if scores.varying else moved
        return total + jnp.sum(_contract(before, table) * onward), None

    # A step a place, as the messages were made: as one product XLA would first turn all of them around.
    tables = moved if scores.varying else None
    change, _ = jax.lax.scan(step, jnp.zeros(()), (*factors, tables))
    change = change + jnp.sum(pairs * moves.pairs)
    return log_z, change + jnp.sum(places * moves.places) + jnp.sum(first * moves.start)
