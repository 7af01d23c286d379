"""Many chains, many steps: the loops that everything else calls."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from thalweg.sampling.kernel import AbstractKernel, Info, State
from thalweg.sampling.target import Target


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
    target: Target, kernel: AbstractKernel, states: State, *, key: PRNGKeyArray
) -> tuple[State, Info]:
    """One step of every chain."""

    def step(state, held, observed, key):
        return kernel.step(replace(target, held=held, observed=observed), state, key=key)

    chains = states.potential.shape[0]
    return jax.vmap(step)(states, *each(target), jax.random.split(key, chains))


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
    """`steps` of the kernel from each of `y`, inside compiled code and without a history: what learning needs."""

    def step(i, carry):
        states, acceptance, divergent = carry
        states, info = step_all(target, kernel, states, key=jax.random.fold_in(key, i))
        mean = jnp.mean(info.acceptance.astype(jnp.float32))
        return states, acceptance + mean, divergent + jnp.mean(info.divergent.astype(jnp.float32))

    start = start_all(target, kernel, y), jnp.zeros(()), jnp.zeros(())
    states, acceptance, divergent = jax.lax.fori_loop(0, steps, step, start)
    count = jnp.asarray(steps, jnp.float32)
    return Walked(points_of(target, states), states.energy, acceptance / count, divergent / count)
