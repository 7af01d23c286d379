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
from thalweg.inference.bfgs import BFGS
from thalweg.inference.gradient import Gradient
from thalweg.inference.problem import Problem
from thalweg.inference.slope import has_derivative, is_not_flat
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

    Unbatched: batch it with `jax.vmap`. Differentiable in the arrays of the energy, in `x` and in the observed values,
    by the `adjoint` (not through `Search`, which asks for no slope). Compiled once for each energy structure and
    solver. Raises `SettingsError` for a start that is not a point of the space, a solver that does not suit it, a
    `Simplex`, and an energy without a slope given to a solver that follows one; and `NotConverged` for a bad status
    unless `throw` is False (inside jit and vmap: Equinox's runtime error).
    """
    start, mask = _checked(energy, start, observed)
    concrete = None if isinstance(mask, jax.core.Tracer) else np.asarray(mask)
    bound, x = solver.bind(energy, concrete), _arrays(x)
    try:
        solution = _minimise(energy, start, ~mask, x, bound, adjoint)
    except (TypeError, ValueError, NotImplementedError):
        has_derivative(energy, start, x)
        raise
    _check_moved(energy, start, solution, x, bound)
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
    outcome = adjoint.solve(solver, problem) if solver.smooth else solver.solve(problem, unrolled=False)
    value = jnp.where(free, outcome.value, start)
    norm = _gradient_norm(problem, value) if solver.smooth else jnp.zeros(())
    return Solution(value, energy(value, x), outcome.steps, outcome.status, norm)


def _check_moved(
    energy: AbstractEnergy, start: Array, solution: Solution, x: PyTree, solver: AbstractSolver
) -> None:
    """Raise `SettingsError` where a gradient solver took a step's tread for a minimum."""
    if not isinstance(solver, Gradient | BFGS) or isinstance(solution.value, jax.core.Tracer):
        return
    if solution.gradient_norm == 0 and jnp.array_equal(solution.value, start):
        is_not_flat(energy, start, x)


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
