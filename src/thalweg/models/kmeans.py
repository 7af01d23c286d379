r"""K-means: the energy is the squared distance to the nearest of k points.

\[ F(y) = \min_z E(y, z), \qquad E(y, z) = \| u(y) - W z \|^2, \quad z \in \{e_1, …, e_k\} \]

A bounded volume of low energy (A1): exactly k points have energy 0. Coordinate descent alternates the
minimum over z with the minimum over W, both in closed form.

Lloyd (1982), *Least squares quantization in PCM*; Arthur & Vassilvitskii (2007), *k-means++: the advantages
of careful seeding*.
"""

import math
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from thalweg.energy.base import Scalar
from thalweg.energy.capabilities import (
    AbstractCompletion,
    AbstractEncoder,
    AbstractMarginal,
    AbstractTabular,
    AbstractZeroTemperature,
)
from thalweg.energy.spaces import Record
from thalweg.errors import SettingsError
from thalweg.learning.fit import fit
from thalweg.learning.objective import EnergyLoss
from thalweg.learning.run import Fit
from thalweg.models.embedding import Embedding
from thalweg.models.gaussian import product
from thalweg.models.padding import AnyArray, filled_up, length_for, width_for
from thalweg.models.recipe import Problem, Recipe, setting

#: How many rows meet all centroids at once.
CHUNK = 2048
#: How many rows a step of the gradient solver sees.
BATCH = 1024


class KMeans(AbstractTabular, AbstractMarginal, AbstractCompletion, AbstractEncoder, AbstractZeroTemperature):
    r"""\(F(y) = \min_k \sum_{e\ seen} (u_e - w_{k,e})^2\), in squared units of the embedding, not in nats.

    `centroids` (k, e). The marginal is the minimum over the missing part (zero temperature), the distance
    over the observed coordinates.
    """

    embedding: Embedding
    centroids: Float[Array, "k e"]

    @property
    def space(self) -> Record:
        return self.embedding.space

    def bare(self) -> "KMeans":
        return replace(self, embedding=self.embedding.bare())

    def distances(self, y: Float[Array, "d"], observed: Bool[Array, "d"] | None = None) -> Float[Array, "k"]:
        """E(y, z) for each z: the squared distance to each centroid over the observed coordinates."""
        u, seen = self.embedding.embed(y, observed)
        return jnp.sum(jnp.where(seen[None], u[None] - self.centroids, 0) ** 2, axis=1)

    def __call__(self, y: Array, x: PyTree = None) -> Scalar:
        return jnp.min(self.distances(y))

    def marginal(self, y: Array, observed: Array, x: PyTree = None) -> Scalar:
        return jnp.min(self.distances(y, observed))

    def complete(self, y, observed, x=None):
        nearest = self.centroids[jnp.argmin(self.distances(y, observed))]
        return jnp.where(observed, y, self.embedding.unembed(nearest))

    def encode(self, y: Array, observed: Array, x: PyTree = None) -> Float[Array, "k"]:
        """The one-hot z of the nearest centroid."""
        return jax.nn.one_hot(jnp.argmin(self.distances(y, observed)), len(self.centroids))


class Clustering(NamedTuple):
    """Centroids, the cluster of each row, and the mean energy before each step (nan where not run)."""

    centroids: Float[Array, "k e"]
    labels: AnyArray
    energy: Scalar
    curve: Float[Array, "iterations"]
    step: Array
    converged: Array


def lloyd(
    u: Float[AnyArray, "n e"],
    seen: Bool[AnyArray, "n e"] | None,
    centroids: Float[Array, "k e"],
    *,
    tolerance: float = 1e-4,
    iterations: int = 300,
    clusters: int | None = None,
) -> Clustering:
    """Coordinate descent from `centroids`: assign, average over what is observed, and again.

    Ends where the centroids move by less than `tolerance` times the mean variance of a coordinate (summed
    squares). An empty cluster starts anew at the row that is farthest from its own. `seen` None: all rows
    are complete. Only the first `clusters` of the centroids take part.
    """
    shape = (length_for(len(u)), u.shape[1])
    rows = filled_up(u if seen is None else np.where(seen, u, np.zeros((), u.dtype)), shape)
    known = None if seen is None else chunked(filled_up(seen, shape))
    live = np.int32(len(centroids) if clusters is None else clusters)
    found = _lloyd(chunked(rows), known, np.int32(len(u)), centroids, live, tolerance, iterations)
    return found._replace(labels=np.asarray(found.labels)[: len(u)])


def plus_plus(
    u: Float[AnyArray, "n e"],
    seen: Bool[AnyArray, "n e"] | None,
    clusters: int,
    *,
    key: PRNGKeyArray,
    slots: int | None = None,
) -> Float[Array, "k e"]:
    r"""k-means++ seeding: rows drawn with probability in proportion to their energy so far.

    Of \(2 + \log k\) candidates the one that lowers the total energy most is kept (Arthur & Vassilvitskii
    2007). Missing coordinates of a row that becomes a centroid take the mean of their column. With `slots` the
    result has so many rows, 0 after the first `clusters`.
    """
    shape = (length_for(len(u)), u.shape[1])
    known = filled_up(np.ones(u.shape, bool) if seen is None else seen, shape)
    return _plus_plus(
        filled_up(u, shape), known, np.int32(len(u)), np.int32(clusters), slots or clusters, key
    )


@partial(jax.jit, static_argnames="iterations")
def _lloyd(
    rows: Array,
    known: Array | None,
    count: Array,
    centroids: Array,
    live: Array,
    tolerance: float,
    iterations: int,
) -> Clustering:
    # Rows last: what is taken across clusters or coordinates then runs along rows, many at once.
    u = jnp.swapaxes(rows, 1, 2)
    seen = None if known is None else jnp.swapaxes(known, 1, 2)
    limit = tolerance * _mean_variance(u, seen, count)
    squares = jnp.sum(u**2, axis=1)

    def improve(state: Clustering) -> Clustering:
        found = _assign(u, seen, squares, count, state.centroids, live)
        # A coordinate that no row of the cluster shows stays where it is.
        means = jnp.where(found.counts > 0, found.sums / jnp.maximum(found.counts, 1), state.centroids)
        moved = _reseed(u, seen, count, means, found, live)
        shift = jnp.sum((moved - state.centroids) ** 2)
        curve = state.curve.at[state.step].set(jnp.sum(found.energies) / count.astype(u.dtype))
        return Clustering(moved, found.labels, state.energy, curve, state.step + 1, shift <= limit)

    start = Clustering(
        centroids,
        jnp.zeros(squares.size, jnp.int32),
        jnp.asarray(jnp.inf, u.dtype),
        jnp.full(iterations, jnp.nan, u.dtype),
        jnp.asarray(0),
        jnp.asarray(False),
    )
    end = jax.lax.while_loop(lambda s: (s.step < iterations) & ~s.converged, improve, start)
    labels = _assign(u, seen, squares, count, end.centroids, live).labels
    return end._replace(labels=labels, energy=_energy(u, seen, count, end.centroids, labels))


class Assignment(NamedTuple):
    """By row the label and energy (to the rounding of its squared length); by cluster the members, and the sums and
    counts of what they show."""

    labels: Array
    energies: Array
    members: Float[Array, "k"]
    sums: Float[Array, "k e"]
    counts: Array


def _assign(
    u: Float[Array, "a e m"],
    seen: Bool[Array, "a e m"] | None,
    squares: Float[Array, "a m"],
    count: Array,
    centroids: Float[Array, "k e"],
    live: Array,
) -> Assignment:
    k = len(centroids)
    z = jnp.arange(k, dtype=jnp.int32)[:, None]
    lengths = jnp.sum(centroids**2, axis=1)[:, None]

    def chunk(total, part):
        rows, mask, square, w = part
        known = None if mask is None else mask.astype(rows.dtype)
        norms = lengths if known is None else product(centroids**2, known)
        relative = jnp.where(z < live, norms - 2 * product(centroids, rows), jnp.inf)
        least = jnp.min(relative, axis=0)
        # The first of equals; NaN, which equals nothing, goes to the last cluster.
        labels = jnp.min(jnp.where(relative == least[None], z, k - 1), axis=0)
        energies = jnp.maximum(square + least, 0) * w
        shares = jnp.where(labels[None] == z, w[None], 0)
        members = jnp.sum(shares, axis=1)
        counts = members[:, None] if known is None else product(shares, known.T)
        sums = jax.tree.map(jnp.add, total, (members, product(shares, rows.T), counts))
        return sums, (labels, energies)

    counts = jnp.zeros((k, 1 if seen is None else u.shape[1]), u.dtype)
    start = jnp.zeros(k, u.dtype), jnp.zeros_like(centroids), counts
    parts = u, seen, squares, _weights(u, count)
    (members, sums, counts), (labels, energies) = jax.lax.scan(chunk, start, parts)
    return Assignment(labels.reshape(-1), energies.reshape(-1), members, sums, counts)


def _energy(u: Array, seen: Array | None, count: Array, centroids: Array, labels: Array) -> Scalar:
    """The mean energy of a row, by differences: the product of `_assign` cancels where clusters are narrow."""

    def chunk(total, part):
        rows, mask, w, labels = part
        residual = rows - centroids.T[:, labels]
        residual = residual if mask is None else jnp.where(mask, residual, 0)
        return total + jnp.sum(residual**2 * w[None]), None

    weights = _weights(u, count)
    parts = u, seen, weights, labels.reshape(weights.shape)
    return jax.lax.scan(chunk, jnp.zeros((), u.dtype), parts)[0] / count.astype(u.dtype)


def _weights(u: Float[Array, "a e m"], count: Array) -> Float[Array, "a m"]:
    """1 for rows, 0 for what fills the chunks up."""
    chunks, _, size = u.shape
    return (jnp.arange(chunks * size) < count).reshape(chunks, size).astype(u.dtype)


def _reseed(
    u: Array, seen: Array | None, count: Array, centroids: Array, found: Assignment, live: Array
) -> Array:
    """Empty clusters at the rows that are farthest from their centroid, one each."""
    empty = (found.members == 0) & (jnp.arange(len(centroids)) < live)

    def move(centroids):
        _, farthest = jax.lax.top_k(found.energies, min(len(centroids), len(found.energies)))
        # Rows that fill up have energy 0 and come last.
        last = jnp.minimum(len(farthest), count) - 1
        chunk, place = jnp.divmod(farthest[jnp.clip(jnp.cumsum(empty) - 1, 0, last)], u.shape[2])
        rows = u[chunk, :, place]
        known = jnp.ones_like(rows, bool) if seen is None else seen[chunk, :, place]
        return jnp.where(empty[:, None] & known, rows, centroids)

    return jax.lax.cond(jnp.any(empty), move, lambda c: c, centroids)


@partial(jax.jit, static_argnames="slots")
def _plus_plus(u, seen, count, clusters, slots, key):
    trials = 2 + int(math.log(slots))
    masked = jnp.where(seen, u, 0)
    means = jnp.sum(masked, axis=0) / jnp.maximum(jnp.sum(seen, axis=0), 1).astype(u.dtype)
    filled = jnp.where(seen, u, means[None])
    norms = jnp.sum(masked**2, axis=1)

    def energies(points):
        squares = product(seen.astype(u.dtype), (points**2).T) + norms[:, None]
        return jnp.maximum(squares - 2 * product(masked, points.T), 0)

    def add(i, state):
        centroids, nearest, key = state
        key, draw = jax.random.split(key)
        candidates = filled[jax.random.categorical(draw, jnp.log(nearest), shape=(trials,))]
        reduced = jnp.minimum(nearest[:, None], energies(candidates))
        best = jnp.argmin(jnp.sum(reduced, axis=0))
        return centroids.at[i].set(candidates[best]), reduced[:, best], key

    key, first = jax.random.split(key)
    start = filled[jax.random.randint(first, (), 0, count)]
    centroids = jnp.zeros((slots, u.shape[1]), u.dtype).at[0].set(start)
    return jax.lax.fori_loop(1, clusters, add, (centroids, energies(start[None])[:, 0], key))[0]


def _mean_variance(u: Float[Array, "a e m"], seen: Array | None, count: Array) -> Scalar:
    known = _weights(u, count)[:, None] > 0 if seen is None else seen
    number = jnp.maximum(jnp.sum(known, axis=(0, 2)), 1).astype(u.dtype)
    means = jnp.sum(jnp.where(known, u, 0), axis=(0, 2)) / number
    residual = jnp.where(known, u - means[None, :, None], 0)
    return jnp.mean(jnp.sum(residual**2, axis=(0, 2)) / number)


def chunked(rows: Float[AnyArray, "n ..."], most: int = CHUNK) -> Float[Array, "a m ..."]:
    """(chunks, rows of a chunk, …), at most `most` rows in each, padded with zeros."""
    size = min(most, len(rows))
    chunks = math.ceil(len(rows) / size)
    padding = [(0, chunks * size - len(rows)), *[(0, 0)] * (rows.ndim - 1)]
    # On the host what is there: for JAX each length is a program of its own.
    pad = np.pad if isinstance(rows, np.ndarray) else jnp.pad
    return jnp.asarray(pad(rows, padding).reshape(chunks, size, *rows.shape[1:]))


def cluster(
    u: Float[AnyArray, "n e"],
    seen: Bool[AnyArray, "n e"] | None,
    clusters: int,
    *,
    key: PRNGKeyArray,
    restarts: int = 1,
    tolerance: float = 1e-4,
    iterations: int = 300,
    slots: int | None = None,
) -> Clustering:
    """The best of `restarts` runs of `lloyd` from `plus_plus`; compiled for `slots` clusters, where given."""
    n, e = u.shape
    shape = (n, width_for(e, n))
    rows = filled_up(u, shape)
    known = None if seen is None else filled_up(seen, shape, True)
    # The mean variance of a coordinate, with those that fill up.
    share = tolerance * shape[1] / e
    runs = [
        lloyd(
            rows,
            known,
            plus_plus(rows, known, clusters, key=k, slots=slots),
            tolerance=share,
            iterations=iterations,
            clusters=clusters,
        )
        for k in jax.random.split(key, restarts)
    ]
    best = min(runs, key=lambda run: float(run.energy))
    return best._replace(centroids=jnp.asarray(np.asarray(best.centroids)[:clusters, :e]))


@dataclass(frozen=True)
class Settings:
    """What `kmeans` can be told."""

    clusters: int = setting(10, "how many points of energy 0")
    solver: str = setting("coordinate", "coordinate (Lloyd) or gradient (Adam on mini-batches)")
    restarts: int = setting(4, "how many runs of coordinate descent; the lowest energy is kept")
    iterations: int = setting(300, "the largest number of passes over the rows")
    tolerance: float = setting(
        1e-4, "stop when the centroids move by less, in mean variances of a coordinate"
    )
    rate: float = setting(0.05, "the step size of the gradient solver")
    scale: str = setting("auto", "auto, column, common or none: how columns are brought to one size")

    def __post_init__(self):
        if self.solver not in ("coordinate", "gradient"):
            raise SettingsError(f"solver {self.solver!r} is not known: choose coordinate or gradient")
        for name in ("clusters", "restarts", "iterations"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} must be at least 1, not {getattr(self, name)}")


def skeleton(space: Record, settings: Settings) -> KMeans:
    embedding = Embedding(space, settings.scale)
    return KMeans(embedding, jnp.zeros((settings.clusters, embedding.width)))


def train(problem: Problem) -> Fit:
    """Coordinate or gradient descent on the mean energy, from k-means++; missing cells cost nothing."""
    if problem.settings.solver == "gradient":
        return _train_by_gradient(problem)
    started, settings = time.perf_counter(), problem.settings
    embedding = Embedding(problem.space, settings.scale)
    u, seen = embedding.rows(problem.rows)
    found = cluster(
        u,
        None if problem.rows.complete.all() else seen,
        settings.clusters,
        key=problem.key,
        restarts=settings.restarts,
        tolerance=settings.tolerance,
        iterations=settings.iterations,
    )
    steps = int(found.step)
    history = [
        {"step": i + 1, "loss": float(value)} for i, value in enumerate(np.asarray(found.curve[:steps]))
    ]
    status = "converged" if found.converged else "ran all steps"
    return Fit(KMeans(embedding, found.centroids), status, steps, time.perf_counter() - started, history)


def _train_by_gradient(problem: Problem) -> Fit:
    """The energy loss by Adam from k-means++: `iterations` passes over the rows."""
    settings, rows = problem.settings, problem.rows
    embedding = Embedding(problem.space, settings.scale)
    u, seen = embedding.rows(rows)
    seed_key, key = jax.random.split(problem.key)
    centroids = plus_plus(u, seen, settings.clusters, key=seed_key)
    batch = min(BATCH, len(rows))
    return fit(
        KMeans(embedding, centroids),
        (jnp.asarray(rows.values), jnp.asarray(rows.observed)),
        EnergyLoss(),
        optimiser=optax.adam(settings.rate),
        steps=settings.iterations * (len(rows) // batch),
        batch=batch,
        key=key,
        run=problem.run,
    )


KMEANS = Recipe(
    name="kmeans",
    title="K-means",
    code="A1",
    paper="Lloyd (1982); Arthur & Vassilvitskii (2007)",
    formula="F(y) = min_z ‖y − W z‖², z ∈ {e_1, …, e_k}",
    about="The squared distance to the nearest of k points: clusters, prototypes, a quick anomaly score.",
    energy=KMeans,
    settings=Settings,
    skeleton=skeleton,
    train=train,
)
