"""Quasi-Newton minimisation by Optimistix."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix

from thalweg.energy.base import AbstractEnergy
from thalweg.energy.finite import named
from thalweg.errors import SettingsError
from thalweg.inference.gradient import require_real
from thalweg.inference.solution import Status
from thalweg.inference.solver import AbstractSolver, Outcome


class BFGS(AbstractSolver):
    r"""Broyden-Fletcher-Goldfarb-Shanno on the free real coordinates, which must be unbounded.

    The tolerances are on the change of \(y\) and of \(F\) in a step. Memory is quadratic in the dimension.
    Nocedal & Wright (2006), *Numerical optimization*, chapter 6.
    """

    rtol: float = eqx.field(static=True, default=1e-5)
    atol: float = eqx.field(static=True, default=1e-6)
    max_steps: int = eqx.field(static=True, default=512)

    def bind(self, energy, observed):
        require_real("BFGS", energy, observed)
        if observed is not None:
            _require_unbounded(energy, observed)
        return self

    def solve(self, problem, unrolled):
        shape, movable = problem.start.shape, problem.movable

        def objective(free, _):
            return problem(jnp.where(movable, free.reshape(shape), problem.start))

        adjoint = optimistix.RecursiveCheckpointAdjoint() if unrolled else optimistix.ImplicitAdjoint()
        found: optimistix.Solution = optimistix.minimise(
            objective,
            optimistix.BFGS(self.rtol, self.atol),
            problem.start.reshape(-1),
            max_steps=self.max_steps,
            adjoint=adjoint,
            throw=False,
        )
        value = jnp.where(movable, found.value.reshape(shape), problem.start)
        return Outcome(value, found.stats["num_steps"], _status(found.result, value, problem))


def _status(result, value, problem):
    exhausted = result == optimistix.RESULTS.nonlinear_max_steps_reached
    status = jnp.where(exhausted, Status.STEPS_EXHAUSTED, Status.NOT_FINITE)
    status = jnp.where(result == optimistix.RESULTS.successful, Status.CONVERGED, status)
    status = jnp.where(_sound(problem, value), status, Status.NOT_FINITE)
    return jnp.where(_sound(problem, problem.start), status, Status.START_NOT_FINITE).astype(jnp.int32)


def _sound(problem, y):
    energy, gradient = jax.value_and_grad(problem)(y)
    return jnp.isfinite(energy) & jnp.all(jnp.isfinite(jnp.where(problem.movable, gradient, 0)))


def _require_unbounded(energy: AbstractEnergy, observed: np.ndarray) -> None:
    with jax.ensure_compile_time_eval():
        bounded = np.logical_or(*(np.isfinite(bound) for bound in energy.space.bounds()))
    stuck = np.flatnonzero(bounded & energy.space.real & ~observed).tolist()
    if stuck:
        raise SettingsError(
            f"BFGS knows no bounds, and {named(energy.space, stuck)} bounded: use Gradient, which projects"
        )
