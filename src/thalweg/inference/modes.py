r"""All answers: every minimum of \(F(\cdot, x)\) in a box, with its energy and its probability."""

import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree
from scipy.special import logsumexp

from thalweg.energy.base import AbstractEnergy
from thalweg.energy.finite import named
from thalweg.energy.spaces import AbstractSpace, Real
from thalweg.errors import SettingsError
from thalweg.inference.basins import basins
from thalweg.inference.gradient import Gradient, require_real
from thalweg.inference.minimise import minimise

#: Cells of the grid along each dimension, of one and of two.
CELLS = {1: 1024, 2: 96}
#: Rounds of a finer grid about a minimum, how many of its points along each dimension, and its width in cells.
ZOOMS, FINE, ABOUT = 5, 9, 2.0
#: Draws from anywhere in a box of more dimensions: the lowest of them, and as many others, are descended from.
ANYWHERE = 4096
#: Draws about each minimum, and how much wider they are than its curvature says.
ABOUT_EACH, WIDER = 1024, 1.5
#: Points between two minima at which the energy is looked at; and how near, in shares of the box, they are the same.
BETWEEN, SAME = 15, 1e-3

_DESCENT = Gradient(optax.adam(0.02), steps=400, tolerance=1e-4)


class Modes(NamedTuple):
    """The minima, lowest first: their `values` (m, ...), `energies` (m,), and `probabilities` (m,), with the standard
    `errors` (m,) of these (0 where nothing was drawn)."""

    values: Float[np.ndarray, "m ..."]
    energies: Float[np.ndarray, "m"]
    probabilities: Float[np.ndarray, "m"]
    errors: Float[np.ndarray, "m"]


class Unit(AbstractEnergy):
    """An energy over a box as one over the unit cube, flat."""

    energy: AbstractEnergy

    @property
    def space(self) -> AbstractSpace:
        return Real((math.prod(self.energy.space.shape),), 0.0, 1.0)

    def point(self, u: Float[Array, "d"]) -> Float[Array, "..."]:
        lower, upper = (jnp.asarray(bound, jnp.float32) for bound in self.energy.space.bounds())
        return lower + (upper - lower) * u.reshape(lower.shape)

    def __call__(self, y, x=None):
        return self.energy(self.point(y), x)


def modes(
    energy: AbstractEnergy, x: PyTree = None, *, barrier: float = 0.1, starts: int = 64, seed: int = 0
) -> Modes:
    r"""Every minimum of \(F(\cdot, x)\) that lies more than `barrier` nats below the pass to a lower one.

    The probability of a minimum is the share of \(\int e^{-F} dy\) around it. In one and two dimensions the basins are
    found on a grid of `CELLS`, whose cells drain downhill, and the integral is the sum over the basin's cells; the
    minimum is then sought on finer and finer grids. No slope is needed; what is narrower than two cells may be missed.
    In more dimensions `starts` points are descended from, the lower half of `ANYWHERE` draws among them; minima are the
    same where the energy on the line between them rises less than `barrier` above the higher; and the integral, over
    the points that lie nearest to each, is that of draws from anywhere and around the minima, weighted, with its
    standard error. There a minimum into whose basin no start fell is missed.

    Raises `SettingsError` for a space that is not a bounded box of real coordinates.
    """
    box = _checked(energy, barrier, starts)
    if math.prod(energy.space.shape) in CELLS:
        found = _on_a_grid(box, x, barrier)
    else:
        found = _by_descent(box, x, barrier, starts, seed)
    values = np.stack([np.asarray(box.point(jnp.asarray(u, jnp.float32))) for u in found.values])
    return found._replace(values=values)


def _checked(energy: AbstractEnergy, barrier: float, starts: int) -> Unit:
    if not barrier >= 0 or starts < 2:
        raise SettingsError(
            f"a barrier is not negative ({barrier:g}), and at least 2 starts are tried ({starts})"
        )
    require_real("a search for all minima", energy, np.zeros(energy.space.shape, bool))
    lower, upper = energy.space.bounds()
    loose = np.flatnonzero(~(np.isfinite(lower) & np.isfinite(upper))).tolist()
    if loose:
        raise SettingsError(
            f"all minima are sought in a box, and {named(energy.space, loose)} unbounded: give the space bounds"
        )
    return Unit(energy)


def _on_a_grid(box: Unit, x: PyTree, barrier: float) -> Modes:
    dimensions = box.space.shape[0]
    cells = CELLS[dimensions]
    middles = (np.arange(cells, dtype=np.float32) + 0.5) / cells
    points = np.stack(np.meshgrid(*[middles] * dimensions, indexing="ij"), -1).reshape(-1, dimensions)
    energies = np.asarray(_energies(box, points, x), np.float64)
    found = basins(energies.reshape((cells,) * dimensions), barrier)
    # As many as a power of two, so that few shapes are compiled.
    padded = 1 << (len(found.cells) - 1).bit_length()
    coarse = points[found.cells[np.arange(padded) % len(found.cells)]]
    values, exact = (np.asarray(a)[: len(found.cells)] for a in _zoomed(box, coarse, x, 1 / cells))
    order = np.argsort(exact, kind="stable")
    return Modes(values[order], exact[order], found.shares[order], np.zeros(len(order)))


@eqx.filter_jit
def _energies(energy: AbstractEnergy, points: np.ndarray | Array, x: PyTree) -> Float[Array, "n"]:
    return jax.vmap(lambda y: energy(y, x))(jnp.asarray(points))


@eqx.filter_jit
def _zoomed(box: Unit, points: Array, x: PyTree, cell: float) -> tuple[Array, Array]:
    """Each point moved to the lowest near it, and the energies there."""
    dimensions = box.space.shape[0]
    offsets = np.linspace(-ABOUT / 2, ABOUT / 2, FINE, dtype=np.float32)
    around = jnp.asarray(np.stack(np.meshgrid(*[offsets] * dimensions), -1).reshape(-1, dimensions))

    def zoom(y):
        def closer(y, scale):
            tried = jnp.clip(y[None] + scale * around, 0.0, 1.0)
            found = jax.vmap(lambda y: box(y, x))(tried)
            return tried[jnp.argmin(found)], None

        scales = cell * jnp.float32(2 * ABOUT / (FINE - 1)) ** jnp.arange(ZOOMS, dtype=jnp.float32)
        y, _ = jax.lax.scan(closer, y, scales)
        return y, box(y, x)

    return jax.vmap(zoom)(jnp.asarray(points))


def _by_descent(box: Unit, x: PyTree, barrier: float, starts: int, seed: int) -> Modes:
    generator = np.random.default_rng(seed)
    anywhere = generator.random((ANYWHERE, box.space.shape[0]), np.float32)
    rank = np.argsort(np.asarray(_energies(box, anywhere, x)))
    begin = anywhere[
        np.concatenate([rank[: starts // 2], generator.permutation(rank[starts // 2 :])])[:starts]
    ]
    points, energies = (np.asarray(a) for a in _descended(box, begin, x))
    kept = _apart(box, x, points[np.isfinite(energies)], energies[np.isfinite(energies)], barrier)
    probabilities, errors = _shares(box, x, kept, generator)
    return Modes(kept, np.asarray(_energies(box, kept, x)), probabilities, errors)


@eqx.filter_jit
def _descended(box: Unit, begin: Array, x: PyTree) -> tuple[Array, Array]:
    def descend(start):
        found = minimise(box, start, x, solver=_DESCENT, throw=False)
        return found.value, found.energy

    return jax.vmap(descend)(jnp.asarray(begin))


def _apart(box: Unit, x: PyTree, points: np.ndarray, energies: np.ndarray, barrier: float) -> np.ndarray:
    """The lowest of all points between which the energy does not rise."""
    order = np.argsort(energies, kind="stable")
    points, energies = points[order], energies[order]
    kept: list[int] = []
    share = np.linspace(0, 1, BETWEEN + 2, dtype=np.float32)[1:-1, None, None]
    for i in range(len(points)):
        if not kept:
            kept.append(i)
            continue
        lower = points[kept]
        if np.abs(lower - points[i]).max(axis=1).min() < SAME:
            continue
        # Filled up to one shape.
        ends = lower[np.arange(len(points)) % len(lower)]
        line = (points[i] + share * (ends - points[i])).reshape(-1, points.shape[1])
        highest = np.asarray(_energies(box, line, x)).reshape(BETWEEN, -1).max(axis=0)
        if (highest - energies[i]).min() >= barrier:
            kept.append(i)
    return points[kept]


def _shares(
    box: Unit, x: PyTree, kept: np.ndarray, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The share of each minimum and its standard error, by draws from a mixture of the uniform density and of a normal
    one around each minimum, weighted."""
    m, d = kept.shape
    factors = [_spread(np.asarray(_hessian(box, jnp.asarray(y), x), np.float64)) for y in kept]
    noise = generator.standard_normal((m, ABOUT_EACH, d))
    near = np.concatenate([y + z @ factor.T for y, z, factor in zip(kept, noise, factors, strict=True)])
    near = near[((near >= 0) & (near <= 1)).all(axis=1)]
    anywhere = generator.random((ANYWHERE, d))
    tried = np.concatenate([anywhere, near]).astype(np.float32)
    total = ANYWHERE + m * ABOUT_EACH
    log_q = [np.full(len(tried), math.log(ANYWHERE / total))]
    for y, factor in zip(kept, factors, strict=True):
        z = np.linalg.solve(factor, (tried - y).T.astype(np.float64))
        constant = np.linalg.slogdet(factor)[1] + d / 2 * math.log(2 * math.pi)
        log_q.append(math.log(ABOUT_EACH / total) - (z**2).sum(axis=0) / 2 - constant)
    log_w = -np.asarray(_energies(box, tried, x), np.float64) - logsumexp(log_q, axis=0)
    weights = np.exp(log_w - logsumexp(log_w))
    nearest = np.argmin(((tried[:, None] - kept[None]) ** 2).sum(axis=2), axis=1)
    inside = nearest[:, None] == np.arange(m)
    shares = weights @ inside
    return shares, np.sqrt((weights**2) @ (inside - shares) ** 2)


@eqx.filter_jit
def _hessian(box: Unit, y: Array, x: PyTree) -> Float[Array, "d d"]:
    return jax.hessian(lambda y: box(y, x))(y)


def _spread(hessian: np.ndarray) -> np.ndarray:
    """A factor of the covariance that the curvature says, wider, and at most as wide as the box."""
    values, vectors = np.linalg.eigh(np.where(np.isfinite(hessian), hessian, 0))
    return vectors * np.minimum(WIDER / np.sqrt(np.maximum(values, 1e-6)), 1.0)
