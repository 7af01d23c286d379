"""A normal prior on some of an energy's arrays, beside any objective."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from thalweg.energy.base import AbstractEnergy
from thalweg.errors import SettingsError
from thalweg.learning.objective import AbstractAround, AbstractObjective


def arrays_of(energy: AbstractEnergy) -> PyTree:
    """All that is trained."""
    return eqx.filter(energy, eqx.is_inexact_array)


class Ridge(AbstractAround):
    r"""\(L + \frac\lambda2 \|\theta\|^2\), \(\theta\) the arrays `of` the energy.

    Over n rows \(\lambda = 1/(n\sigma^2)\) is a normal prior of deviation \(\sigma\). Unlike the decay of an optimiser
    it is part of the loss, so that a line search sees it and the minimum does not depend on the step size.
    Hoerl & Kennard (1970), *Ridge regression: biased estimation for nonorthogonal problems*.
    """

    objective: AbstractObjective
    strength: float
    of: Callable[[AbstractEnergy], PyTree] = eqx.field(static=True, default=arrays_of)

    def __check_init__(self):
        if not self.strength >= 0:
            raise SettingsError(f"the strength of a ridge is not negative: not {self.strength}")

    def __call__(self, energy, batch, memory, *, key):
        loss, rest = self.objective(energy, batch, memory, key=key)
        squares = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(self.of(energy)))
        return loss + self.strength / 2 * squares, rest
