"""Projected gradient descent with any optimiser of Optax."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from thalweg.energy.base import AbstractEnergy
from thalweg.energy.finite import named
from thalweg.errors import SettingsError
from thalweg.inference.solution import Status
from thalweg.inference.solver import AbstractSolver, Outcome

_ADAM = optax.adam(0.05)


class Gradient(AbstractSolver):
    r"""\(y \leftarrow P(y + u(\nabla F(y)))\): one update \(u\) of the optimiser, then the projection on the
    space.

    Moves real coordinates only: a finite one that is free is an error or, where the mask is traced and cannot
    be looked at, stays. It has converged when the greatest component of the gradient, those pressed against a
    bound excepted, is at most `tolerance` times the greater of 1 and its value at the start. Keep one
    optimiser for many calls: a new one is compiled again. One with a line search cannot be unrolled.
    Goldstein (1964), *Convex programming in Hilbert space*; Kingma & Ba (2015), *Adam*.
    """

    optimiser: optax.GradientTransformation = _ADAM
    steps: int = eqx.field(static=True, default=500)
    tolerance: float = eqx.field(static=True, default=1e-5)

    def __check_init__(self):
        if self.steps < 1 or not self.tolerance >= 0:
            raise SettingsError(f"steps must be positive, not {self.steps}; tolerance not {self.tolerance}")

    def bind(self, energy, observed):
        require_real("a gradient", energy, observed)
        return self

    def solve(self, problem, unrolled):
        evaluate = jax.value_and_grad(problem)
        optimiser = optax.with_extra_args_support(self.optimiser)

        def measure(y):
            energy, gradient = evaluate(y)
            gradient = problem.reduced(y, gradient)
            return energy, gradient, jnp.max(jnp.abs(gradient), initial=0.0)

        y = problem.start
        energy, gradient, norm = measure(y)
        threshold = self.tolerance * jnp.maximum(1.0, norm)
        state = (y, optimiser.init(y), energy, gradient, norm, jnp.array(0), jnp.array(False))

        def running(state):
            _, _, energy, _, norm, step, broken = state
            # Written so that a norm which is not a number also ends the descent.
            return (norm > threshold) & jnp.isfinite(energy) & (step < self.steps) & ~broken

        def descend(state):
            y, memory, energy, gradient, norm, step, _ = state
            # Optax mixes dtypes, which a user may have forbidden.
            with jax.numpy_dtype_promotion("standard"):
                update, memory = optimiser.update(
                    gradient, memory, y, value=energy, grad=gradient, value_fn=problem
                )
            moved = problem.project(optax.apply_updates(y, update))
            new = measure(moved)
            broken = ~(jnp.isfinite(new[0]) & jnp.isfinite(new[2]))
            y, energy, gradient, norm = _select(broken, (y, energy, gradient, norm), (moved, *new))
            return y, memory, energy, gradient, norm, step + 1, broken

        if unrolled:
            state, _ = jax.lax.scan(
                lambda state, _: (_select(running(state), descend(state), state), None),
                state,
                length=self.steps,
            )
        else:
            state = jax.lax.while_loop(running, descend, state)
        y, _, energy, _, norm, step, broken = state
        sound = jnp.isfinite(energy) & jnp.isfinite(norm)
        return Outcome(y, step, _status(sound, broken, norm <= threshold))


def _select(condition, yes, no):
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def _status(sound, broken, small):
    exhausted = jnp.where(small, Status.CONVERGED, Status.STEPS_EXHAUSTED)
    status = jnp.where(broken, Status.NOT_FINITE, exhausted)
    return jnp.where(sound, status, Status.START_NOT_FINITE).astype(jnp.int32)


def require_real(what: str, energy: AbstractEnergy, observed: np.ndarray | None) -> None:
    """Raise `SettingsError` where a free coordinate is not real; a traced mask cannot be looked at."""
    if observed is None:
        return
    stuck = np.flatnonzero(~(observed | energy.space.real).reshape(-1)).tolist()
    if stuck:
        raise SettingsError(
            f"{what} moves real coordinates only, and {named(energy.space, stuck)} finite and free: observe "
            f"them, "
            "or use Coordinate or Alternating"
        )
