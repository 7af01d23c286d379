r"""The min-sum recursion along a chain: the best labellings, and draws by the same way back.

\[ \alpha_t(w) = E_t(w) + \min_u [\alpha_{t-1}(u) + E(u, w)]. \]

Only the minima are computed on the way forth; which label attained one is found on the way back, for the one label that
the path went through.

Viterbi (1967), *Error bounds for convolutional codes and an asymptotically optimum decoding algorithm*; several paths:
Forney (1973), *The Viterbi algorithm*; draws: Carter & Kohn (1994), *On Gibbs sampling for state space models*.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from thalweg.energy.logsum import ahead_in_logs
from thalweg.energy.scores import Scores, enter, everywhere, finite, last_axis
from thalweg.energy.sumproduct import both_ways

#: Labels for which the minimum is written out, which XLA turns into one loop over whole vectors.
WRITTEN_OUT = 64
#: Paths for which lists are merged by minima and maxima, rather than sorted.
MERGED = 4


def best_path(scores: Scores) -> Int[Array, "n"]:
    """The labelling of the largest score; 0 where there is no label."""
    messages = _largest(scores)
    return _way_back(scores, messages, lambda candidates, t: jnp.argmax(candidates))


def _largest(scores: Scores) -> Float[Array, "n ..."]:
    """The largest score of all that ends in each state, less a constant of the place; before each place, and after
    the last."""

    def step(message, at):
        place, begins, mask, start, pairs = at
        start, pairs = (start, pairs) if scores.varying else (scores.start, scores.pairs)
        reached = enter(_largest_step(message, pairs), start, begins, -jnp.inf)
        reached = reached + last_axis(place, message)
        after = jnp.where(mask, reached - finite(jnp.max(reached)), message)
        return after, message

    last, before = jax.lax.scan(step, jnp.zeros(scores.state), scores.steps())
    return jnp.concatenate([before, last[None]])


def _largest_step(message: Float[Array, "u ..."], pairs: Float[Array, "u ... w"]) -> Float[Array, "... w"]:
    if len(message) > WRITTEN_OUT:
        return jnp.max(message[..., None] + pairs, axis=0)
    return functools.reduce(jnp.maximum, [m[..., None] + p for m, p in zip(message, pairs, strict=True)])


def _way_back(
    scores: Scores,
    messages: Float[Array, "m ..."],
    choose: Callable[[Float[Array, "c"], Int[Array, ""]], Int[Array, ""]],
) -> Int[Array, "n"]:
    """A labelling, from the last place to the first: `choose` of the states by their scores at each step."""
    shape, n = scores.state, len(scores.mask)
    size, width = math.prod(shape), shape[0]
    last = jnp.unravel_index(choose(jnp.ravel(messages[-1]), jnp.int32(n)), shape)

    def step(state, at):
        t, message, (_, begins, mask, _, pairs) = at
        pairs = pairs if scores.varying else scores.pairs
        onward = message[(slice(None), *state[:-1])] + _at_labels(pairs, state)
        # One choice serves both cases: where a sequence begins, of all states in which another may have ended.
        padded = jnp.pad(onward, (0, size - width), constant_values=-jnp.inf)
        chosen = choose(jnp.where(begins, jnp.ravel(message), padded), t)
        anew = jnp.unravel_index(chosen, shape)
        on = (jnp.minimum(chosen, width - 1), *state[:-1])
        moved = tuple(jnp.where(begins, a, o) for a, o in zip(anew, on, strict=True))
        before = tuple(jnp.where(mask, m, s) for m, s in zip(moved, state, strict=True))
        return before, jnp.where(mask, state[-1], 0)

    places = (jnp.arange(n), messages[:-1], scores.steps())
    return jax.lax.scan(step, last, places, reverse=True)[1]


def _at_labels(pairs: Float[Array, "u ... w"], state: tuple[Int[Array, ""], ...]) -> Float[Array, "u"]:
    # A label between that is not there has no row among the pairs: it is read where a sequence begins only.
    inside = tuple(jnp.minimum(label, size - 1) for label, size in zip(state, pairs.shape[1:], strict=True))
    return pairs[(slice(None), *inside)]


def draw_path(scores: Scores, *, key: PRNGKeyArray) -> Int[Array, "n"]:
    """An exact draw of a labelling, with probability in proportion to the exponential of its score: the messages
    forth, and one state after another on the way back."""
    forth, *_, exact = both_ways(scores)
    logs = jax.lax.cond(everywhere(exact), lambda: jnp.log(forth.ahead), lambda: ahead_in_logs(scores)[1])
    messages = jnp.concatenate([jnp.zeros((1, *scores.state)), logs])
    noise = jax.random.gumbel(key, (len(messages), math.prod(scores.state)))
    return _way_back(scores, messages, lambda candidates, t: jnp.argmax(candidates + noise[t]))


def best_paths(scores: Scores, k: int) -> tuple[Int[Array, "k n"], Float[Array, "k"]]:
    """The `k` labellings of the largest scores, in order, and what is finite where there is one."""
    messages = _largest_lists(scores, k)
    final, first = jax.lax.top_k(jnp.ravel(messages[-1]), k)
    paths = jax.vmap(lambda at: _way_back_of_lists(scores, messages, at))(first)
    return paths, final


def _largest_lists(scores: Scores, k: int) -> Float[Array, "m ... k"]:
    """The `k` largest scores of what ends in each state, in order."""

    def step(message, at):
        place, begins, mask, start, pairs = at
        start, pairs = (start, pairs) if scores.varying else (scores.start, scores.pairs)
        reached = _largest_lists_step(message, pairs)
        ended = jax.lax.top_k(jnp.ravel(message), k)[0]
        entered = jax.vmap(enter, in_axes=(-1, -1, None, None), out_axes=-1)(
            reached, start[:, None] + ended[None], begins, -jnp.inf
        )
        weighted = entered + last_axis(place, entered[..., 0])[..., None]
        after = jnp.where(mask, weighted - finite(jnp.max(weighted)), message)
        return after, message

    nothing = jnp.full((math.prod(scores.state), k), -jnp.inf).at[0, 0].set(0.0)
    last, before = jax.lax.scan(step, nothing.reshape(*scores.state, k), scores.steps())
    return jnp.concatenate([before, last[None]])


def _largest_lists_step(
    message: Float[Array, "u ... k"], pairs: Float[Array, "u ... w"]
) -> Float[Array, "... w k"]:
    k = message.shape[-1]
    if k > MERGED or len(message) > WRITTEN_OUT:
        candidates = jnp.moveaxis(message[..., None, :] + pairs[..., None], 0, -2)
        return jax.lax.top_k(candidates.reshape(*candidates.shape[:-2], -1), k)[0]
    lists = [[message[u, ..., None, j] + pairs[u] for j in range(k)] for u in range(len(message))]
    return jnp.stack(functools.reduce(_merged, lists), axis=-1)


def _merged(a: list[Array], b: list[Array]) -> list[Array]:
    """The largest of two falling lists, as many as each has: the i-th is the largest of the lesser ones of each way to
    take i from both."""
    return [
        functools.reduce(jnp.maximum, [a[i], b[i], *(jnp.minimum(a[j], b[i - j - 1]) for j in range(i))])
        for i in range(len(a))
    ]


def _way_back_of_lists(
    scores: Scores, messages: Float[Array, "m ... k"], last: Int[Array, ""]
) -> Int[Array, "n"]:
    shape = messages.shape[1:]
    width, k = shape[0], shape[-1]
    final = jnp.unravel_index(last, shape)

    def step(at_state, at):
        *state, rank = at_state
        message, (_, begins, mask, _, pairs) = at
        pairs = pairs if scores.varying else scores.pairs
        onward = message[(slice(None), *state[:-1])] + _at_labels(pairs, tuple(state))[:, None]
        on = jnp.unravel_index(jax.lax.top_k(jnp.ravel(onward), k)[1][rank], (width, k))
        anew = jnp.unravel_index(jax.lax.top_k(jnp.ravel(message), k)[1][rank], shape)
        moved = (on[0], *state[:-1], on[1])
        chosen = [jnp.where(begins, a, o) for a, o in zip(anew, moved, strict=True)]
        before = tuple(jnp.where(mask, c, s) for c, s in zip(chosen, at_state, strict=True))
        return before, jnp.where(mask, state[-1], 0)

    return jax.lax.scan(step, final, (messages[:-1], scores.steps()), reverse=True)[1]
