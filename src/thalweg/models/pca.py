r"""Probabilistic principal components: a Gaussian whose covariance is a plane and a sphere.

\[ F(y) = -\log \mathcal{N}(u(y); \mu, \; W W^\top + \sigma^2 I) - \log |du/dy| \]

A bounded volume of low energy (A1): a slab of thickness sigma around a q-dimensional plane. The maximum of
the likelihood is closed form, \(W = U_q (\Lambda_q - \sigma^2 I)^{1/2}\), \(\sigma^2\) the mean of the
eigenvalues left out, without those of the directions that a category's indicators forbid.

Tipping & Bishop (1999), *Probabilistic principal component analysis*.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from thalweg.data.rows import Rows
from thalweg.energy.base import AbstractDensity, Scalar
from thalweg.energy.capabilities import (
    AbstractCompletion,
    AbstractConditionalSampler,
    AbstractDenoiser,
    AbstractEncoder,
    AbstractMarginal,
    AbstractTabular,
)
from thalweg.energy.spaces import Record
from thalweg.errors import SettingsError
from thalweg.learning.run import Fit
from thalweg.models import em
from thalweg.models.embedding import Embedding
from thalweg.models.gaussian import LOG_TAU, double_precision
from thalweg.models.padding import AnyArray
from thalweg.models.recipe import Problem, Recipe, setting
from thalweg.triangular import factorise, product

#: The most components that are kept where the data choose their number.
MOST_CHOSEN = 128
#: Rows whose products are summed at once; the sums of the blocks are in float64.
BLOCK = 8192
#: Coordinates below which a row is short.
NARROW = 64
#: Rows that show about where the others are.
HEAD = 512
#: Multiplications beyond which a covariance is not worth them in float64.
MOST_DOUBLE = 10**9
#: The least noise variance, relative to the mean variance of a coordinate: a plane through all rows has none.
LEAST_NOISE = 1e-6


class Posterior(NamedTuple):
    r"""\(p(z \mid u_o) = \mathcal{N}(m, (K K^\top)^{-1})\) by m and \(K^{-1}\), and \(\log p(u_o)\)."""

    mean: Float[Array, "q"]
    inverse: Float[Array, "q q"]
    log_density: Scalar


class PPCA(
    AbstractDensity,
    AbstractTabular,
    AbstractMarginal,
    AbstractCompletion,
    AbstractConditionalSampler,
    AbstractEncoder,
    AbstractDenoiser,
):
    r"""\(F(y) = -\log \mathcal{N}(u(y); \mu, W W^\top + \sigma^2 I)\), in nats, by the Woodbury identity.

    A normalised density of the codes where all columns are real; integer columns are taken as real numbers
    and categories as corners of their 0/1 block, so that with categories F is an energy only.

    `mean` (e), `loadings` (e, q), `log_noise` the logarithm of sigma.
    """

    embedding: Embedding
    mean: Float[Array, "e"]
    loadings: Float[Array, "e q"]
    log_noise: Scalar

    def __check_init__(self):
        e = self.embedding.width
        if self.mean.shape != (e,) or self.loadings.ndim != 2 or len(self.loadings) != e:
            raise SettingsError(
                f"{e} coordinates need a mean ({e},) and loadings ({e}, q), not {self.mean.shape} and "
                f"{self.loadings.shape}"
            )

    @property
    def space(self) -> Record:
        return self.embedding.space

    def bare(self) -> "PPCA":
        return replace(self, embedding=self.embedding.bare())

    def log_prob(self, y: Array, x: PyTree = None) -> Scalar:
        u, _ = self.embedding.embed(y)
        return self._posterior(u, None).log_density + self.embedding.log_volume()

    def marginal(self, y: Array, observed: Array, x: PyTree = None) -> Scalar:
        u, seen = self.embedding.embed(y, observed)
        return -self._posterior(u, seen).log_density - self.embedding.log_volume(observed)

    def complete(self, y, observed, x=None):
        z = self.encode(y, observed)
        return jnp.where(observed, y, self.embedding.unembed(self.mean + product(self.loadings, z)))

    def encode(self, y: Array, observed: Array, x: PyTree = None) -> Float[Array, "q"]:
        r"""\(E[z \mid u_o]\), in units of its prior deviation; a component that is not used has code 0."""
        return self._posterior(*self.embedding.embed(y, observed)).mean

    def sample(self, x=None, *, key):
        """A draw from the Gaussian; integers are not rounded, a category is the largest of its block."""
        q = self.loadings.shape[1]
        return self.embedding.unembed(self._emit(jnp.zeros(q), jnp.eye(q), key=key))

    def sample_given(self, y, observed, x=None, *, key):
        posterior = self._posterior(*self.embedding.embed(y, observed))
        drawn = self.embedding.unembed(self._emit(posterior.mean, posterior.inverse, key=key))
        return jnp.where(observed, y, drawn)

    def denoise(self, y, noise, x=None):
        r"""\(u' = \mu + \Sigma (\Sigma + D)^{-1} (u - \mu)\) with D the noise variances; exact for any D.

        It is \(u - D(\Sigma + D)^{-1}(u - \mu)\), and \(\Sigma + D\) is again a plane and a diagonal.
        """
        u, _ = self.embedding.embed(y)
        variances = self.embedding.noise(noise) ** 2
        shrunk = u - variances * self._solve(jnp.exp(2 * self.log_noise) + variances, u - self.mean)
        numeric = self.embedding.layout.numeric
        return jnp.where(numeric, self.embedding.unembed(shrunk), y)

    def _posterior(self, u: Float[Array, "e"], seen: Bool[Array, "e"] | None) -> Posterior:
        """The latent given the seen coordinates (None: all, so that a batch factors M once)."""
        residual = u - self.mean if seen is None else jnp.where(seen, u - self.mean, 0)
        visible = self.loadings if seen is None else jnp.where(seen[:, None], self.loadings, 0)
        count = jnp.asarray(len(u) if seen is None else jnp.sum(seen), u.dtype)
        variance = jnp.exp(2 * self.log_noise)
        precision = jnp.eye(visible.shape[1]) + product(visible.T, visible) / variance
        factor, inverse = factorise(precision)
        z = product(inverse.T, product(inverse, product(visible.T, residual))) / variance
        # r' C^-1 r = |r - W z|^2 / sigma^2 + |z|^2: a sum of squares, where Woodbury's difference cancels.
        squares = jnp.sum((residual - product(visible, z)) ** 2) / variance + jnp.sum(z**2)
        log_det = 2 * jnp.sum(jnp.log(jnp.diagonal(factor))) + count * 2 * self.log_noise
        return Posterior(z, inverse, -0.5 * (count * LOG_TAU + log_det + squares))

    def _emit(
        self, z_mean: Float[Array, "q"], inverse: Float[Array, "q q"], *, key: PRNGKeyArray
    ) -> Float[Array, "e"]:
        r"""\(\mu + W z + \sigma \varepsilon\) with \(z \sim \mathcal{N}(m, (K K^\top)^{-1})\)."""
        z_key, noise_key = jax.random.split(key)
        z = z_mean + product(inverse.T, jax.random.normal(z_key, z_mean.shape))
        noise = jnp.exp(self.log_noise) * jax.random.normal(noise_key, self.mean.shape)
        return self.mean + product(self.loadings, z) + noise

    def _solve(self, diagonal: Float[Array, "e"], residual: Float[Array, "e"]) -> Float[Array, "e"]:
        r"""\((W W^\top + A)^{-1} r\) for a diagonal A, by Woodbury's identity."""
        scaled = self.loadings / diagonal[:, None]
        _, inverse = factorise(jnp.eye(scaled.shape[1]) + product(self.loadings.T, scaled))
        inner = product(inverse.T, product(inverse, product(scaled.T, residual)))
        return residual / diagonal - product(scaled, inner)


@dataclass(frozen=True)
class Settings:
    """What `pca` can be told."""

    components: int = setting(
        0,
        f"how many; 0: up to {MOST_CHOSEN}, chosen by held-out likelihood (95 % of variance without)",
    )
    prior: str = setting(
        "evidence",
        "where cells are missing; evidence: the covariance is drawn towards its diagonal, as far as the rows speak "
        "for it; none: the likelihood alone",
    )
    iterations: int = setting(200, "the largest number of EM iterations, where cells are missing")
    tolerance: float = setting(1e-4, "stop EM when the mean log-likelihood of a row changes by fewer nats")
    scale: str = setting("auto", "auto, column, common or none: how columns are brought to one size")

    def __post_init__(self):
        if self.components < 0:
            raise SettingsError(f"components must be 0 (chosen) or more, not {self.components}")
        if self.iterations < 1:
            raise SettingsError(f"iterations must be at least 1, not {self.iterations}")
        if self.prior not in ("evidence", "none"):
            raise SettingsError(f"prior {self.prior!r} is not known: choose evidence or none")


def skeleton(space: Record, settings: Settings) -> PPCA:
    embedding = Embedding(space, settings.scale)
    loadings = jnp.zeros((embedding.width, _width(embedding, settings)))
    return PPCA(embedding, jnp.zeros(embedding.width), loadings, jnp.zeros(()))


class Principal(NamedTuple):
    """The mean, the principal axes in columns, the variances along them (descending) and their total."""

    mean: np.ndarray
    axes: np.ndarray
    variances: np.ndarray
    total: float


class Plane(NamedTuple):
    """The parameters of a PPCA in float64: `loadings` (e, q) and the noise variance."""

    mean: np.ndarray
    loadings: np.ndarray
    variance: float


def principal(u: Float[AnyArray, "n e"]) -> Principal:
    """The principal axes of complete rows: of their covariance, or of the rows where those are fewer."""
    n, e = u.shape
    if n <= e:
        rows = np.asarray(u, np.float64)
        mean = rows.mean(axis=0)
        _, deviations, axes = np.linalg.svd((rows - mean) / np.sqrt(n), full_matrices=False)
        return Principal(mean, axes.T, deviations**2, float(np.sum(deviations**2)))
    return _eigen(*_mean_and_covariance(np.asarray(u)))


def maximum(found: Principal, components: int, dependent: int = 0) -> Plane:
    r"""The likelihood's maximum, \(W = U_q (\Lambda_q - \sigma^2)^{1/2}\) (Tipping & Bishop 1999).

    \(\sigma^2\) is the mean of the other variances but for the least `dependent` ones, of directions in which no row
    can vary: the indicators of a category sum to 1.
    """
    e = len(found.mean)
    free = e - dependent
    left = found.total - np.sum(found.variances[:components]) - np.sum(found.variances[free:])
    variance = max(left / (free - components), LEAST_NOISE * found.total / e)
    kept = np.maximum(found.variances[:components] - variance, 0)
    return Plane(found.mean, found.axes[:, :components] * np.sqrt(kept), float(variance))


def mean_energy(found: Principal, plane: Plane) -> float:
    r"""\(\tfrac12 (\log\det 2\pi C + \mathrm{tr}\, C^{-1} S)\) in nats: the energy of a row on average."""
    e, q = plane.loadings.shape
    variances = np.sum(plane.loadings**2, axis=0) + plane.variance
    left = (found.total - np.sum(found.variances[:q])) / plane.variance
    log_det = np.sum(np.log(variances)) + (e - q) * np.log(plane.variance)
    return float(0.5 * (e * LOG_TAU + log_det + np.sum(found.variances[:q] / variances) + left))


def expectation_maximisation(
    cells: em.Cells,
    initial: Principal,
    components: int,
    *,
    dependent: int = 0,
    shrink: bool = False,
    tolerance: float = 1e-4,
    iterations: int = 200,
) -> tuple[Principal, list[float], bool]:
    """EM over missing cells: their moments under the Gaussian, then the closed form for these moments.

    Returns the axes of the moments, the mean energy at each E-step in nats, and whether it converged. `shrink` draws
    the covariance towards its diagonal (`em.shrunk`).
    """
    found, curve = initial, []
    for _ in range(iterations):
        plane = maximum(found, components, dependent)
        with double_precision():
            mean, covariance, energy = _moments(cells, *(jnp.asarray(part) for part in plane), shrink)
        found = _eigen(np.asarray(mean), np.asarray(covariance))
        curve.append(float(energy))
        if len(curve) > 1 and abs(curve[-2] - curve[-1]) < tolerance:
            return found, curve, True
    return found, curve, False


@partial(jax.jit, static_argnames="shrink")
def _moments(
    cells: em.Cells, mean: Array, loadings: Array, variance: Array, shrink: bool
) -> tuple[Array, Array, Scalar]:
    """The E-step: the mean and covariance of the completed rows, and the mean energy."""
    covariance = product(loadings, loadings.T) + variance * jnp.eye(len(mean))
    gaussian = em.Parameters(jnp.zeros(1), mean[None], factorise(covariance)[0])
    moments = em.expect(cells, gaussian, "tied")
    count = moments.counts[0]
    mean = moments.first[0] / count
    scatter = moments.second - count * jnp.outer(mean, mean)
    return mean, em.shrunk(scatter, count) if shrink else scatter / count, -moments.log_likelihood / count


def _mean_and_covariance(u: Float[np.ndarray, "n e"]) -> tuple[np.ndarray, np.ndarray]:
    """Both in float64, in one pass. Of a large table each block's product is in the precision of its rows."""
    n, e = u.shape
    precision = u.dtype if n * e * e > MOST_DOUBLE else np.dtype(np.float64)
    head = u[:HEAD]
    origin = head.mean(axis=0)
    if precision == u.dtype and e >= NARROW and (origin**2 <= 4 * head.var(axis=0)).all():
        # Two deviations from 0 lose less than a digit, and subtracting costs half of what the products do.
        origin = np.zeros(e)
        blocks: Iterator[np.ndarray] = (u[i : i + BLOCK] for i in range(0, n, BLOCK))
    else:
        blocks = _less(u, origin, precision)
    first, second, ones = np.zeros(e), np.zeros((e, e)), np.ones(BLOCK, precision)
    for rows in blocks:
        first += ones[: len(rows)] @ rows
        second += rows.T @ rows
    shift = first / n
    return origin + shift, second / n - np.outer(shift, shift)


def _less(
    u: Float[np.ndarray, "n e"], origin: Float[np.ndarray, "e"], precision: np.dtype
) -> Iterator[np.ndarray]:
    """Blocks of rows less `origin`."""
    e = u.shape[1]
    if e >= NARROW:
        yield from (np.subtract(u[i : i + BLOCK], origin, dtype=precision) for i in range(0, len(u), BLOCK))
        return
    # Short rows are subtracted from in one run: a loop of NumPy's over each costs more than their product.
    run = np.tile(origin, BLOCK)
    for i in range(0, len(u), BLOCK):
        block = u[i : i + BLOCK].reshape(-1)
        yield np.subtract(block, run[: len(block)], dtype=precision).reshape(-1, e)


def _eigen(mean: np.ndarray, covariance: np.ndarray) -> Principal:
    variances, axes = np.linalg.eigh(covariance)
    variances = np.maximum(variances[::-1], 0)
    return Principal(mean, axes[:, ::-1], variances, float(np.sum(variances)))


def train(problem: Problem) -> Fit:
    """Closed form from complete rows; by EM, whose M-step is the closed form, where cells are missing."""
    started, settings = time.perf_counter(), problem.settings
    embedding = Embedding(problem.space, settings.scale)
    u, seen = embedding.rows(problem.rows)
    whole, dependent = bool(seen.all()), _dependent(embedding)
    found = principal(u if whole else _mean_filled(u, seen))
    if not whole:
        # A Gaussian of any form first: with means filled in, columns look less related than they are.
        climb = partial(
            expectation_maximisation,
            em.split(u, seen, 1, "tied"),
            dependent=dependent,
            shrink=settings.prior == "evidence",
            tolerance=settings.tolerance,
            iterations=settings.iterations,
        )
        found, curve, converged = climb(found, max(embedding.width - dependent - 1, 0))
    components = _choose(found, embedding, problem)
    if settings.components > components:
        problem.run.log(f"pca: {components} components instead of {settings.components}, all that there are")
    if whole:
        curve, status = [mean_energy(found, maximum(found, components, dependent))], "closed form"
    else:
        found, curve, converged = climb(found, components)
        status = "converged" if converged else "ran all steps"
    plane = maximum(found, components, dependent)
    volume = embedding.mean_log_volume(problem.rows)
    history = [{"step": i + 1, "loss": value - volume} for i, value in enumerate(curve)]
    energy = _energy(embedding, plane, settings)
    return Fit(energy, status, len(history), time.perf_counter() - started, history)


@jax.jit
def _mean_filled(u: Array, seen: Array) -> Array:
    means = jnp.sum(u, axis=0) / jnp.maximum(jnp.sum(seen, axis=0), 1).astype(u.dtype)
    return jnp.where(seen, u, means[None])


def _choose(found: Principal, embedding: Embedding, problem: Problem) -> int:
    """How many components: as asked for, by the likelihood of validation rows, or 95 % of the variance."""
    dependent = _dependent(embedding)
    most = min(max(len(found.mean) - dependent - 1, 0), len(found.variances))
    if problem.settings.components:
        return min(problem.settings.components, most)
    most = min(most, MOST_CHOSEN)
    if not len(problem.validation):
        explained = np.cumsum(found.variances) / max(float(found.total), 1e-30)
        return min(most, 1 + int(np.searchsorted(explained, 0.95)))
    candidates = sorted({min(most, round(1.25**i)) for i in range(40)} | {most})
    energies = [
        _held_out(_energy(embedding, maximum(found, q, dependent), problem.settings), problem.validation)
        for q in candidates
    ]
    return candidates[int(np.argmin(energies))]


def _dependent(embedding: Embedding) -> int:
    """In how many directions no row can vary: one for each category."""
    return len(embedding.layout.blocks)


def _held_out(energy: PPCA, rows: Rows) -> float:
    """The mean energy of validation rows, of at most 2,000."""
    values, observed = jnp.asarray(rows.values[:2000]), jnp.asarray(rows.observed[:2000])
    return float(_mean_marginal(energy, values, observed))


@eqx.filter_jit
def _mean_marginal(energy: PPCA, values: Array, observed: Array) -> Scalar:
    return jnp.mean(jax.vmap(energy.marginal)(values, observed))


def _energy(embedding: Embedding, plane: Plane, settings: Settings) -> PPCA:
    """The plane as an energy in float32, its loadings filled up with zeros to the width settings promise."""
    unused = _width(embedding, settings) - plane.loadings.shape[1]
    loadings = np.pad(plane.loadings, ((0, 0), (0, unused)))
    narrow = [np.asarray(part, np.float32) for part in (plane.mean, loadings, 0.5 * np.log(plane.variance))]
    return PPCA(embedding, *(jnp.asarray(part) for part in narrow))


def _width(embedding: Embedding, settings: Settings) -> int:
    return settings.components or max(1, min(embedding.width - 1, MOST_CHOSEN))


PCA = Recipe(
    name="pca",
    title="Probabilistic principal components",
    code="A1",
    paper="Tipping & Bishop (1999)",
    formula="F(y) = -log N(y; μ, W Wᵀ + σ² I)",
    about="A Gaussian around a plane, in closed form: exact likelihood, completion, denoising and draws.",
    energy=PPCA,
    settings=Settings,
    skeleton=skeleton,
    train=train,
)
