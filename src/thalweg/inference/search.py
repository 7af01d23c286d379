"""Minimisation without a slope: search by samples that gather where the energy is low."""

import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.energy.finite import named
from thalweg.errors import SettingsError
from thalweg.inference.gradient import require_real
from thalweg.inference.problem import without_gradient
from thalweg.inference.solution import Status
from thalweg.inference.solver import AbstractSolver, Outcome
from thalweg.sampling import charts


class Search(AbstractSolver):
    r"""`samples` points drawn uniformly from the box and the start; then `iterations` times: draw as many of them
    anew with probability \(\propto e^{-F}\), and move each by noise of deviation `noise` (a share of the box), which
    shrinks by `shrink` each time. The lowest point met is the answer.

    It needs values of F alone. There is no criterion of convergence: the status says whether the energy was finite
    somewhere, and more samples or iterations say whether a lower point is found. `seed` makes it repeatable.
    Florence et al. (2021), *Implicit behavioral cloning*, algorithm 1.
    """

    smooth: ClassVar[bool] = False
    samples: int = eqx.field(static=True, default=1024)
    iterations: int = eqx.field(static=True, default=6)
    noise: float = eqx.field(static=True, default=0.33)
    shrink: float = eqx.field(static=True, default=0.5)
    seed: int = eqx.field(static=True, default=0)

    def __check_init__(self):
        if self.samples < 1 or self.iterations < 0:
            raise SettingsError(f"a search takes samples and iterations: {self.samples}, {self.iterations}")
        if not self.noise > 0 or not 0 < self.shrink <= 1:
            raise SettingsError(
                f"noise is positive, not {self.noise:g}; shrink is a share, not {self.shrink:g}"
            )

    def bind(self, energy, observed):
        require_real("a search", energy, observed)
        free = np.ones(energy.space.shape, bool) if observed is None else ~observed
        lower, upper = energy.space.bounds()
        loose = np.flatnonzero(free & ~(np.isfinite(lower) & np.isfinite(upper))).tolist()
        if loose:
            raise SettingsError(
                f"a search begins anywhere in a box, and {named(energy.space, loose)} unbounded: give the space bounds"
            )
        return self

    def solve(self, problem, unrolled):
        problem = without_gradient(problem)
        width = charts.box(problem.energy.space).width.reshape(problem.start.shape)
        start_key, key = jax.random.split(jax.random.key(self.seed))

        def held(y):
            return jnp.where(problem.movable, y, problem.start)

        def draw(key):
            return held(problem.energy.space.draw(key=key))

        def gathered(carry, now):
            points, energies, best, least = carry
            key, scale = now
            pick_key, noise_key = jax.random.split(key)
            chosen = jax.random.categorical(pick_key, _log_weights(energies), shape=(self.samples,))
            noise = scale * width[None] * jax.random.normal(noise_key, points.shape)
            points = jax.vmap(problem.project)(points[chosen] + noise)
            energies = jax.vmap(problem)(points)
            return (points, energies, *_lowest(points, energies, best, least)), None

        points = jax.vmap(draw)(jax.random.split(start_key, self.samples))
        energies = jax.vmap(problem)(points)
        best, least = _lowest(points, energies, problem.start, problem(problem.start))
        scales = self.noise * self.shrink ** jnp.arange(self.iterations, dtype=jnp.float32)
        begin = points, energies, best, least
        (_, _, best, least), _ = jax.lax.scan(
            gathered, begin, (jax.random.split(key, self.iterations), scales)
        )
        status = jnp.where(jnp.isfinite(least), Status.CONVERGED, Status.NOT_FINITE)
        return Outcome(best, jnp.int32(self.iterations), status.astype(jnp.int32))


def _log_weights(energies):
    """-F, where it is a number; all alike where it is nowhere."""
    sound = jnp.where(jnp.isfinite(energies), -energies, -math.inf)
    return jnp.where(jnp.any(jnp.isfinite(sound)), sound, 0.0)


def _lowest(points, energies, best, least):
    energies = jnp.where(jnp.isfinite(energies), energies, math.inf)
    i = jnp.argmin(energies)
    better = ~(least <= energies[i])
    return jnp.where(better, points[i], best), jnp.where(better, energies[i], least)
