r"""Energies with a latent: \(E(y, z, x)\), and the two ways to be rid of `z`.

\(F(y, x) = \min_z E(y, z, x)\) (`Minimised`), and
\(F(y, x) = -\frac1\beta \log \sum_z e^{-\beta E(y, z, x)}\) (`FreeEnergy`), which tends to the first as
\(\beta \to \infty\).
LeCun, Chopra, Hadsell, Ranzato & Huang (2006), *A tutorial on energy-based learning*.
"""

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from thalweg.energy import finite
from thalweg.energy.algebra import Given, Scaled
from thalweg.energy.base import AbstractEnergy, Scalar
from thalweg.energy.capabilities import AbstractEncoder
from thalweg.energy.spaces import AbstractSpace, Real
from thalweg.errors import NotAnswered, SettingsError


class AbstractLatentEnergy(AbstractEnergy):
    r"""A joint energy \(E(y, z, x)\): its first argument is the pair `(y, z)`.

    `space` is where `y` lives and `latent` where `z` does. Sums, scalings and `given` are joint energies.
    """

    if TYPE_CHECKING:

        @property
        def latent(self) -> AbstractSpace:
            """Where `z` lives."""

    else:
        latent: eqx.AbstractVar[AbstractSpace]

    @abstractmethod
    def __call__(self, pair: Any, x: PyTree = None) -> Scalar:
        r"""\(E(y, z, x)\), of the pair `(y, z)`."""

    def __mul__(self, beta: float) -> "Joint":
        return Joint(Scaled(self, beta), self.latent)

    __rmul__ = __mul__

    def given(self, x: PyTree) -> "Joint":
        r"""The joint energy of `(y, z)` at a fixed input."""
        return Joint(Given(self, x), self.latent)

    def clamped(self, values: Float[Array, "..."], observed: Bool[Array, "..."]) -> AbstractEnergy:
        """Not defined before the latent is eliminated."""
        raise SettingsError(
            "a joint energy is clamped after its latent is eliminated (`Minimised`, `FreeEnergy`)"
        )


class Joint(AbstractLatentEnergy):
    """Any energy that takes the pair `(y, z)`, with the space of its `z`."""

    energy: AbstractEnergy
    latent: AbstractSpace

    @property
    def space(self) -> AbstractSpace:
        return self.energy.space

    def __call__(self, pair, x=None):
        return self.energy(pair, x)


class FunctionLatentEnergy(AbstractLatentEnergy):
    r"""A user's own function of `(y, z)` or `(y, z, x)` as a joint energy."""

    function: Callable
    space: AbstractSpace
    latent: AbstractSpace

    def __call__(self, pair, x=None):
        y, z = pair
        return self.function(y, z) if x is None else self.function(y, z, x)


def latent_energy_of(function: Callable, space: AbstractSpace, latent: AbstractSpace) -> FunctionLatentEnergy:
    """A joint energy from any function of `y`, `z` (and `x`) that returns a scalar."""
    return FunctionLatentEnergy(function, space, latent)


class AtPoint(AbstractEnergy):
    r"""\(E(y, \cdot, x)\): the energy of the latent alone, at one `y`."""

    energy: AbstractLatentEnergy
    y: Float[Array, "..."]

    @property
    def space(self) -> AbstractSpace:
        return self.energy.latent

    def __call__(self, z, x=None):
        return self.energy((self.y, z), x)


class Elimination(eqx.Module):
    """A way to eliminate the latent. What it can do, minimise or integrate, it says by inheriting."""

    @abstractmethod
    def check(self, latent: AbstractSpace) -> None:
        """Raise `SettingsError` where this way does not suit the latent's space."""


class MinElimination(Elimination):
    """An elimination that finds the minimum."""

    @abstractmethod
    def minimum(self, energy: AbstractEnergy, x: PyTree = None) -> Float[Array, "..."]:
        r"""\(\arg\min_z E(z, x)\) of an energy over `z`, differentiable in the energy's arrays."""


class SumElimination(Elimination):
    """An elimination that sums or integrates."""

    @abstractmethod
    def free_energy(self, energy: AbstractEnergy, beta: float | Scalar, x: PyTree = None) -> Scalar:
        r"""\(-\frac1\beta \log \sum_z e^{-\beta E(z, x)}\)."""

    @abstractmethod
    def posterior(self, energy: AbstractEnergy, beta: float | Scalar, x: PyTree = None) -> Float[Array, "k"]:
        r"""What \(q(z) \propto e^{-\beta E}\) says: the probability of each value of a finite `z` in
        lexicographic order, the mean of a real one."""


class Enumerate(MinElimination, SumElimination):
    """Every value of a finite latent, `chunk` at a time."""

    chunk: int = eqx.field(static=True, default=4096)

    def check(self, latent):
        finite.lattice(latent)

    def minimum(self, energy, x=None):
        points = finite.lattice(energy.space)
        return points.at(jnp.argmin(finite.energies(energy, points, x, self.chunk)))

    def free_energy(self, energy, beta, x=None):
        values = finite.energies(energy, finite.lattice(energy.space), x, self.chunk)
        return -jax.nn.logsumexp(-beta * values) / beta

    def posterior(self, energy, beta, x=None):
        values = finite.energies(energy, finite.lattice(energy.space), x, self.chunk)
        return jax.nn.softmax(-beta * values)


class Quadrature(SumElimination):
    r"""Gauss-Legendre quadrature with `points` nodes a dimension, for a real latent of one or two dimensions
    in a bounded box: \(\int e^{-\beta E}\,dz \approx \sum_i w_i e^{-\beta E(z_i)}\)."""

    points: int = eqx.field(static=True, default=32)

    def check(self, latent):
        size = math.prod(latent.shape)
        if not (isinstance(latent, Real) and 1 <= size <= 2):
            raise SettingsError(f"quadrature integrates one or two real dimensions, not {latent}")
        if not (math.isfinite(latent.lower) and math.isfinite(latent.upper)):
            raise SettingsError(f"quadrature needs a bounded box: give Real({latent.shape}, lower, upper)")
        if self.points < 1:
            raise SettingsError(f"quadrature needs at least one node a dimension, not {self.points}")

    def free_energy(self, energy, beta, x=None):
        _, logits = self._nodes(energy, beta, x)
        return -jax.nn.logsumexp(logits) / beta

    def posterior(self, energy, beta, x=None):
        nodes, logits = self._nodes(energy, beta, x)
        return jax.nn.softmax(logits) @ nodes.reshape(len(nodes), -1)

    def _nodes(self, energy, beta, x):
        nodes, weights = _gauss_legendre(energy.space, self.points)
        return nodes, jnp.log(weights) - beta * jax.vmap(lambda z: energy(z, x))(nodes)


def _gauss_legendre(box: Real, points: int) -> tuple[Float[Array, "n ..."], Float[Array, "n"]]:
    size, half = math.prod(box.shape), (box.upper - box.lower) / 2
    node, weight = np.polynomial.legendre.leggauss(points)
    node, weight = box.lower + half * (node + 1), half * weight
    nodes = np.stack(np.meshgrid(*[node] * size, indexing="ij"), axis=-1).reshape(-1, *box.shape)
    weights = np.prod(np.meshgrid(*[weight] * size, indexing="ij"), axis=0).reshape(-1)
    return jnp.asarray(nodes, jnp.float32), jnp.asarray(weights, jnp.float32)


class Minimised(AbstractEncoder):
    r"""\(F(y, x) = \min_z E(y, z, x)\): zero temperature, one explanation for each `y`.

    The derivative is that of \(E\) at the minimum (Danskin 1967, *The theory of max-min*), and higher ones
    follow the minimum as far as `how` can differentiate it.
    """

    energy: AbstractLatentEnergy
    how: MinElimination

    def __check_init__(self):
        _suits(self.how, MinElimination, "find a minimum", self.energy)

    @property
    def space(self) -> AbstractSpace:
        return self.energy.space

    def __call__(self, y, x=None):
        return _at_minimum(self.z_of(y, x), self.energy, y, x)

    def z_of(self, y: Float[Array, "..."], x: PyTree = None) -> Float[Array, "..."]:
        r"""\(\arg\min_z E(y, z, x)\)."""
        return self.how.minimum(AtPoint(self.energy, y), x)

    def encode(self, y, observed, x=None):
        """The minimising latent, flattened; needs all of `y`."""
        return jnp.ravel(self.z_of(_whole(y, observed), x))


class FreeEnergy(AbstractEncoder):
    r"""\(F(y, x) = -\frac1\beta \log \sum_z e^{-\beta E(y, z, x)}\): the latent marginalised at \(\beta\).

    In the units of \(E\) (nats at \(\beta = 1\)); an integral for a real latent.
    """

    energy: AbstractLatentEnergy
    beta: float | Float[Array, ""]
    how: SumElimination

    def __check_init__(self):
        if isinstance(self.beta, int | float) and not 0 < self.beta < math.inf:
            raise SettingsError(
                f"an inverse temperature must be positive and finite, not {self.beta}; for the limit of "
                "infinity use `Minimised`"
            )
        _suits(self.how, SumElimination, "sum over the latent", self.energy)

    @property
    def space(self) -> AbstractSpace:
        return self.energy.space

    def __call__(self, y, x=None):
        return self.how.free_energy(AtPoint(self.energy, y), self.beta, x)

    def z_of(self, y: Float[Array, "..."], x: PyTree = None) -> Float[Array, "k"]:
        r"""\(p(z \mid y, x) \propto e^{-\beta E(y, z, x)}\): the probabilities of a finite latent in
        lexicographic order, the mean of a real one."""
        return self.how.posterior(AtPoint(self.energy, y), self.beta, x)

    def encode(self, y, observed, x=None):
        """The posterior of the latent; needs all of `y`."""
        return self.z_of(_whole(y, observed), x)


def _suits(how: Elimination, kind: type, verb: str, energy: AbstractLatentEnergy) -> None:
    if not isinstance(energy, AbstractLatentEnergy):
        raise SettingsError(
            f"{type(energy).__name__} has no latent to eliminate: it is no AbstractLatentEnergy"
        )
    if not isinstance(how, kind):
        raise SettingsError(f"{type(how).__name__} cannot {verb}: it is no {kind.__name__}")
    how.check(energy.latent)


@eqx.filter_custom_jvp
def _at_minimum(z, energy, y, x):
    return energy((y, z), x)


@_at_minimum.def_jvp
def _envelope(primals, tangents):
    # dE/dz is zero at the minimum (or z is held), so its term is left out of the first derivative, and with
    # it the cost of differentiating the solver; z still moves in the derivatives of this derivative.
    z, *rest = primals
    _, *moves = tangents
    return eqx.filter_jvp(lambda energy, y, x: energy((y, z), x), tuple(rest), tuple(moves))


def _whole(y: Float[Array, "d"], observed: Bool[Array, "d"]) -> Float[Array, "d"]:
    message = "this energy's latent needs every cell of a row: complete the row first"
    missing = ~jnp.all(observed)
    if not isinstance(missing, jax.core.Tracer):
        if missing:
            raise NotAnswered(message)
        return y
    return eqx.error_if(y, missing, message)
