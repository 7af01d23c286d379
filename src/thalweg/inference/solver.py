"""The contract of a solver."""

from abc import abstractmethod
from typing import ClassVar, NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, Int

from thalweg.energy.base import AbstractEnergy
from thalweg.inference.problem import Problem


class Outcome(NamedTuple):
    """What a solver returns: the point, its iterations and a `Status` as an int32."""

    value: Float[Array, "..."]
    steps: Int[Array, ""]
    status: Int[Array, ""]


class AbstractSolver(eqx.Module):
    """A way to minimise; unbatched, and pure inside compiled code.

    `smooth` is False for one that takes energies without a derivative: its answers have none either.
    """

    smooth: ClassVar[bool] = True

    @abstractmethod
    def bind(self, energy: AbstractEnergy, observed: np.ndarray | None) -> "AbstractSolver":
        """The solver made ready for a space and a mask, outside compiled code; `observed` is None where the
        mask is traced. Raises `SettingsError` where this solver does not suit them."""

    @abstractmethod
    def solve(self, problem: Problem, unrolled: bool) -> Outcome:
        """Minimise; if `unrolled`, by steps that reverse-mode differentiation can follow."""
