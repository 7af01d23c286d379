r"""Inference: \(\hat y(x) = \arg\min_y F(y, x)\)."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from thalweg.energy.base import AbstractEnergy
from thalweg.energy.finite import named
from thalweg.energy.spaces import AbstractSpace, Simplex
from thalweg.errors import SettingsError
from thalweg.inference.adjoint import AbstractAdjoint, Implicit
from thalweg.inference.problem import Problem
from thalweg.inference.solution import Solution, raise_unless_converged
from thalweg.inference.solver import AbstractSolver

_IMPLICIT = Implicit()


def minimise(
    energy: AbstractEnergy,
    start: Float[Array, "..."],
    x: PyTree = None,
    *,
    solver: AbstractSolver,
    observed: Bool[Array, "..."] | None = None,
    adjoint: AbstractAdjoint = _IMPLICIT,
    throw: bool = True,
) -> Solution:
    r"""\(\hat y = \arg\min_y F(y, x)\) from `start`, whose `observed` coordinates stay as they are.

    Unbatched: batch it with `jax.vmap`. Differentiable in the arrays of the energy, in `x` and in the
    observed values, by the `adjoint`. Compiled once for each energy structure and solver.
    Raises `SettingsError` for a start that is not a point of the space, a solver that does not suit it and a `Simplex`,
    and `NotConverged` for a bad status unless `throw` is False (inside jit and vmap: Equinox's runtime
    error).
    """
    start, mask = _checked(energy, start, observed)
    concrete = None if isinstance(mask, jax.core.Tracer) else np.asarray(mask)
    solution = _minimise(energy, start, ~mask, _arrays(x), solver.bind(energy, concrete), adjoint)
    return raise_unless_converged(solution) if throw else solution


@eqx.filter_jit
def _minimise(
    energy: AbstractEnergy,
    start: Array,
    free: Array,
    x: PyTree,
    solver: AbstractSolver,
    adjoint: AbstractAdjoint,
) -> Solution:
    problem = Problem(energy, start, free, x)
    outcome = adjoint.solve(solver, problem)
    value = jnp.where(free, outcome.value, start)
    return Solution(value, energy(value, x), outcome.steps, outcome.status, _gradient_norm(problem, value))


def _gradient_norm(problem: Problem, y: Array) -> Array:
    if not problem.energy.space.real.any():
        return jnp.zeros(())
    y = jax.lax.stop_gradient(y)
    gradient = problem.reduced(y, jax.grad(problem)(y))
    return jax.lax.stop_gradient(jnp.max(jnp.abs(gradient)))


def _arrays(x: PyTree) -> PyTree:
    # A Python number would be a constant of the compiled function, and compiled again for each value.
    return jax.tree.map(lambda leaf: jnp.asarray(leaf) if isinstance(leaf, float) else leaf, x)


def _checked(energy: AbstractEnergy, start: Array, observed: Array | None) -> tuple[Array, Array]:
    if not isinstance(energy, AbstractEnergy):
        raise SettingsError(f"not an energy but {type(energy).__name__}: wrap a function with `energy_of`")
    space = energy.space
    if isinstance(space, Simplex):
        raise SettingsError(
            "the shares of a simplex bound one another, and no solver holds their sum: minimise over unbounded "
            f"scores, energy_of(lambda u: F(jax.nn.softmax(u)), Real(({space.size},)))"
        )
    if jnp.shape(start) != space.shape:
        raise SettingsError(f"the start has shape {jnp.shape(start)}; the space needs {space.shape}")
    start = jnp.asarray(start, jnp.result_type(float))
    mask = jnp.zeros(space.shape, bool) if observed is None else jnp.asarray(observed)
    if mask.shape != space.shape or mask.dtype != bool:
        raise SettingsError(
            f"`observed` must be boolean of shape {space.shape}, not {mask.dtype} of shape {mask.shape}"
        )
    if not isinstance(start, jax.core.Tracer) and not isinstance(mask, jax.core.Tracer):
        _check_start(space, start, mask)
    return start, mask


def _check_start(space: AbstractSpace, start: Array, mask: Array) -> None:
    strange = np.flatnonzero(~np.isfinite(start)).tolist()
    if strange:
        raise SettingsError(
            f"in the start, {named(space, strange)} infinite or not a number: give a finite start"
        )
    with jax.ensure_compile_time_eval():
        inside = jnp.abs(space.project(start) - start) <= 1e-6 * (1 + jnp.abs(start))
        outside = np.flatnonzero(~(inside | mask)).tolist()
    if outside:
        raise SettingsError(f"in the start, {named(space, outside)} outside the space: project it first")
