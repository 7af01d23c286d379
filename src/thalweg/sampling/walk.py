"""Many chains, many steps: the loops that everything else calls."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from thalweg.sampling.kernel import AbstractKernel, Info, State
from thalweg.sampling.target import Target

#: The most chains that a processor moves together.
AT_ONCE = 1024


def each(target: Target) -> tuple[Array | None, Array | None]:
    """What differs between chains: the held values and where they are (a leading axis of chains, or None)."""
    return target.held, target.observed


def start_all(target: Target, kernel: AbstractKernel, y: Float[Array, "chains ..."]) -> State:
    """The states of all chains at these points."""

    def start(y, held, observed):
        own = replace(target, held=held, observed=observed)
        return kernel.init(own, own.coordinates(y))

    return jax.vmap(start)(y, *each(target))


def step_all(
    target: Target, kernel: AbstractKernel, states: State, turn: int | Array, *, keys: PRNGKeyArray
) -> tuple[State, Info]:
    """One step of every chain, by its own key and the number of the step."""

    def step(state, held, observed, key):
        own = replace(target, held=held, observed=observed)
        return kernel.step(own, state, key=jax.random.fold_in(key, turn))

    return jax.vmap(step)(states, *each(target), keys)


def points_of(target: Target, states: State) -> Float[Array, "chains ..."]:
    """The points of the space at which the chains are."""

    def point(u, held, observed):
        return replace(target, held=held, observed=observed).point(u)

    return jax.vmap(point)(states.position, *each(target))


class Walked(eqx.Module):
    """The ends of short chains, and how their steps went on average."""

    points: Float[Array, "chains ..."]
    energies: Float[Array, "chains"]
    acceptance: Float[Array, ""]
    divergent: Float[Array, ""]


def walk(
    target: Target,
    kernel: AbstractKernel,
    y: Float[Array, "chains ..."],
    steps: int | Array,
    *,
    key: PRNGKeyArray,
) -> Walked:
    """`steps` of the kernel from each of `y`, inside compiled code and without a history: what learning needs.

    On a processor many chains go some `AT_ONCE` at a time, each part to its end before the next begins: what they carry
    then stays in the cache.
    """
    chains = len(y)

    def together(y, held, observed, key):
        own, keys = replace(target, held=held, observed=observed), jax.random.split(key, len(y))

        def step(i, carry):
            states, acceptance, divergent = carry
            states, info = step_all(own, kernel, states, i, keys=keys)
            mean = jnp.mean(info.acceptance.astype(jnp.float32))
            return states, acceptance + mean, divergent + jnp.mean(info.divergent.astype(jnp.float32))

        start = start_all(own, kernel, y), jnp.zeros(()), jnp.zeros(())
        states, acceptance, divergent = jax.lax.fori_loop(0, steps, step, start)
        count = jnp.asarray(steps, jnp.float32)
        return Walked(points_of(own, states), states.energy, acceptance / count, divergent / count)

    if chains <= AT_ONCE or jax.default_backend() != "cpu":
        return together(y, *each(target), key)
    parts = -(-chains // AT_ONCE)
    # The last part is filled up with chains of the first.
    rows = jnp.arange(parts * -(-chains // parts), dtype=jnp.int32).reshape(parts, -1) % chains

    def part(now):
        rows, key = now
        held, observed = (None if a is None else a[rows] for a in each(target))
        return together(y[rows], held, observed, key)

    ends = jax.lax.map(part, (rows, jax.random.split(key, parts)))
    points, energies = (a.reshape(-1, *a.shape[2:])[:chains] for a in (ends.points, ends.energies))
    return Walked(points, energies, jnp.mean(ends.acceptance), jnp.mean(ends.divergent))
