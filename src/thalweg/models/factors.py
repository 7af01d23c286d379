r"""A mixture of factor analysers and latent classes: what any part of a mixed row says about the rest, cheaply.

\[ p(y) = \sum_k w_k \int \mathcal{N}(z; 0, I_q) \prod_{d\ linear} \mathcal{N}(u_d; \mu_{kd} + \lambda_{kd}^\top z,
   \psi_{kd}) \prod_{d\ levels} \theta_{kd,y_d} \, dz \]

Numbers and columns of two values are linear in \(z\) given the component \(k\), other categories depend on \(k\)
alone. Given \(z\) and \(k\) all columns are independent, so that any set of them is taken in by a sum over its
columns, a column more by one step of Kalman's filter, and a missing cell by leaving it out.

Ghahramani & Hinton (1996), *The EM algorithm for mixtures of factor analyzers*; Lazarsfeld & Henry (1968), *Latent
structure analysis*; Kalman (1960), *A new approach to linear filtering and prediction problems*.
"""

import math
from functools import lru_cache, partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from thalweg.data.rows import Rows
from thalweg.energy.base import Scalar
from thalweg.energy.spaces import Column, Record
from thalweg.errors import SettingsError
from thalweg.models import kmeans
from thalweg.models.embedding import Embedding, factors
from thalweg.models.gaussian import LOG_TAU
from thalweg.nn.initial import drawn
from thalweg.triangular import factorise, product

#: Coordinates are cut off this many deviations from the middle, where single precision would lose the rest.
FAR = 30.0
#: The least variance of a number or of a value of two given z, in squares of its unit: this mixture is to be smooth.
LEAST = 0.3
#: How many rows the priors count for: of loadings and means (that they are 0), of the noise (that it is
#: what its column and all columns have on average), of the levels (that they are those of all rows).
LOADING_ROWS, MEAN_ROWS, NOISE_ROWS, LEVEL_ROWS = 1.0, 0.1, 200.0, 5.0
#: How many mixtures lie side by side, each from the best of some runs of k-means; the deviation of first loadings.
STARTS, CLUSTERINGS, FIRST_LOADING = 2, 5, 0.7
#: A component needs about this many rows.
ROWS_A_COMPONENT = 25
#: About how many numbers an iteration of EM may add up, which bounds the rows that it sees.
WORK = 4e9
#: How many rows are at work at once.
CHUNK = 1024


class Belief(NamedTuple):
    r"""What some columns of a row say: \(\log w_k p(y_o \mid k)\), and the Gaussian \(p(z \mid y_o, k)\)."""

    log_joint: Float[Array, "k"]
    mean: Float[Array, "k q"]
    covariance: Float[Array, "k q q"]

    @property
    def responsibilities(self) -> Float[Array, "k"]:
        r"""\(p(k \mid y_o)\)."""
        return jax.nn.softmax(self.log_joint)


class Layout(NamedTuple):
    """The constants of a space, in NumPy: `linear` and `levels` are the columns of the two kinds, `slot` the place
    of each column among its own; a coordinate is `factor * (code - center)`, with the deviation `spread`, and its
    noise has at least the variance `floor`; `first` is where a category's levels begin."""

    linear: np.ndarray
    levels: np.ndarray
    slot: np.ndarray
    is_linear: np.ndarray
    center: np.ndarray
    factor: np.ndarray
    spread: np.ndarray
    floor: np.ndarray
    sizes: np.ndarray
    first: np.ndarray


@lru_cache(maxsize=64)
def layout_of(columns: tuple[Column, ...]) -> Layout:
    is_linear = np.array([c.kind != "categorical" or c.size == 2 for c in columns])
    binary = np.array([c.kind == "categorical" and c.size == 2 for c in columns])
    counts = np.array([c.kind == "integer" for c in columns])
    linear, levels = np.flatnonzero(is_linear), np.flatnonzero(~is_linear)
    slot = np.zeros(len(columns), np.int32)
    slot[linear], slot[levels] = np.arange(len(linear)), np.arange(len(levels))
    center = np.where(binary, 0.5, [c.center for c in columns])
    factor = np.where(binary, 2.0, factors(columns, "auto"))
    sizes = np.array([columns[i].size for i in levels], int)
    # A density of counts cannot be narrower than the bin of one.
    floor = np.where(counts, factor**2 / 12, 0.0) + LEAST
    return Layout(
        linear,
        levels,
        slot,
        is_linear,
        center[linear].astype(np.float32),
        factor[linear].astype(np.float32),
        (np.array([c.spread for c in columns]) * factor)[linear].astype(np.float32),
        floor[linear].astype(np.float32),
        sizes,
        (np.cumsum(sizes) - sizes).astype(np.int32),
    )


class FactorMixture(eqx.Module):
    r"""\(\log w\) (k), \(\mu\) (k, e), \(\lambda\) (k, e, q), \(\psi\) (k, e) and \(\log\theta\) (k, l)."""

    space: Record = eqx.field(static=True)
    log_weights: Float[Array, "k"]
    means: Float[Array, "k e"]
    loadings: Float[Array, "k e q"]
    noise: Float[Array, "k e"]
    levels: Float[Array, "k l"]

    @property
    def layout(self) -> Layout:
        return layout_of(self.space.columns)

    @property
    def prior(self) -> Belief:
        """What is known of a row before any of its columns."""
        k, _, q = self.loadings.shape
        return Belief(self.log_weights, jnp.zeros((k, q)), jnp.broadcast_to(jnp.eye(q), (k, q, q)))

    def coordinates(
        self, y: Float[Array, "d"], observed: Bool[Array, "d"]
    ) -> tuple[Float[Array, "e"], Bool[Array, "e"]]:
        """The linear columns as numbers of comparable size, and which of them are seen."""
        layout = self.layout
        seen = observed[layout.linear]
        codes = jnp.where(seen, y[layout.linear], layout.center)
        return jnp.clip((codes - layout.center) * layout.factor, -FAR, FAR), seen

    def belief(self, y: Float[Array, "d"], observed: Bool[Array, "d"]) -> Belief:
        r"""All known columns at once, \(\Sigma_z^{-1} = I + \sum_d \lambda_d\lambda_d^\top/\psi_d\)."""
        u, seen = self.coordinates(y, observed)
        return self._belief(u, seen.astype(u.dtype), self._levels_evidence(y, observed))

    def _levels_evidence(self, y: Array, observed: Array) -> Float[Array, "k"]:
        layout = self.layout
        if not len(layout.levels):
            return jnp.zeros(len(self.log_weights))
        known = observed[layout.levels]
        codes = jnp.where(known, y[layout.levels], 0).astype(jnp.int32)
        codes = jnp.clip(codes, 0, layout.sizes - 1)
        return jnp.sum(jnp.where(known[None], self.levels[:, layout.first + codes], 0), axis=1)

    def _belief(self, u: Float[Array, "e"], known: Float[Array, "e"], evidence: Float[Array, "k"]) -> Belief:
        k, e, q = self.loadings.shape
        scaled = self.loadings / self.noise[:, :, None]
        squares = (scaled[:, :, :, None] * self.loadings[:, :, None, :]).swapaxes(0, 1).reshape(e, k * q * q)
        precision = jnp.eye(q)[None] + product(known, squares).reshape(k, q, q)
        residual = known[None] * (u[None] - self.means)
        pull = jnp.einsum("ke,keq->kq", residual, scaled, precision=jax.lax.Precision.HIGHEST)
        _, root = jax.vmap(factorise)(precision)
        covariance = product(root.swapaxes(1, 2), root)
        mean = jnp.einsum("kpq,kq->kp", covariance, pull)
        squared = jnp.sum(residual**2 / self.noise, axis=1) - jnp.sum(mean * pull, axis=1)
        volume = product(jnp.log(self.noise) + LOG_TAU, known)
        shrunk = jnp.sum(jnp.log(jnp.diagonal(root, axis1=1, axis2=2)), axis=1)
        return Belief(self.log_weights + evidence - 0.5 * (squared + volume) + shrunk, mean, covariance)

    def update(self, belief: Belief, d: Int[Array, ""], value: Float[Array, ""]) -> Belief:
        """The belief once column `d` is known too."""
        layout = self.layout
        out = belief
        slot = jnp.asarray(layout.slot)[d]
        if len(layout.linear):
            i = jnp.minimum(slot, len(layout.linear) - 1)
            center, factor = jnp.asarray(layout.center)[i], jnp.asarray(layout.factor)[i]
            out = self._filter(belief, i, jnp.clip((value - center) * factor, -FAR, FAR))
        if len(layout.levels):
            j = jnp.minimum(slot, len(layout.levels) - 1)
            code = jnp.clip(value.astype(jnp.int32), 0, jnp.asarray(layout.sizes, jnp.int32)[j] - 1)
            told = belief._replace(
                log_joint=belief.log_joint + self.levels[:, jnp.asarray(layout.first)[j] + code]
            )
            is_linear = jnp.asarray(layout.is_linear)[d]
            out = jax.tree.map(partial(jnp.where, is_linear), out, told) if len(layout.linear) else told
        return out

    def _filter(self, belief: Belief, i: Int[Array, ""], u: Float[Array, ""]) -> Belief:
        loading, noise = self.loadings[:, i], self.noise[:, i]
        spread = jnp.einsum("kpq,kq->kp", belief.covariance, loading)
        variance = noise + jnp.sum(spread * loading, axis=1)
        residual = u - self.means[:, i] - jnp.sum(loading * belief.mean, axis=1)
        gain = spread / variance[:, None]
        return Belief(
            belief.log_joint - 0.5 * (residual**2 / variance + jnp.log(variance) + LOG_TAU),
            belief.mean + gain * residual[:, None],
            belief.covariance - gain[:, :, None] * spread[:, None, :],
        )

    def moments(self, belief: Belief) -> tuple[Float[Array, "e"], Float[Array, "e"]]:
        """The mean and deviation of every coordinate."""
        means = self.means + jnp.einsum("keq,kq->ke", self.loadings, belief.mean)
        outer = self.loadings[:, :, :, None] * self.loadings[:, :, None, :]
        within = jnp.einsum("keqp,kqp->ke", outer, belief.covariance)
        return _mixed(belief.responsibilities, means, within + self.noise)

    def moment(self, belief: Belief, i: Int[Array, ""]) -> tuple[Scalar, Scalar]:
        """The mean and deviation of coordinate `i`."""
        loading = self.loadings[:, i]
        means = self.means[:, i] + jnp.sum(loading * belief.mean, axis=1)
        within = jnp.einsum("kq,kqp,kp->k", loading, belief.covariance, loading)
        return _mixed(belief.responsibilities, means, within + self.noise[:, i])

    def energy(self, y: Float[Array, "d"], observed: Bool[Array, "d"]) -> Scalar:
        """-log p(y_o), in nats of the codes where all columns are real or have levels."""
        layout = self.layout
        volume = jnp.sum(jnp.where(observed[layout.linear], jnp.log(layout.factor), 0))
        return -jax.nn.logsumexp(self.belief(y, observed).log_joint) - volume


def _mixed(shares: Float[Array, "k"], means: Array, variances: Array) -> tuple[Array, Array]:
    """The mean and deviation of a mixture of Gaussians, coordinate by coordinate."""
    mean = shares @ means
    return mean, jnp.sqrt(shares @ (variances + (means - mean[None]) ** 2))


def empty(space: Record, components: int, dimensions: int) -> FactorMixture:
    """A mixture that knows nothing: every number is at its mean, give or take its deviation, whatever is known."""
    if components < 1 or dimensions < 1:
        raise SettingsError(
            f"a mixture needs at least one component of one factor, not {components} of {dimensions}"
        )
    layout = layout_of(space.columns)
    k, e, q = components, len(layout.linear), max(1, min(dimensions, len(layout.linear) - 1))
    return FactorMixture(
        space,
        jnp.full(k, -math.log(k)),
        jnp.zeros((k, e)),
        jnp.zeros((k, e, q)),
        jnp.broadcast_to(jnp.asarray(layout.spread) ** 2, (k, e)),
        jnp.zeros((k, sum(layout.sizes))),
    )


class Cells(NamedTuple):
    """Rows in chunks: coordinates, whether they are known, the place of each level (beyond the last where it is
    missing), and 0 for rows that only fill a chunk up."""

    u: Float[Array, "a m e"]
    known: Float[Array, "a m e"]
    places: Int[Array, "a m c"]
    weight: Float[Array, "a m"]


class Sums(NamedTuple):
    r"""Expected sums over rows, of \(\bar z = (z, 1)\): \(\bar z \bar z^\top\), \(u \bar z\) and \(u^2\) by coordinate
    and component, and the rows of each level."""

    log_likelihood: Scalar
    rows: Float[Array, "k"]
    design: Float[Array, "e k r r"]
    target: Float[Array, "e k r"]
    square: Float[Array, "e k"]
    levels: Float[Array, "k l"]


class Climb(NamedTuple):
    """An iteration of EM: the mixture, the mean log-likelihood of the one before and how much it has risen."""

    mixture: FactorMixture
    log_likelihood: Scalar
    rise: Scalar
    step: Int[Array, ""]


def fit(
    mixture: FactorMixture,
    rows: Rows,
    *,
    key: PRNGKeyArray,
    iterations: int = 50,
    tolerance: float = 0.03,
) -> FactorMixture:
    """The mixture of these shapes by EM from k-means, missing cells included, on as many rows as `WORK` allows.

    It is two mixtures of half the components side by side, from two starts, for their mean errs less than either.
    Where there are few rows for each component, some stay empty. EM stops when the mean log-likelihood rises by
    less than `tolerance` nats an iteration.
    """
    row_key, *start_keys = jax.random.split(key, 1 + STARTS)
    k, e, q = mixture.loadings.shape
    most = max(2000, int(WORK / (k * max(e, 1) * (q + 1) ** 2)))
    if len(rows) > most:
        rows = rows[np.sort(np.asarray(drawn(row_key).permutations(1, len(rows))[0])[:most])]
    u, known = Embedding(mixture.space).rows(rows)
    seen = None if bool(known.all()) else known
    cells = _cells(mixture, jnp.asarray(rows.values, jnp.float32), jnp.asarray(rows.observed))
    sizes = [k // STARTS + (part < k % STARTS) for part in range(STARTS)]
    parts = []
    for size, start_key in zip(sizes, start_keys, strict=True):
        if size:
            cluster_key, loading_key = jax.random.split(start_key)
            used = max(1, min(size, len(rows) // ROWS_A_COMPONENT))
            labels = kmeans.cluster(u, seen, used, key=cluster_key, restarts=CLUSTERINGS).labels
            loadings = drawn(loading_key).normal((size, e, q), FIRST_LOADING)
            start = eqx.tree_at(lambda m: m.loadings, empty(mixture.space, size, q), loadings)
            parts.append(_climb(start, cells, jax.nn.one_hot(labels, size), iterations, tolerance))
    together = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
    return eqx.tree_at(lambda m: m.log_weights, together, together.log_weights - math.log(len(parts)))


@eqx.filter_jit
def _cells(mixture: FactorMixture, values: Float[Array, "n d"], observed: Bool[Array, "n d"]) -> Cells:
    layout = mixture.layout
    u, seen = jax.vmap(mixture.coordinates)(values, observed)
    codes = jnp.where(observed, values, 0)[:, layout.levels].astype(jnp.int32)
    places = jnp.where(observed[:, layout.levels], layout.first[None] + codes, sum(layout.sizes))
    return Cells(
        *(kmeans.chunked(part, CHUNK) for part in (u, seen.astype(u.dtype), places, jnp.ones(len(u))))
    )


@eqx.filter_jit
def _climb(
    mixture: FactorMixture, cells: Cells, shares: Float[Array, "n k"], iterations: int, tolerance: float
) -> FactorMixture:
    start = _maximise(mixture, _expect(mixture, cells, kmeans.chunked(shares, CHUNK)))

    def rises(climb: Climb) -> Array:
        return (climb.step < iterations) & (climb.rise > tolerance)

    def iterate(climb: Climb) -> Climb:
        sums = _expect(climb.mixture, cells, None)
        mean = sums.log_likelihood / jnp.sum(sums.rows)
        return Climb(_maximise(climb.mixture, sums), mean, mean - climb.log_likelihood, climb.step + 1)

    first = Climb(start, jnp.float32(-jnp.inf), jnp.float32(jnp.inf), jnp.int32(0))
    return jax.lax.while_loop(rises, iterate, first).mixture


def _expect(mixture: FactorMixture, cells: Cells, shares: Float[Array, "a m k"] | None) -> Sums:
    """The expected sums; with the given `shares` of the components instead of their responsibilities."""
    k, e, q = mixture.loadings.shape
    levels = mixture.levels.shape[1]

    def of_chunk(total: Sums, chunk: tuple[Cells, Array | None]) -> tuple[Sums, None]:
        (u, known, places, weight), given = chunk
        padded = jnp.pad(mixture.levels, ((0, 0), (0, 1)))
        evidence = jnp.sum(padded[:, places], axis=2).T
        belief = jax.vmap(mixture._belief)(u, known, evidence)
        share = jax.nn.softmax(belief.log_joint, axis=1) if given is None else given
        share = share * weight[:, None]
        z = jnp.concatenate([belief.mean, jnp.ones((*belief.mean.shape[:2], 1))], axis=2)
        spread = jnp.pad(belief.covariance, ((0, 0), (0, 0), (0, 1), (0, 1)))
        design = (spread + z[:, :, :, None] * z[:, :, None, :]) * share[:, :, None, None]
        found = Sums(
            jnp.sum(jax.nn.logsumexp(belief.log_joint, axis=1) * weight),
            jnp.sum(share, axis=0),
            jnp.einsum("ne,nkrs->ekrs", known, design),
            jnp.einsum("ne,nkr->ekr", known * u, z * share[:, :, None]),
            (known * u**2).T @ share,
            jnp.zeros((levels, k)).at[places].add(share[:, None, :], mode="drop").T,
        )
        return jax.tree.map(jnp.add, total, found), None

    zero = Sums(
        jnp.float32(0),
        jnp.zeros(k),
        jnp.zeros((e, k, q + 1, q + 1)),
        jnp.zeros((e, k, q + 1)),
        jnp.zeros((e, k)),
        jnp.zeros((k, levels)),
    )
    return jax.lax.scan(of_chunk, zero, (cells, shares))[0]


def _maximise(mixture: FactorMixture, sums: Sums) -> FactorMixture:
    """The largest posterior: loadings and means by regression on z, noise and levels drawn to what they share."""
    layout, q = mixture.layout, mixture.loadings.shape[2]
    prior = jnp.diag(jnp.append(jnp.full(q, LOADING_ROWS), MEAN_ROWS))
    _, root = jax.vmap(jax.vmap(factorise))(sums.design + prior[None, None])
    solution = jnp.einsum("ekrs,ekrt,ekt->eks", root, root, sums.target, precision=jax.lax.Precision.HIGHEST)
    fitted = jnp.einsum("ekr,ekrs,eks->ek", solution, sums.design, solution)
    squares = jnp.maximum(sums.square - 2 * jnp.sum(solution * sums.target, axis=2) + fitted, 0)
    rows = sums.design[:, :, -1, -1]
    overall = jnp.sum(squares) / (jnp.sum(rows) + 1e-6)
    by_coordinate = jnp.sum(squares, axis=1, keepdims=True) / (jnp.sum(rows, axis=1, keepdims=True) + 1e-6)
    usual = (overall + by_coordinate) / 2
    noise = (squares + NOISE_ROWS * usual) / (rows + NOISE_ROWS) + layout.floor[:, None]
    log_weights = jnp.log((sums.rows + 1e-6) / jnp.sum(sums.rows + 1e-6))
    return FactorMixture(
        mixture.space,
        log_weights,
        solution[:, :, -1].T,
        solution[:, :, :-1].swapaxes(0, 1),
        noise.T,
        _level_log_probs(layout, sums.levels),
    )


def _level_log_probs(layout: Layout, counts: Float[Array, "k l"]) -> Float[Array, "k l"]:
    """The share of each level in each component, with the shares of all rows as some rows more."""
    parts = []
    for first, size in zip(layout.first, layout.sizes, strict=True):
        own = counts[:, first : first + size]
        shared = jnp.sum(own, axis=0) + 1.0
        shared = shared / jnp.sum(shared)
        parts.append((own + LEVEL_ROWS * shared[None]) / (jnp.sum(own, axis=1, keepdims=True) + LEVEL_ROWS))
    return jnp.log(jnp.concatenate(parts, axis=1)) if parts else counts
