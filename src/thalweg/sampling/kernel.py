"""The contract of a kernel: a step that leaves a target's density as it is (or nearly, where the kernel says so)."""

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from thalweg.energy.base import Scalar
from thalweg.errors import SettingsError
from thalweg.sampling.target import Target

Mass = Literal["unit", "diagonal", "dense"]
#: How far the energy of a trajectory may rise, in nats, before it counts as flying apart.
DIVERGENT = 1000.0


class Metric(eqx.Module):
    r"""The shape of a step: \(\Sigma = LL^\top\), about the covariance of the target.

    `scale` is one number, the deviations (d,), or a lower triangular factor (d, d).
    """

    scale: Float[Array, "..."] | float = 1.0

    def spread(self, v: Float[Array, "d"]) -> Float[Array, "d"]:
        r"""\(Lv\)."""
        return self.scale @ v if jnp.ndim(self.scale) == 2 else self.scale * v

    def gather(self, v: Float[Array, "d"]) -> Float[Array, "d"]:
        r"""\(L^\top v\)."""
        return v @ self.scale if jnp.ndim(self.scale) == 2 else self.scale * v


class State(eqx.Module):
    r"""Where a chain is: coordinates \(u\), \(U(u)\), \(F(y(u))\), and \(dU/du\) for the kernels that follow it."""

    position: Float[Array, "d"]
    potential: Scalar
    energy: Scalar
    gradient: PyTree = None


class Info(eqx.Module):
    """How a step went: the probability of acceptance, whether it flew apart, how many energies it cost; the
    `parts` of a composed kernel."""

    acceptance: Float[Array, "..."]
    divergent: Bool[Array, "..."]
    work: Array
    parts: tuple["Info", ...] = ()


class AbstractKernel(eqx.Module):
    """One step of a Markov chain; unbatched and pure, batched by `jax.vmap` in `sample`."""

    @property
    def exact(self) -> bool:
        """Whether the chain's own distribution is the target's; not so for the unadjusted kernels."""
        return True

    @abstractmethod
    def check(self, target: Target) -> None:
        """Raise `SettingsError` where this kernel does not suit the target's space; outside compiled code."""

    @abstractmethod
    def init(self, target: Target, position: Float[Array, "d"]) -> State:
        """The state at a position."""

    @abstractmethod
    def step(self, target: Target, state: State, *, key: PRNGKeyArray) -> tuple[State, Info]:
        """The next state."""

    def reversed(self) -> "AbstractKernel":
        r"""The kernel of the chain that runs backwards in time: \(\pi(y)\,T(y \to y') = \pi(y')\,\tilde T(y' \to y)\).
        Itself, unless it goes through coordinates or other kernels in a fixed order."""
        return self

    # What warm-up tunes; a kernel with nothing to tune leaves these as they are.

    def tunable(self) -> tuple["AbstractTunable", ...]:
        """The kernels inside this one that have a step size."""
        return ()

    def tuned(self, parts: tuple["AbstractTunable", ...]) -> "AbstractKernel":
        """This kernel with these in place of `tunable()`."""
        return self

    def watched(self, state: State, info: Info) -> tuple[tuple[Array, Array], ...]:
        """For each of `tunable()`, the acceptance and the position of a step."""
        return ()


class AbstractTunable(AbstractKernel):
    """A kernel with a step size, which warm-up brings to the acceptance `optimal`, and the metric of its steps."""

    #: The acceptance at which a step of this kind is worth most; None where there is none to go by.
    optimal: ClassVar[float | None] = None

    if TYPE_CHECKING:

        @property
        def step_size(self) -> Float[Array, "..."] | float: ...
        @property
        def metric(self) -> Metric: ...
        @property
        def mass(self) -> Mass: ...

    else:
        step_size: eqx.AbstractVar[Float[Array, "..."] | float]
        metric: eqx.AbstractVar[Metric]
        mass: eqx.AbstractVar[Mass]

    def tunable(self):
        return (self,)

    def tuned(self, parts):
        return parts[0]

    def watched(self, state, info):
        return ((info.acceptance, state.position),)

    def with_step(self, step_size: Array) -> "AbstractTunable":
        return eqx.tree_at(lambda k: k.step_size, self, step_size)

    def with_metric(self, metric: Metric) -> "AbstractTunable":
        return eqx.tree_at(lambda k: k.metric, self, metric)


def at(target: Target, position: Float[Array, "d"]) -> State:
    """A state without a gradient."""
    return State(position, *target.potential(position))


def on_slope(target: Target, position: Float[Array, "d"]) -> State:
    """A state with its gradient."""
    return State(position, *target.with_gradient(position))


def on_slope_of_codes(target: Target, position: Float[Array, "d"]) -> State:
    """A state with the derivative in the codes too, which no gradient moves and which proposals may follow."""
    (potential, energy), gradient = jax.value_and_grad(target.potential, has_aux=True)(position)
    return State(position, potential, energy, gradient)


def either(condition: Bool[Array, ""], yes: PyTree, no: PyTree) -> PyTree:
    """Leaf by leaf, `yes` where the condition holds."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def require_real(name: str, target: Target) -> None:
    """Raise `SettingsError` where a gradient would have nothing to move."""
    if not any(level is None for level in target.space.levels()):
        raise SettingsError(f"{name} moves real coordinates, and {target.space} has none: use Gibbs")


def require_positive(name: str, value: float | Array) -> None:
    if isinstance(value, int | float) and not 0 < value < float("inf"):
        raise SettingsError(f"{name} must be positive and finite, not {value}")
