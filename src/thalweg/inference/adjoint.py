r"""How a minimum is differentiated: through the condition that it satisfies, or through the steps to it.

At a minimum \(\nabla_y F(\hat y, \theta) = 0\), and so
\(\partial \hat y / \partial \theta = -(\nabla^2_{yy} F)^{-1} \nabla^2_{y \theta} F\).
"""

from abc import abstractmethod

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from thalweg.errors import SettingsError
from thalweg.inference.problem import Problem
from thalweg.inference.solver import AbstractSolver, Outcome
from thalweg.triangular import solve as positive_solve


class AbstractAdjoint(eqx.Module):
    """A way to run a solver so that its result can be differentiated."""

    @abstractmethod
    def solve(self, solver: AbstractSolver, problem: Problem) -> Outcome:
        """The solver's outcome, differentiable in the problem's arrays."""


class Unrolled(AbstractAdjoint):
    """Differentiates the steps of the solver, however far it came; memory grows with the steps, and `BFGS`
    allows reverse mode only. Finite coordinates, and the choices of `Coordinate`, have derivative zero."""

    def solve(self, solver, problem):
        return solver.solve(problem, unrolled=True)


class Implicit(AbstractAdjoint):
    r"""The implicit function theorem at the minimum, whatever solver found it.

    Coordinates that are observed, finite, or pressed against a bound are held: their derivative is that of
    the observed value, or zero. \((\nabla^2_{yy} F + \lambda I)\,u = v\) is solved densely up to `dense`
    coordinates, by conjugate gradients above; `damping` \(\lambda\) is for minima with flat directions, whose
    derivative is not defined otherwise (it comes out infinite or nan).
    Krantz & Parks (2002), *The implicit function theorem*; Blondel et al. (2022), *Efficient and modular
    implicit differentiation*.
    """

    damping: float = eqx.field(static=True, default=0.0)
    dense: int = eqx.field(static=True, default=512)

    def __check_init__(self):
        if not self.damping >= 0:
            raise SettingsError(f"damping must not be negative: {self.damping}")

    def solve(self, solver, problem):
        def find(_, guess):
            outcome = solver.solve(problem, unrolled=False)
            # As floats: `custom_root` cannot be differentiated beside an integer.
            return outcome.value, (outcome.steps.astype(jnp.float32), outcome.status.astype(jnp.float32))

        value, (steps, status) = jax.lax.custom_root(
            lambda y: stationarity(problem, y), problem.start, find, self._tangent, has_aux=True
        )
        return Outcome(value, steps.astype(jnp.int32), status.astype(jnp.int32))

    def _tangent(self, hessian, b):
        def damped(v):
            return hessian(v) + self.damping * v

        solve = _dense_solve if b.size <= self.dense else _conjugate_gradients
        return jax.lax.custom_linear_solve(damped, b, solve, symmetric=True)


def _dense_solve(linear, b):
    basis = jnp.eye(b.size, dtype=b.dtype).reshape(b.size, *b.shape)
    matrix = jax.vmap(linear)(basis).reshape(b.size, b.size)
    return positive_solve(matrix, b.reshape(-1)).reshape(b.shape)


def _conjugate_gradients(linear, b):
    return jax.scipy.sparse.linalg.cg(linear, b, tol=1e-6)[0]


def stationarity(problem: Problem, y: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""\(\nabla_y F\) on the coordinates that are free to move, zero on those that are held.

    Symmetric in its linearisation: the Hessian among the moving coordinates and the identity among the
    others.
    """
    if not problem.energy.space.real.any():
        return y - jax.lax.stop_gradient(y)
    held = problem.held(y, jax.grad(problem)(y))
    still = jax.lax.stop_gradient(y)
    gradient = jax.grad(problem)(jnp.where(held, still, y))
    return jnp.where(held, y - still, gradient)
