r"""Draws from \(e^{-\beta F(y, x)}\)."""

import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from thalweg.energy.base import AbstractEnergy
from thalweg.energy.capabilities import AbstractGibbs
from thalweg.errors import ChainWarning, SettingsError
from thalweg.progress import Show, next_pace, progress_bar
from thalweg.sampling.chains import Chains
from thalweg.sampling.cycle import Cycle
from thalweg.sampling.gibbs import Gibbs
from thalweg.sampling.kernel import AbstractKernel, State
from thalweg.sampling.nuts import NUTS
from thalweg.sampling.target import Target
from thalweg.sampling.walk import points_of, start_all, step_all
from thalweg.sampling.warmup import WarmUp, Windows, windows

_THROW = NUTS()


def sample(
    energy: AbstractEnergy,
    *,
    key: PRNGKeyArray,
    kernel: AbstractKernel | None = None,
    chains: int = 4,
    steps: int = 1000,
    warmup: int = 1000,
    thin: int = 1,
    start: Float[Array, "..."] | None = None,
    x: PyTree = None,
    observed: Bool[Array, "..."] | None = None,
    beta: float = 1.0,
    folded: bool = False,
    progress: bool = True,
) -> Chains:
    r"""Chains whose draws have the density \(\propto e^{-\beta F(y, x)}\).

    `kernel` is by default what suits the space: NUTS for numbers, Gibbs for what is finite, both in turn for a row
    with both. `warmup` steps tune it and are thrown away; then `steps` are taken and one in `thin` is kept. `start` is
    a point, or one for each chain (default: reference points of the space); where `observed` (of the shape of a point,
    or with an axis of chains) it is held, and the draws are those of the conditional. Bounded spaces are transformed,
    or `folded`: reflected at their faces. `progress` draws a bar on a terminal.

    Raises `SettingsError` for a kernel that does not suit the space and a start that is no point of it, and warns
    (`ChainWarning`) where the chains are not to be trusted, with the remedy.
    """
    target, points = _checked(energy, key, chains, start, x, observed, beta, folded)
    for name, count, least in (
        ("steps", steps, 1),
        ("warmup", warmup, 0),
        ("thin", thin, 1),
        ("chains", chains, 1),
    ):
        if count < least:
            raise SettingsError(f"{name} must be at least {least}, not {count}")
    kernel = default_kernel(energy) if kernel is None else kernel
    kernel.check(target)
    tune_key, walk_key = jax.random.split(jax.random.fold_in(key, 1))
    states, draws = _start(target, kernel, points), max(1, steps // thin)
    _check_start(states)
    with progress_bar(progress, "sampling", warmup + draws * thin) as show:
        if warmup:
            kernel, states = _warmed(target, kernel, states, warmup, tune_key, show)
        found = _draws(target, kernel, states, walk_key, draws, thin, lambda i: show(warmup + i * thin, ""))
    space = energy.space
    held = np.zeros((chains, *space.shape), bool) if target.observed is None else np.asarray(target.observed)
    fixed = np.where(held, np.asarray(points), 0.0)
    alike = bool((held == held[:1]).all() and (fixed == fixed[:1]).all())
    result = Chains(**found, kernel=kernel, space=space, held=held, alike=alike, thin=thin)
    if complaints := result.complaints():
        warnings.warn("\n".join(complaints), ChainWarning, stacklevel=2)
    return result


def default_kernel(energy: AbstractEnergy, numbers: AbstractKernel = _THROW) -> AbstractKernel:
    """What suits the space: `numbers` (NUTS) for them, Gibbs for what is finite, or both in turn."""
    levels = energy.space.levels()
    if isinstance(energy, AbstractGibbs) or all(level is not None for level in levels):
        return Gibbs()
    if all(level is None for level in levels):
        return numbers
    return Cycle((numbers, Gibbs()))


@eqx.filter_jit
def _start(target: Target, kernel: AbstractKernel, points: Array) -> State:
    return start_all(target, kernel, points)


@eqx.filter_jit
def _again(target: Target, kernel: AbstractKernel, states: State) -> State:
    """The states as the tuned kernel would begin them: of one structure with what its steps return."""
    return start_all(target, kernel, points_of(target, states))


def _warmed(
    target: Target, kernel: AbstractKernel, states: State, steps: int, key: PRNGKeyArray, show: Show
) -> tuple[AbstractKernel, State]:
    """The tuned kernel, and the states after warm-up as it would begin them."""
    plan = windows(steps)

    def onwards(at, first, until):
        return _onwards(at, target, kernel, plan, first, until, key)

    end, _ = _in_dispatches(onwards, _unwarmed(target, kernel, states), steps, lambda i: show(i, "warm-up"))
    kernel = end.settled(kernel)
    return kernel, _again(target, kernel, end.states)


_unwarmed = eqx.filter_jit(WarmUp.begin)


@eqx.filter_jit
def _onwards(
    at: WarmUp,
    target: Target,
    kernel: AbstractKernel,
    plan: Windows,
    first: Array,
    until: Array,
    key: PRNGKeyArray,
) -> WarmUp:
    return at.onwards(target, kernel, plan, first, until, key=key)


class Kept(eqx.Module):
    """The draws and what goes with them, (draws, chains, …), filled from the first on."""

    draws: Array
    energies: Array
    acceptance: Array
    divergences: Array
    work: Array

    @classmethod
    def room(cls, draws: int, chains: int, shape: tuple[int, ...]) -> "Kept":
        """Of nothing yet."""
        numbers, counts = jnp.zeros((draws, chains)), jnp.zeros((draws, chains), jnp.int32)
        return cls(jnp.zeros((draws, chains, *shape)), numbers, numbers, counts, counts)


def _draws(
    target: Target,
    kernel: AbstractKernel,
    states: State,
    key: PRNGKeyArray,
    draws: int,
    thin: int,
    show: Callable[[int], None],
) -> dict[str, Any]:
    """The draws and what goes with them, (chains, draws, …), and the seconds that they took."""
    room = Kept.room(draws, len(states.potential), target.space.shape)

    def onwards(at, first, until):
        return _drawn(at, target, kernel, key, thin, first, until)

    (_, kept), seconds = _in_dispatches(onwards, (states, room), draws, show)
    found = {name: np.swapaxes(np.asarray(leaf), 0, 1) for name, leaf in vars(kept).items()}
    return found | {"seconds": seconds}


@eqx.filter_jit
def _drawn(
    at: tuple[State, Kept],
    target: Target,
    kernel: AbstractKernel,
    key: PRNGKeyArray,
    thin: int | Array,
    first: Array,
    until: Array,
) -> tuple[State, Kept]:
    def draw(i, at):
        def step(j, carry):
            states, acceptance, divergent, work = carry
            states, info = step_all(target, kernel, states, i * thin + j, keys=keys)
            acceptance = acceptance + info.acceptance.astype(jnp.float32) / thin
            return states, acceptance, divergent + info.divergent.astype(jnp.int32), work + info.work

        states, kept = at
        zeros = jnp.zeros(states.potential.shape, jnp.int32)
        states, *how = jax.lax.fori_loop(0, thin, step, (states, zeros.astype(jnp.float32), zeros, zeros))
        new = Kept(points_of(target, states), states.energy, *how)
        return states, jax.tree.map(lambda all, one: all.at[i].set(one), kept, new)

    keys = jax.random.split(key, len(at[0].potential))
    return jax.lax.fori_loop(first, until, draw, at)


def _in_dispatches(
    onwards: Callable[[Any, np.int32, np.int32], Any], at: Any, total: int, show: Callable[[int], None]
) -> tuple[Any, float]:
    """What a compiled loop carries after `total` steps, a second's worth at a time, and the seconds without
    compilation: a dispatch of no steps goes before."""
    at = jax.block_until_ready(onwards(at, np.int32(0), np.int32(0)))
    done, pace, seconds = 0, 1, 0.0
    while done < total:
        until = min(total, done + pace)
        began = time.perf_counter()
        at = jax.block_until_ready(onwards(at, np.int32(done), np.int32(until)))
        took = time.perf_counter() - began
        pace, seconds, done = next_pace(pace, until - done, took), seconds + took, until
        show(done)
    return at, seconds


def _checked(
    energy: AbstractEnergy,
    key: PRNGKeyArray,
    chains: int,
    start: Array | None,
    x: PyTree,
    observed: Array | None,
    beta: float,
    folded: bool,
) -> tuple[Target, Array]:
    if not isinstance(energy, AbstractEnergy):
        raise SettingsError(f"not an energy but {type(energy).__name__}: wrap a function with `energy_of`")
    if isinstance(beta, int | float) and not 0 < beta < float("inf"):
        raise SettingsError(f"an inverse temperature must be positive and finite, not {beta}")
    space = energy.space
    if start is None:
        if observed is not None:
            raise SettingsError("observed coordinates are held at their values in `start`: give that too")
        keys = jax.random.split(jax.random.fold_in(key, 0), chains)
        points = jax.vmap(lambda k: space.draw(key=k))(keys)
    else:
        points = _for_each("start", np.asarray(start, np.float32), space.shape, chains)
    target = Target(energy, x, beta, folded=folded)
    mask = np.zeros((chains, *space.shape), bool)
    if observed is not None:
        if np.asarray(observed).dtype != bool:
            raise SettingsError(f"`observed` must be boolean, not {np.asarray(observed).dtype}")
        mask = np.asarray(_for_each("observed", np.asarray(observed), space.shape, chains))
        if mask.reshape(chains, -1).all(axis=1).any():
            raise SettingsError("everything is observed: nothing is left to draw")
        target = replace(target, held=points, observed=jnp.asarray(mask))
    strange = ~np.isfinite(np.asarray(points))
    if strange.any():
        raise SettingsError("the start has cells that are infinite or not a number: give a finite start")
    if start is not None:
        inside = np.asarray(jax.vmap(space.project)(points))
        apart = np.abs(inside - np.asarray(points)) > 1e-5 * (1 + np.abs(inside))
        if (apart & ~mask).any():
            raise SettingsError(f"the start lies outside {space}: project it first")
    return target, points


def _for_each(name: str, array: np.ndarray, shape: tuple[int, ...], chains: int) -> Array:
    """One of these for each chain."""
    if array.shape == shape:
        array = np.broadcast_to(array, (chains, *shape))
    if array.shape != (chains, *shape):
        raise SettingsError(
            f"`{name}` has shape {array.shape}; a point has {shape}, and one for each chain {(chains, *shape)}"
        )
    return jnp.asarray(array)


def _check_start(states: State) -> None:
    bad = np.flatnonzero(~np.isfinite(np.asarray(states.potential)))
    if len(bad) == len(states.potential):
        raise SettingsError(
            "the energy of every start is infinite or not a number: give a start where the energy is finite"
        )
