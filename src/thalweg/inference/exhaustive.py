"""Minimisation by enumeration."""

import equinox as eqx
import jax.numpy as jnp

from thalweg.energy import finite
from thalweg.errors import SettingsError
from thalweg.inference.problem import without_gradient
from thalweg.inference.solution import Status
from thalweg.inference.solver import AbstractSolver, Outcome


class Enumerate(AbstractSolver):
    """The least of all points: exact, for finite free coordinates whose mask is known outside compiled code.

    The first in lexicographic order wins a tie. `steps` counts the points; no more than `largest` are
    enumerated, `chunk` at a time.
    """

    largest: int = eqx.field(static=True, default=finite.LARGEST_ENUMERATION)
    chunk: int = eqx.field(static=True, default=4096)

    def bind(self, energy, observed):
        if observed is None:
            raise SettingsError(
                "enumeration needs a mask that is known outside jit and vmap: close over it, or use "
                "Coordinate"
            )
        points = finite.lattice(energy.space, None, observed, self.largest)
        return _Bound(points.free, points.sizes, self.chunk)

    def solve(self, problem, unrolled):
        raise SettingsError("an enumeration is bound to a mask before it is solved")


class _Bound(AbstractSolver):
    free: tuple[int, ...] = eqx.field(static=True)
    sizes: tuple[int, ...] = eqx.field(static=True)
    chunk: int = eqx.field(static=True)

    def bind(self, energy, observed):
        return self

    def solve(self, problem, unrolled):
        points = finite.Lattice(problem.start, self.free, self.sizes)
        energy, candidates, x = without_gradient((problem.energy, points, problem.x))
        energies = finite.energies(energy, candidates, x, self.chunk)
        best = jnp.argmin(energies)
        status = jnp.where(jnp.isfinite(energies[best]), Status.CONVERGED, Status.NOT_FINITE)
        # The winner does not move with the parameters, except where it repeats what was observed.
        return Outcome(points.at(best), jnp.array(points.count, jnp.int32), status.astype(jnp.int32))
