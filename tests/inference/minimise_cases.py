"""Energies whose minima are known from elsewhere: numpy's linear algebra, active sets, enumeration."""

import itertools

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from thalweg.energy import AbstractEnergy, AbstractSpace, Binary, Column, Real, Record

RNG = np.random.default_rng(7)
_ROOT = RNG.normal(size=(3, 3))
MATRIX = _ROOT @ _ROOT.T + np.eye(3)
TARGET = np.array([3.0, -2.0, 1.0])


class Quadratic(AbstractEnergy):
    r"""\(y^\top A y / 2 - (b + x)^\top y\); `tag` is an integer that no derivative may trip over."""

    matrix: Array
    target: Array
    space: AbstractSpace = Real((3,))
    tag: Array = eqx.field(default_factory=lambda: jnp.arange(2))

    def __call__(self, y, x=None):
        pull = self.target if x is None else self.target + x
        return y @ self.matrix @ y / 2 - pull @ y


def quadratic(space=Real((3,)), target=TARGET) -> Quadratic:  # noqa: B008
    return Quadratic(jnp.asarray(MATRIX, jnp.float32), jnp.asarray(target, jnp.float32), space)


def solve_quadratic(target=TARGET, observed=None, values=None):
    """The minimum with some coordinates held, in float64."""
    held = np.zeros(3, bool) if observed is None else np.asarray(observed)
    y = np.zeros(3) if values is None else np.array(values, float)
    if (~held).any():
        rest = target[~held] - MATRIX[np.ix_(~held, held)] @ y[held]
        y[~held] = np.linalg.solve(MATRIX[np.ix_(~held, ~held)], rest)
    return y


def solve_boxed(target=TARGET, lower=0.0, upper=1.0):
    """The minimum in a box: the best of all active sets whose solution is admissible."""
    best = None
    for choice in itertools.product([lower, None, upper], repeat=3):
        held = np.array([c is not None for c in choice])
        y = solve_quadratic(target, held, [0.0 if c is None else c for c in choice])
        if np.all((y >= lower) & (y <= upper)):
            value = y @ MATRIX @ y / 2 - target @ y
            if best is None or value < best[0]:
                best = (value, y)
    return best[1]


class Valley(AbstractEnergy):
    r"""Rosenbrock's valley \((a - y_1)^2 + 5 (y_2 - y_1^2)^2\), least at \((a, a^2)\)."""

    a: Array
    space: AbstractSpace = Real((2,))

    def __call__(self, y, x=None):
        return (self.a - y[0]) ** 2 + 5 * (y[1] - y[0] ** 2) ** 2


_COUPLINGS = np.triu(RNG.normal(size=(8, 8)), 1).astype(np.float32)
FIELD = RNG.normal(size=8).astype(np.float32)


class Ising(AbstractEnergy):
    r"""\(-s^\top J s - h^\top s\) with spins \(s = 2y - 1\)."""

    field: Array
    space: AbstractSpace = Binary((8,))

    def __call__(self, y, x=None):
        spins = 2 * y - 1
        return -(spins @ jnp.asarray(_COUPLINGS) @ spins) - self.field @ spins


def ising_table():
    """All points and their energies, in lexicographic order, in float64."""
    y = np.array(list(itertools.product([0, 1], repeat=8)), float)
    s = 2 * y - 1
    return y, -np.einsum("ni,ij,nj->n", s, _COUPLINGS.astype(float), s) - s @ FIELD.astype(float)


MIXED = Record((Column("size", "real"), Column("colour", "categorical", 3), Column("count", "integer", 4)))
OFFSETS = np.array([[0.4, -1.0, 2.0, 0.3], [1.2, 0.1, -0.7, 0.8], [-2.0, 0.9, 0.2, 0.5]], np.float32)


class MixedEnergy(AbstractEnergy):
    r"""\(\frac12 (y_0 - t_{y_1 y_2})^2 - 0.1\, y_2 + 0.2\,(y_1 - 1)^2\)."""

    offsets: Array
    space: AbstractSpace = MIXED

    def __call__(self, y, x=None):
        place = self.offsets[y[1].astype(int), y[2].astype(int)]
        return (y[0] - place) ** 2 / 2 - 0.1 * y[2] + 0.2 * (y[1] - 1) ** 2


def central(function, at, step=1e-5):
    """The Jacobian by central differences, in float64; a column a coordinate of `at`."""
    at = np.asarray(at, float)
    columns = []
    for i in range(at.size):
        move = np.zeros(at.size)
        move[i] = step
        columns.append((function(at + move) - function(at - move)) / (2 * step))
    return np.stack(columns, axis=-1)
