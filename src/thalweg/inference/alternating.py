"""Alternating minimisation over blocks of coordinates."""

import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.energy.base import AbstractEnergy
from thalweg.energy.finite import named
from thalweg.errors import SettingsError
from thalweg.inference.problem import Problem
from thalweg.inference.solution import Status
from thalweg.inference.solver import AbstractSolver, Outcome

Mask = tuple[bool, ...]


def _blocks(blocks: Sequence) -> tuple[tuple[Mask, AbstractSolver], ...]:
    return tuple((tuple(np.ravel(np.asarray(mask, bool)).tolist()), solver) for mask, solver in blocks)


class Alternating(AbstractSolver):
    r"""\(y_b \leftarrow \arg\min_{y_b} F(y_b, y_{-b})\) for each block \(b\) in turn, until a round moves no
    coordinate by more than `tolerance`.

    `blocks` pairs a boolean mask over the coordinates with the solver of that block; every free coordinate
    must be in a block. A block that does not converge in the last round is reported.
    Bezdek & Hathaway (2003), *Convergence of alternating optimization*.
    """

    masks: tuple[Mask, ...] = eqx.field(static=True)
    solvers: tuple[AbstractSolver, ...]
    rounds: int = eqx.field(static=True)
    tolerance: float = eqx.field(static=True)

    def __init__(self, blocks: Sequence, rounds: int = 50, tolerance: float = 1e-5):
        pairs = _blocks(blocks)
        self.masks = tuple(mask for mask, _ in pairs)
        self.solvers = tuple(solver for _, solver in pairs)
        self.rounds = rounds
        self.tolerance = tolerance

    def __check_init__(self):
        if not self.masks or self.rounds < 1:
            raise SettingsError("alternating minimisation needs at least one block and one round")

    def bind(self, energy, observed):
        shape = energy.space.shape
        if any(len(mask) != math.prod(shape) for mask in self.masks):
            raise SettingsError(f"each block's mask needs the shape of the space, {shape}")
        masks = [np.reshape(mask, shape) for mask in self.masks]
        if observed is not None:
            _require_covered(energy, masks, observed)
        bound = [
            solver.bind(energy, None if observed is None else observed | ~mask)
            for solver, mask in zip(self.solvers, masks, strict=True)
        ]
        return Alternating(list(zip(masks, bound, strict=True)), self.rounds, self.tolerance)

    def solve(self, problem, unrolled):
        def descend(state):
            y, _, rounds, _ = state
            new, status = y, jnp.array(Status.CONVERGED, jnp.int32)
            for mask, solver in zip(self.masks, self.solvers, strict=True):
                free = problem.free & np.reshape(mask, problem.free.shape)
                part = solver.solve(Problem(problem.energy, new, free, problem.x), unrolled)
                new, status = part.value, jnp.maximum(status, part.status)
            return new, jnp.max(jnp.abs(new - y), initial=0.0), rounds + 1, status

        def running(state):
            _, change, rounds, status = state
            return (change > self.tolerance) & (rounds < self.rounds) & (status < Status.NOT_FINITE)

        start = (problem.start, jnp.array(jnp.inf), jnp.array(0), jnp.array(Status.CONVERGED, jnp.int32))
        if unrolled:
            state, _ = jax.lax.scan(
                lambda s, _: (jax.lax.cond(running(s), descend, lambda t: t, s), None),
                start,
                length=self.rounds,
            )
        else:
            state = jax.lax.while_loop(running, descend, start)
        y, change, rounds, status = state
        exhausted = jnp.where(change > self.tolerance, Status.STEPS_EXHAUSTED, Status.CONVERGED)
        return Outcome(y, rounds, jnp.maximum(status, exhausted.astype(jnp.int32)))


def _require_covered(energy: AbstractEnergy, masks: list[np.ndarray], observed: np.ndarray) -> None:
    left = np.flatnonzero(~(np.any(masks, axis=0) | observed)).tolist()
    if left:
        raise SettingsError(f"{named(energy.space, left)} free and in no block: add to one, or observe")
