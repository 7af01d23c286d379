"""Iterated conditional modes on factor graphs: variables that share no factor move together."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from thalweg.energy.conditionals import beside, colours
from thalweg.energy.factors import FactorGraph
from thalweg.errors import SettingsError
from thalweg.inference.solution import Solution, Status, raise_unless_converged


def icm(
    graph: FactorGraph,
    start: Float[Array, "..."],
    x: PyTree = None,
    *,
    sweeps: int = 100,
    throw: bool = True,
) -> Solution:
    r"""An answer that no change of one variable makes lower, from `start`; the energy never rises on the way.

    A local minimum of \(F(\cdot, x)\): start from several, or from `loopy_argmin`. To keep some variables as they are
    give `graph.held(y, observed)`. Raises `NotConverged` after so many `sweeps` unless `throw` is False.
    Besag (1986), *On the statistical analysis of dirty pictures*.
    """
    if not isinstance(graph, FactorGraph):
        raise SettingsError(
            f"variables that share no factor are those of a FactorGraph: for {type(graph).__name__} minimise with "
            "Coordinate"
        )
    if jnp.shape(start) != graph.space.shape:
        raise SettingsError(f"the start has shape {jnp.shape(start)}; the space needs {graph.space.shape}")
    solution = _icm(graph, jnp.asarray(start), x, sweeps)
    return raise_unless_converged(solution) if throw else solution


@eqx.filter_jit
def _icm(graph: FactorGraph, start: Array, x: PyTree, sweeps: int) -> Solution:
    still = graph.tabulated(x)
    groups, colour = still.groups(), colours(graph.scopes, len(graph.sizes))

    def visit(now, codes):
        energies = beside(groups, codes, graph.sizes)
        best = jnp.argmin(energies, axis=1)
        own = jnp.take_along_axis(energies, codes[:, None], axis=1)[:, 0]
        moves = (jnp.asarray(colour) == now) & (jnp.min(energies, axis=1) < own)
        return jnp.where(moves, best.astype(codes.dtype), codes)

    def sweep(state):
        codes, _, turn = state
        new = jax.lax.fori_loop(0, int(colour.max()) + 1, visit, codes)
        return new, jnp.any(new != codes), turn + 1

    def running(state):
        _, changed, turn = state
        return changed & (turn < sweeps)

    first = (jnp.ravel(start).astype(jnp.int32), jnp.array(True), jnp.int32(0))
    codes, changed, turn = jax.lax.while_loop(running, sweep, first)
    y = codes.astype(jnp.float32).reshape(graph.space.shape)
    energy = still(y)
    status = jnp.where(changed, Status.STEPS_EXHAUSTED, Status.CONVERGED)
    status = jnp.where(jnp.isfinite(energy), status, Status.NOT_FINITE).astype(jnp.int32)
    return Solution(y, energy, turn, status, jnp.zeros(()))
