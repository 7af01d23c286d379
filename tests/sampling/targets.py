"""Energies whose draws are known: what every kernel is held to."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np

from thalweg.data.toys import Banana, EightGaussians, Funnel, Grid25, Rings
from thalweg.energy import AbstractDensity, AbstractEnergy, Real, energy_of
from thalweg.energy.spaces import Binary, Categorical, Column, Record, Simplex


class Gaussian(AbstractDensity):
    """N(mean, covariance), by its precision and a factor of the covariance."""

    space: Real
    mean: jax.Array
    factor: jax.Array

    def log_prob(self, y, x=None):
        z = jax.scipy.linalg.solve_triangular(self.factor, y - self.mean, lower=True)
        return (
            -jnp.vdot(z, z) / 2 - jnp.sum(jnp.log(jnp.diag(self.factor))) - len(y) / 2 * jnp.log(2 * jnp.pi)
        )

    def sample(self, x=None, *, key):
        return self.mean + self.factor @ jax.random.normal(key, self.mean.shape)


def correlated(size: int, spread: float = 10.0, seed: int = 0) -> Gaussian:
    """A Gaussian with random axes, of which the longest is `spread` times the shortest."""
    rng = np.random.default_rng(seed)
    axes, _ = np.linalg.qr(rng.standard_normal((size, size)))
    variances = np.geomspace(1.0, spread**2, size)
    factor = np.linalg.cholesky(axes * variances @ axes.T)
    return Gaussian(
        Real((size,)), jnp.asarray(rng.standard_normal(size), jnp.float32), jnp.asarray(factor, jnp.float32)
    )


class Dirichlet(AbstractDensity):
    space: Simplex
    alpha: jax.Array

    def log_prob(self, y, x=None):
        logs = jnp.sum((self.alpha - 1) * jnp.log(y))
        return (
            logs
            + jax.scipy.special.gammaln(jnp.sum(self.alpha))
            - jnp.sum(jax.scipy.special.gammaln(self.alpha))
        )

    def sample(self, x=None, *, key):
        return jax.random.dirichlet(key, self.alpha)


class InBox(AbstractDensity):
    """Independent Beta coordinates, scaled to [-1, 3]; the first is high at a bound."""

    space: Real
    a: jax.Array
    b: jax.Array

    def log_prob(self, y, x=None):
        share = (y + 1) / 4
        return jnp.sum(jax.scipy.stats.beta.logpdf(share, self.a, self.b) - jnp.log(4.0))

    def sample(self, x=None, *, key):
        return 4 * jax.random.beta(key, self.a, self.b) - 1


class Above(AbstractDensity):
    """Gamma coordinates: all numbers above 0."""

    space: Real
    a: jax.Array

    def log_prob(self, y, x=None):
        return jnp.sum(jax.scipy.stats.gamma.logpdf(y, self.a))

    def sample(self, x=None, *, key):
        return jax.random.gamma(key, self.a)


class Table(AbstractDensity):
    """Any energy over a finite space as a density, by enumeration."""

    energy: AbstractEnergy
    points: jax.Array
    log_probs: jax.Array

    @classmethod
    def of(cls, energy: AbstractEnergy) -> "Table":
        points = energy.space.points()
        return cls(energy, points, jax.nn.log_softmax(-jax.vmap(energy)(points)))

    @property
    def space(self):
        return self.energy.space

    def log_prob(self, y, x=None):
        return -self.energy(y)

    def sample(self, x=None, *, key):
        return self.points[jax.random.categorical(key, self.log_probs)]


def lattice(size: int = 4, coupling: float = 0.4, seed: int = 0) -> AbstractEnergy:
    """A spin glass on a small open square lattice, with fields; 2 ** (size * size) states."""
    rng = np.random.default_rng(seed)
    pairs = []
    for i, j in itertools.product(range(size), range(size)):
        pairs += [(i * size + j, i * size + j + 1)] if j + 1 < size else []
        pairs += [(i * size + j, i * size + j + size)] if i + 1 < size else []
    matrix = np.zeros((size * size, size * size), np.float32)
    for a, b in pairs:
        matrix[a, b] = coupling * rng.choice([-1, 1])
    bias = jnp.asarray(0.2 * rng.standard_normal(size * size), jnp.float32)

    def energy(y):
        s = 2 * y - 1
        return -s @ jnp.asarray(matrix) @ s - jnp.vdot(bias, s)

    return energy_of(energy, Binary((size * size,)))


def potts() -> AbstractEnergy:
    """Five coordinates of three values, neighbours in a ring alike."""
    fields = jnp.asarray(np.random.default_rng(1).standard_normal((5, 3)), jnp.float32)

    def energy(y):
        chosen = (y[:, None] == jnp.arange(3.0)[None]).astype(jnp.float32)
        return -0.8 * jnp.sum(chosen * jnp.roll(chosen, 1, axis=0)) - jnp.sum(chosen * fields)

    return energy_of(energy, Categorical((5,), 3))


class Mixed(AbstractDensity):
    """A row with a category, a number that depends on it, and a bit that depends on the number."""

    space: Record = Record(
        (
            Column("kind", "categorical", size=3),
            Column("size", "real"),
            Column("heavy", "categorical", size=2),
        )
    )

    def log_prob(self, y, x=None):
        kind, size, heavy = y[0], y[1], y[2]
        shares = jnp.log(jnp.array([0.2, 0.5, 0.3]))
        chosen = jnp.sum(jnp.where(kind == jnp.arange(3.0), shares, 0.0))
        number = jax.scipy.stats.norm.logpdf(size, kind - 1.0, 0.8)
        return chosen + number + jax.nn.log_sigmoid((2 * heavy - 1) * 2 * size)

    def sample(self, x=None, *, key):
        first, second, third = jax.random.split(key, 3)
        kind = jax.random.categorical(first, jnp.log(jnp.array([0.2, 0.5, 0.3]))).astype(jnp.float32)
        size = kind - 1.0 + 0.8 * jax.random.normal(second)
        heavy = (jax.random.uniform(third) < jax.nn.sigmoid(2 * size)).astype(jnp.float32)
        return jnp.stack([kind, size, heavy])


@dataclass(frozen=True)
class Case:
    """A density by its name, made when it is asked for, with the step that suits it."""

    name: str
    make: Callable[[], AbstractDensity]
    step: float = 0.0

    @cached_property
    def density(self) -> AbstractDensity:
        return self.make()


REAL = [
    Case("gaussian", lambda: correlated(10), 0.3),
    Case("banana", Banana, 0.3),
    Case("funnel", Funnel, 0.3),
    Case("rings", Rings, 0.1),
    Case("eight", EightGaussians, 0.2),
    Case("grid", Grid25, 0.1),
]
BOUNDED = [
    Case("box", lambda: InBox(Real((2,), -1.0, 3.0), jnp.array([1.5, 3.0]), jnp.array([2.0, 1.5])), 0.5),
    Case("above", lambda: Above(Real((2,), 0.0), jnp.array([1.5, 4.0])), 0.5),
    Case("simplex", lambda: Dirichlet(Simplex(4), jnp.array([0.8, 1.0, 2.0, 4.0])), 0.5),
]
FINITE = [Case("lattice", lambda: Table.of(lattice(3))), Case("potts", lambda: Table.of(potts()))]
MIXED = [Case("mixed", Mixed, 0.4)]
