r"""Expectation maximisation for mixtures of Gaussians, with missing cells, compiled.

E-step \(r_{nk} = p(k \mid u_{n,o})\), with \(E[u]\) and \(E[uu^\top]\) under \(p(u_n \mid u_{n,o}, k)\);
M-step the weights, means and covariances of these moments. Rows pass in chunks, so the memory at work
does not grow with their number.

Dempster, Laird & Rubin (1977), *Maximum likelihood from incomplete data via the EM algorithm*; Ghahramani &
Jordan (1994), *Supervised learning from incomplete data via an EM approach*.
"""

import itertools
import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from thalweg.models.gaussian import LOG_TAU, log_normal_1d
from thalweg.models.padding import AnyArray, length_for
from thalweg.triangular import factorise, invert, product, swept

#: About how many numbers a chunk of rows may need at once; of incomplete rows, which are gone through again and again.
CHUNK, PARTIAL_CHUNK = 1 << 20, 1 << 15
#: The multiplications of an iteration that a further group of rows is worth: it is a further loop to compile.
GROUP = 3e7
#: How many iterations run before the host looks up: often enough for Ctrl-C, rarely enough to cost nothing.
DISPATCH = 10
#: How many rows a coordinate the diagonal may count for in a covariance, and the common one in a component's: never
#: fewer than show a covariance at all, or a component of a few odd rows that lie close would call them usual.
DIAGONAL_ROWS, COMMON_ROWS = np.geomspace(0.01, 30, 16), np.geomspace(1, 30, 8)


class Parameters(NamedTuple):
    """A mixture: `factors` (k, e, e) where covariances are full, (k, e) diagonal, (e, e) tied."""

    log_weights: Float[Array, "k"]
    means: Float[Array, "k e"]
    factors: Float[Array, "..."]


class Moments(NamedTuple):
    """Expected sums over rows: log p, 1, u and u u^T (u^2 where diagonal, all k together where tied)."""

    log_likelihood: Float[Array, ""]
    counts: Float[Array, "k"]
    first: Float[Array, "k e"]
    second: Float[Array, "..."]


class Partial(NamedTuple):
    """Chunks of incomplete rows, 0 where missing, and the places of their missing cells (e: no further one)."""

    rows: Float[Array, "a m e"]
    weight: Float[Array, "a m"]
    missing: Int[Array, "a m j"]


class Cells(NamedTuple):
    """Rows in chunks: the complete ones, and the others by about how many cells they lack.

    A row that only fills a chunk up has weight 0.
    """

    complete: Float[Array, "a m e"]
    weight: Float[Array, "a m"]
    partial: tuple[Partial, ...]


class Trace(NamedTuple):
    """The state of an iteration and its curve: the mean log-likelihood of each E-step, nan where not run."""

    parameters: Parameters
    curve: Float[Array, "iterations"]
    step: jax.Array
    converged: jax.Array


def split(u: Float[AnyArray, "n e"], seen: Bool[AnyArray, "n e"], components: int, form: str) -> Cells:
    """Rows sorted into chunks for `expectation_maximisation`: the complete ones, and groups that lack about as many."""
    rows, missing = np.where(seen, u, 0), ~np.asarray(seen)
    width, lacking = rows.shape[1], missing.sum(axis=1)
    places = np.argsort(~missing, axis=1, kind="stable")
    places = np.where(np.take_along_axis(missing, places, axis=1), places, width).astype(np.int32)
    work = width if form == "diagonal" else components * width
    groups = []
    for low, high in itertools.pairwise([0, *_sizes(lacking, width, components)]):
        chosen = (lacking > low) & (lacking <= high)
        size = max(1, PARTIAL_CHUNK // (components * (width + high**2)))
        chunks, weight = _chunks_of(rows[chosen], size)
        groups.append(Partial(chunks, weight, _chunks_of(places[chosen, :high], size, width)[0]))
    return Cells(*_chunks_of(rows[lacking == 0], max(1, CHUNK // work)), tuple(groups))


def _sizes(lacking: Int[np.ndarray, "n"], width: int, components: int) -> list[int]:
    """How many missing cells the groups of rows have room for: inverting j cells of a row takes j^3 multiplications."""
    candidates = np.unique(np.minimum(-(-lacking[lacking > 0] // 8) * 8, width))
    below = np.searchsorted(np.sort(lacking), [0, *candidates], side="right")
    least: list[float] = [0.0]
    chosen: list[list[int]] = [[]]
    for j, size in enumerate(candidates.tolist(), start=1):
        work = components * float(size) ** 3
        costs = [least[i] + GROUP + (below[j] - below[i]) * work for i in range(j)]
        i = int(np.argmin(costs))
        least.append(costs[i])
        chosen.append([*chosen[i], size])
    return chosen[-1]


def expectation_maximisation(
    cells: Cells,
    initial: Parameters,
    *,
    form: str,
    ridge: float | AnyArray,
    shrink: bool = False,
    tolerance: float = 1e-3,
    iterations: int = 100,
) -> Trace:
    """Iterations from `initial` until the mean log-likelihood of a row changes by less than `tolerance` nats.

    `ridge` is added to every variance, `shrink` draws covariances together (`maximise`). The arithmetic has the
    precision of `initial`.
    """
    dtype = initial.means.dtype
    state = Trace(initial, jnp.full(iterations, jnp.nan, dtype), jnp.asarray(0), jnp.asarray(False))
    for end in range(DISPATCH, iterations + DISPATCH, DISPATCH):
        state = _iterate(cells, state, ridge, tolerance, min(end, iterations), form, shrink)
        if state.converged:
            break
    return state


@partial(jax.jit, static_argnames=("form", "shrink"))
def _iterate(
    cells: Cells,
    state: Trace,
    ridge: float | Array,
    tolerance: float,
    end: int,
    form: str,
    shrink: bool,
) -> Trace:
    count = sum((jnp.sum(group.weight) for group in cells.partial), jnp.sum(cells.weight))

    def improve(state: Trace) -> Trace:
        moments = expect(cells, state.parameters, form)
        value = moments.log_likelihood / count.astype(state.curve.dtype)
        last = jnp.where(state.step > 0, state.curve[state.step - 1], -jnp.inf)
        found = maximise(moments, ridge, form, shrink)
        # A component of weight 0 only fills the shape up, and stays at 0.
        exists = jnp.isfinite(state.parameters.log_weights)
        return Trace(
            found._replace(log_weights=jnp.where(exists, found.log_weights, -jnp.inf)),
            state.curve.at[state.step].set(value),
            state.step + 1,
            jnp.abs(value - last) < tolerance,
        )

    return jax.lax.while_loop(lambda s: (s.step < end) & ~s.converged, improve, state)


def expect(cells: Cells, parameters: Parameters, form: str) -> Moments:
    """The E-step: the moments of all rows."""
    zero = _zero(parameters, form)
    whitener = _whitener(parameters, form)
    precision = whitener if form == "diagonal" else product(jnp.swapaxes(whitener, -1, -2), whitener)
    dtype = parameters.means.dtype

    def of_complete(total: Moments, chunk: tuple[Array, ...]) -> tuple[Moments, None]:
        u, weight = (part.astype(dtype) for part in chunk)
        densities = parameters.log_weights[None] + log_densities(u, parameters, whitener, form)
        evidence = jax.nn.logsumexp(densities, axis=1)
        shares = jnp.exp(densities - evidence[:, None]) * weight[:, None]
        return _add(total, moments_of(jnp.sum(evidence * weight), u, shares, form)), None

    def of_partial(total: Moments, chunk: Partial) -> tuple[Moments, None]:
        chunk = chunk._replace(rows=chunk.rows.astype(dtype), weight=chunk.weight.astype(dtype))
        return _add(total, _partial_moments(chunk, parameters, precision, form)), None

    total, _ = jax.lax.scan(of_complete, zero, (cells.complete, cells.weight))
    for group in cells.partial:
        total, _ = jax.lax.scan(of_partial, total, group)
    return total


def maximise(moments: Moments, ridge: float | Array, form: str, shrink: bool = False) -> Parameters:
    r"""The M-step: the weights, means and covariances of these moments, with `ridge` (one, or one a coordinate) on
    the variances.

    With \(S_k\) the scatter of the \(n_k\) rows of a component, \(S = \sum_k S_k\) and, to `shrink`, a and b rows
    more (`prior_rows`),

    \[ \Sigma = \frac{S + b \, \mathrm{diag}(S)/n}{n + b}, \qquad \Sigma_k = \frac{S_k + a \Sigma}{n_k + a}. \]

    Friedman (1989), *Regularized discriminant analysis*; Fraley & Raftery (2007), *Bayesian regularization for normal
    mixture estimation*.
    """
    ridge = jnp.broadcast_to(jnp.asarray(ridge, moments.first.dtype), moments.first.shape[1:])
    count = moments.counts + 10 * jnp.finfo(moments.counts.dtype).eps
    total = jnp.sum(count)
    means = moments.first / count[:, None]
    log_weights = jnp.log(count / total)
    if form == "diagonal":
        scatter = jnp.maximum(moments.second - means**2 * count[:, None], 0)
        if shrink:
            common = jnp.sum(scatter, axis=0) / total
            ratios = scatter / jnp.where(common > 0, common, 1)[None]
            counts = jnp.where(ratios > 0, count[:, None], 0)
            a = prior_rows(ratios.reshape(-1, 1, 1), counts.reshape(-1), COMMON_ROWS)
            scatter, count = scatter + a * common[None], count + a
        return Parameters(log_weights, means, jnp.sqrt(scatter / count[:, None] + ridge[None]))
    if form == "tied":
        within = moments.second - product((means * count[:, None]).T, means)
    else:
        scatter = moments.second - count[:, None, None] * means[:, :, None] * means[:, None, :]
        within = jnp.sum(scatter, axis=0)
    common = shrunk(within, total) if shrink else within / total
    if form == "tied":
        return Parameters(log_weights, means, factorise(common + jnp.diag(ridge))[0])
    if shrink:
        _, whiten = factorise(common + jnp.diag(ridge))
        a = prior_rows(jax.vmap(lambda s: product(product(whiten, s), whiten.T))(scatter), count, COMMON_ROWS)
        scatter, count = scatter + a * common[None], count + a
    covariances = scatter / count[:, None, None] + jnp.diag(ridge)[None]
    return Parameters(log_weights, means, jax.vmap(factorise)(covariances)[0])


def shrunk(scatter: Float[Array, "e e"], count: Array) -> Float[Array, "e e"]:
    """A covariance drawn towards its diagonal, by as many rows as the evidence asks for."""
    variances = jnp.diagonal(scatter) / count
    deviations = jnp.sqrt(jnp.where(variances > 0, variances, 1))
    b = prior_rows((scatter / deviations[:, None] / deviations[None])[None], count[None], DIAGONAL_ROWS)
    return (scatter + b * jnp.diag(variances)) / (count + b)


def prior_rows(scatters: Float[Array, "k e e"], counts: Float[Array, "k"], grid: np.ndarray) -> Array:
    r"""How many rows the covariance I should count for in those of groups of rows, by the evidence.

    Under an inverse Wishart prior of mean I that counts for a rows, \(\nu = a + e + 1\), the rows of all groups have

    \[ \log p = \sum_k \log\Gamma_e\tfrac{\nu + n_k}{2} - \log\Gamma_e\tfrac{\nu}{2} + \tfrac{\nu e}{2} \log a
       - \tfrac{\nu + n_k}{2} \log|a I + S_k| + \mathrm{const}, \]

    highest on a `grid` of a, in rows a coordinate. Coordinates without scatter only fill up. Chen (1979), *Bayesian
    inference for a normal dispersion matrix and its application to stochastic multiple regression analysis*.
    """
    e, dtype = scatters.shape[-1], scatters.dtype
    used = jnp.any(jnp.diagonal(scatters, axis1=1, axis2=2) > 0, axis=0).astype(dtype)
    width = jnp.sum(used)
    # Of a gamma function in so many dimensions as there are coordinates, whichever these are.
    steps, within = jnp.arange(e, dtype=dtype) / 2, (jnp.arange(e) < width.astype(int)).astype(dtype)

    def log_gamma(x: Array) -> Array:
        return jnp.sum(within * jax.scipy.special.gammaln(jnp.maximum(x - steps, 0.5)))

    def evidence(a: Array) -> Array:
        nu = a + width + 1

        def of_group(scatter: Array, n: Array) -> Array:
            factor, _ = factorise(scatter + a * jnp.eye(e, dtype=dtype))
            log_det = 2 * jnp.sum(used * jnp.log(jnp.diagonal(factor)))
            gammas = log_gamma((nu + n) / 2) - log_gamma(nu / 2)
            return gammas + nu / 2 * width * jnp.log(a) - (nu + n) / 2 * log_det

        return jnp.sum(jnp.where(counts > 1e-6, jax.vmap(of_group)(scatters, counts), 0))

    rows = grid.astype(dtype) * width
    return rows[jnp.argmax(jax.lax.map(evidence, rows))]


def log_densities(
    u: Float[Array, "m e"], parameters: Parameters, whitener: Float[Array, "..."], form: str
) -> Float[Array, "m k"]:
    r"""\(\log \mathcal{N}(u_n; \mu_k, \Sigma_k)\) for complete rows, as matrix products."""
    means, factors = parameters.means, parameters.factors
    if form == "diagonal":
        precision = whitener**2
        squares = product(u**2, precision.T) - 2 * product(u, (means * precision).T)
        squares = squares + jnp.sum(means**2 * precision, axis=1)[None]
        log_volume = jnp.sum(jnp.log(factors), axis=1)[None]
    elif form == "tied":
        rows, centres = product(u, whitener.T), product(means, whitener.T)
        squares = (
            jnp.sum(rows**2, axis=1)[:, None]
            - 2 * product(rows, centres.T)
            + jnp.sum(centres**2, axis=1)[None]
        )
        log_volume = jnp.sum(jnp.log(jnp.diagonal(factors)))
    else:
        centres = _einsum("kfe,ke->kf", whitener, means)
        squares = jnp.sum((_einsum("ne,kfe->nkf", u, whitener) - centres[None]) ** 2, axis=-1)
        log_volume = jnp.sum(jnp.log(jnp.diagonal(factors, axis1=1, axis2=2)), axis=1)[None]
    return -0.5 * (squares + u.shape[1] * LOG_TAU) - log_volume


def moments_of(
    log_likelihood: Array, u: Float[Array, "m e"], shares: Float[Array, "m k"], form: str
) -> Moments:
    """The moments of complete rows that belong to each component by `shares`."""
    if form == "diagonal":
        second = product(shares.T, u**2)
    elif form == "tied":
        second = product((u * jnp.sum(shares, axis=1, keepdims=True)).T, u)
    else:
        second = _einsum("kne,nf->kef", shares.T[:, :, None] * u[None], u)
    return Moments(log_likelihood, jnp.sum(shares, axis=0), product(shares.T, u), second)


def _partial_moments(chunk: Partial, parameters: Parameters, precision: Array, form: str) -> Moments:
    """The moments of incomplete rows: each missing cell counts with its conditional mean and covariance."""
    shared = None if form == "tied" else 0
    by_component = jax.vmap(
        partial(_fill_in_diagonal if form == "diagonal" else _fill_in, chunk.rows, chunk.missing),
        (0, shared, shared),
        (1, 1, 1),
    )
    log_density, filled, spread = by_component(parameters.means, parameters.factors, precision)
    densities = parameters.log_weights[None] + log_density
    evidence = jax.nn.logsumexp(densities, axis=1)
    shares = jnp.exp(densities - evidence[:, None]) * chunk.weight[:, None]
    first = _einsum("nk,nke->ke", shares, filled)
    if form == "diagonal":
        second = _einsum("nk,nke->ke", shares, filled**2 + spread)
    else:
        place = chunk.missing
        second = _einsum("nke,nkf->kef", shares[:, :, None] * filled, filled)
        # Places beyond the last coordinate mark no cell: what would be added there is dropped.
        added = jnp.swapaxes(shares[:, :, None, None] * spread, 0, 1)
        second = second.at[:, place[:, :, None], place[:, None, :]].add(added, mode="drop")
        second = jnp.sum(second, axis=0) if form == "tied" else second
    return Moments(jnp.sum(evidence * chunk.weight), jnp.sum(shares, axis=0), first, second)


def _fill_in(
    rows: Array, missing: Array, mean: Array, factor: Array, precision: Array
) -> tuple[Array, Array, Array]:
    r"""For one Gaussian: log p(u_o), the rows with their missing cells' means, and these cells' covariance.

    By the precision \(\Lambda\) its missing block is all that is factored:
    \(\mathrm{Cov} = \Lambda_{mm}^{-1}\), \(E[u_m] = \mu_m - \Lambda_{mm}^{-1}\Lambda_{mo}(u_o - \mu_o)\), and
    \(\log p(u_o) = \log p(u_o, E[u_m]) + \tfrac12 \log\det 2\pi\Lambda_{mm}^{-1}\).
    """
    e = len(mean)
    exists = missing < e
    place = jnp.minimum(missing, e - 1)
    lacking = jax.vmap(lambda where: jnp.zeros(e, bool).at[where].set(True, mode="drop"))(missing)
    residual = jnp.where(lacking, 0, rows - mean[None])
    pull = product(residual, precision)
    both = exists[:, :, None] & exists[:, None, :]
    block = jnp.where(
        both,
        precision[place[:, :, None], place[:, None, :]],
        jnp.eye(missing.shape[1], dtype=mean.dtype)[None],
    )
    spread, log_det_block = jax.vmap(swept)(block)
    pulled = jnp.where(exists, jnp.take_along_axis(pull, place, axis=1), 0)
    step = -jnp.einsum("nij,nj->ni", spread, pulled)
    squares = jnp.sum(residual * pull, axis=1) + jnp.sum(step * pulled, axis=1)
    seen = jnp.sum(~exists, axis=1) + e - missing.shape[1]
    log_det = jnp.sum(jnp.log(jnp.diagonal(factor))) + log_det_block / 2
    moved = jax.vmap(lambda row, where, by: row.at[where].add(by, mode="drop"))(residual, missing, step)
    return (
        -0.5 * (squares + seen.astype(mean.dtype) * LOG_TAU) - log_det,
        mean[None] + moved,
        jnp.where(both, spread, 0),
    )


def _fill_in_diagonal(
    rows: Array, missing: Array, mean: Array, factor: Array, _: Array
) -> tuple[Array, Array, Array]:
    """`_fill_in` where the coordinates are independent: log p(u_o), the rows filled in, and variances."""
    lacking = jax.vmap(lambda where: jnp.zeros(len(mean), bool).at[where].set(True, mode="drop"))(missing)
    log_density = jnp.sum(jnp.where(lacking, 0, log_normal_1d(rows - mean[None], factor[None])), axis=1)
    return log_density, jnp.where(lacking, mean[None], rows), jnp.where(lacking, factor[None] ** 2, 0)


def _whitener(parameters: Parameters, form: str) -> Float[Array, "..."]:
    """The inverses of the factors, so that whitening a chunk is one matrix product."""
    factors = parameters.factors
    if form == "diagonal":
        return 1 / factors
    return invert(factors) if form == "tied" else jax.vmap(invert)(factors)


def _zero(parameters: Parameters, form: str) -> Moments:
    k, e = parameters.means.shape
    shape = {"full": (k, e, e), "diagonal": (k, e), "tied": (e, e)}[form]
    zeros = partial(jnp.zeros, dtype=parameters.means.dtype)
    return Moments(zeros(()), zeros(k), zeros((k, e)), zeros(shape))


def _add(a: Moments, b: Moments) -> Moments:
    return jax.tree.map(jnp.add, a, b)


def _chunks_of(rows: np.ndarray, most: int, fill: int = 0) -> tuple[Array, Array]:
    """Rows as (chunks, at most `most` rows of a chunk, e), the last filled up, and their weights."""
    size = max(1, min(length_for(len(rows)), most))
    chunks = math.ceil(len(rows) / size)
    padded = np.full((chunks * size, rows.shape[1]), fill, rows.dtype)
    padded[: len(rows)] = rows
    weight = (np.arange(chunks * size) < len(rows)).astype(np.float32)
    return jnp.asarray(padded.reshape(chunks, size, rows.shape[1])), jnp.asarray(weight.reshape(chunks, size))


def _einsum(formula: str, *operands: Array) -> Array:
    return jnp.einsum(formula, *operands, precision=jax.lax.Precision.HIGHEST)
