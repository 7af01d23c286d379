"""What an inference ends with: the record, its status, and the error that a bad one raises."""

from enum import IntEnum

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from thalweg.energy.base import Scalar
from thalweg.errors import NotConverged


class Status(IntEnum):
    """How an inference ended; an int32 inside compiled code. The greater is the worse."""

    CONVERGED = 0
    STEPS_EXHAUSTED = 1
    NOT_FINITE = 2
    START_NOT_FINITE = 3


MESSAGES = {
    Status.CONVERGED: "converged",
    Status.STEPS_EXHAUSTED: (
        "the minimum was not reached in the steps allowed: raise the number of steps or the tolerance, try "
        "another "
        "solver or start, or pass throw=False for the record as it is"
    ),
    Status.NOT_FINITE: (
        "the energy became infinite or not a number: take a smaller step, bound the space, or check that "
        "the energy "
        "has a minimum"
    ),
    Status.START_NOT_FINITE: (
        "the energy or its gradient at the start is infinite or not a number: check the observed values, or "
        "start "
        "elsewhere"
    ),
}


class Solution(eqx.Module):
    r"""A minimum: `value` \(\hat y\) and `energy` \(F(\hat y, x)\), with how it was reached.

    `gradient_norm` is the greatest component of the gradient over real free coordinates, those that a bound
    holds excepted (0 where there is none); `steps` counts the solver's own iterations; `status` is a `Status`
    as an int32. Under `jax.vmap` each field has a leading axis.
    """

    value: Float[Array, "..."]
    energy: Scalar
    steps: Int[Array, ""]
    status: Int[Array, ""]
    gradient_norm: Scalar

    @property
    def converged(self):
        """Whether the status is `Status.CONVERGED`; an array under `jax.vmap`."""
        return self.status == Status.CONVERGED

    @property
    def message(self) -> str:
        """The status in words; the worst one of a batch."""
        return MESSAGES[Status(int(jnp.max(self.status)))]


def raise_unless_converged(solution: Solution) -> Solution:
    """The solution itself; `NotConverged` for a bad status.

    Inside compiled code the error is Equinox's runtime error with the same message.
    """
    status = solution.status
    if not isinstance(status, jax.core.Tracer):
        if not jnp.all(solution.converged):
            raise NotConverged(
                f"{solution.message} (energy {solution.energy:.6g}, gradient {solution.gradient_norm:.3g} "
                f"after "
                f"{solution.steps} steps)"
                if jnp.ndim(status) == 0
                else solution.message
            )
        return solution
    value = solution.value
    for bad in (Status.STEPS_EXHAUSTED, Status.NOT_FINITE, Status.START_NOT_FINITE):
        value = eqx.error_if(value, status == bad, f"NotConverged: {MESSAGES[bad]}")
    return eqx.tree_at(lambda s: s.value, solution, value)
