r"""What an energy is: one scalar function \(F(y, x)\), low where \(y\) fits \(x\) and high where it does not.

LeCun, Chopra, Hadsell, Ranzato & Huang (2006), *A tutorial on energy-based learning*.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

import equinox as eqx
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from thalweg.energy.spaces import AbstractSpace

Scalar = Float[Array, ""]


class AbstractEnergy(eqx.Module):
    r"""A scalar function \(F(y, x)\) of one point; batches are `jax.vmap`, in the procedures.

    `f + g` is the product of two experts, `beta * f` a change of temperature, `f.given(x)` fixes the input
    and `f.clamped(values, observed)` fixes part of the answer.
    """

    # To a type checker a read-only property, which a subclass may define as a field or as a property.
    if TYPE_CHECKING:

        @property
        def space(self) -> AbstractSpace:
            """Where `y` lives."""

    else:
        space: eqx.AbstractVar[AbstractSpace]

    @abstractmethod
    def __call__(self, y: Float[Array, "..."], x: PyTree = None) -> Scalar:
        r"""\(F(y, x)\); `x` is None for an unconditional energy."""

    def __add__(self, other: "AbstractEnergy") -> "AbstractEnergy":
        from thalweg.energy.algebra import add

        return add(self, other)

    def __mul__(self, beta: float) -> "AbstractEnergy":
        from thalweg.energy.algebra import Scaled

        return Scaled(self, beta)

    __rmul__ = __mul__

    def given(self, x: PyTree) -> "AbstractEnergy":
        r"""The energy of `y` alone at a fixed input: \(F(\cdot, x)\)."""
        from thalweg.energy.algebra import Given

        return Given(self, x)

    def clamped(self, values: Float[Array, "..."], observed: Bool[Array, "..."]) -> "AbstractEnergy":
        r"""The energy with the observed coordinates held at `values`, whatever `y` says there."""
        from thalweg.energy.algebra import Clamped

        return Clamped(self, values, observed)


class AbstractDensity(AbstractEnergy):
    r"""A normalised energy, \(F = -\log p\), in nats."""

    @abstractmethod
    def log_prob(self, y: Float[Array, "..."], x: PyTree = None) -> Scalar:
        r"""\(\log p(y \mid x)\) in nats, with respect to counting measure on discrete coordinates and
        Lebesgue measure on real ones."""

    @abstractmethod
    def sample(self, x: PyTree = None, *, key: PRNGKeyArray) -> Float[Array, "..."]:
        r"""An exact draw \(y \sim p(\cdot \mid x)\)."""

    def __call__(self, y, x=None):
        return -self.log_prob(y, x)


class FunctionEnergy(AbstractEnergy):
    r"""A user's own function as an energy; its arrays, if it is a pytree, are the parameters."""

    function: Callable
    space: AbstractSpace

    def __call__(self, y, x=None):
        return self.function(y) if x is None else self.function(y, x)


def energy_of(function: Callable, space: AbstractSpace) -> FunctionEnergy:
    """An energy from any function of `y` (and `x`) that returns a scalar.

    `function` may be a plain function, or a callable pytree such as an `equinox.Module`, whose arrays are
    then trained by `fit`.
    """
    return FunctionEnergy(function, space)
