r"""The Gaussian with missing coordinates: marginals and conditionals of one row, unbatched.

\[ -\log \mathcal{N}(u; \mu, \Sigma) = \tfrac12 (u-\mu)^\top \Sigma^{-1} (u-\mu)
   + \tfrac12 \log\det 2\pi\Sigma, \qquad \Sigma = L L^\top \]

A Gaussian is its mean and its `factor`: the lower triangular \(L\) (e, e), or the deviations (e,) where the
coordinates are independent. The observed block \(\Sigma_{oo}\) keeps its full shape: the rows and columns of
missing coordinates are those of the identity, which changes neither its determinant nor what it solves.

Anderson (2003), *An introduction to multivariate statistical analysis*, chapter 2.
"""

import math
from contextlib import AbstractContextManager
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from thalweg.energy.base import Scalar

LOG_TAU = math.log(2 * math.pi)

#: The relative ridge that a covariance first gets when it cannot be factored as it is.
FIRST_RIDGE = 1e-7


class Conditional(NamedTuple):
    """What the observed part of a row says: its own log density, and the Gaussian of the whole row given it.

    `covariance` (e, e), or (e,) for independent coordinates, is 0 where a coordinate is observed.
    """

    log_density: Scalar
    mean: Float[Array, "e"]
    covariance: Float[Array, "..."]


def double_precision() -> AbstractContextManager:
    """float64 inside, for fitting: small variances are differences of large sums over all rows."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    return jax.experimental.enable_x64(True)  # its name before JAX 0.8


def log_normal(u: Float[Array, "e"], mean: Float[Array, "e"], factor: Float[Array, "..."]) -> Scalar:
    r"""\(\log \mathcal{N}(u; \mu, \Sigma)\) of a complete row, in nats."""
    if factor.ndim == 1:
        whitened, deviations = (u - mean) / factor, factor
    else:
        whitened = jax.scipy.linalg.solve_triangular(factor, u - mean, lower=True)
        deviations = jnp.diagonal(factor)
    return -0.5 * jnp.sum(whitened**2 + LOG_TAU) - jnp.sum(jnp.log(deviations))


def condition(
    u: Float[Array, "e"], seen: Bool[Array, "e"], mean: Float[Array, "e"], factor: Float[Array, "..."]
) -> Conditional:
    r"""\(\log p(u_o)\), \(E[u \mid u_o]\) and \(\mathrm{Cov}[u \mid u_o]\); `u` is read where seen.

    \(E[u_m \mid u_o] = \mu_m + \Sigma_{mo}\Sigma_{oo}^{-1}(u_o - \mu_o)\) and
    \(\mathrm{Cov}[u_m \mid u_o] = \Sigma_{mm} - \Sigma_{mo}\Sigma_{oo}^{-1}\Sigma_{om}\).
    """
    residual = jnp.where(seen, u - mean, 0)
    if factor.ndim == 1:
        log_density = jnp.sum(jnp.where(seen, _log_normal_1d(residual, factor), 0))
        return Conditional(log_density, mean + residual, jnp.where(seen, 0, factor**2))
    covariance = product(factor, factor.T)
    observed = observed_factor(covariance, seen)
    whitened = jax.scipy.linalg.solve_triangular(observed, residual, lower=True)
    weights = jax.scipy.linalg.solve_triangular(observed, whitened, lower=True, trans=1)
    gain = jax.scipy.linalg.solve_triangular(observed, jnp.where(seen[:, None], covariance, 0), lower=True)
    log_density = -0.5 * jnp.sum(whitened**2 + LOG_TAU * seen) - jnp.sum(jnp.log(jnp.diagonal(observed)))
    expected = jnp.where(seen, u, mean + product(covariance, weights))
    missing = ~seen[:, None] & ~seen
    return Conditional(log_density, expected, jnp.where(missing, covariance - product(gain.T, gain), 0))


def draw(mean: Float[Array, "e"], factor: Float[Array, "..."], *, key: PRNGKeyArray) -> Float[Array, "e"]:
    r"""An exact draw \(\mu + L\varepsilon\)."""
    noise = jax.random.normal(key, mean.shape, mean.dtype)
    return mean + (factor * noise if factor.ndim == 1 else product(factor, noise))


def draw_given(
    u: Float[Array, "e"],
    seen: Bool[Array, "e"],
    mean: Float[Array, "e"],
    factor: Float[Array, "..."],
    *,
    key: PRNGKeyArray,
) -> Float[Array, "e"]:
    r"""An exact draw of the missing part given the observed one.

    By Matheron's rule a joint draw \(\tilde u\) is corrected by the conditional mean of its own residual,
    \(u_m = \tilde u_m + \Sigma_{mo}\Sigma_{oo}^{-1}(u_o - \tilde u_o)\): no conditional covariance
    is factored.
    Hoffman & Ribak (1991), *Constrained realizations of Gaussian fields*.
    """
    joint = draw(mean, factor, key=key)
    return condition(u, seen, joint, factor).mean


def observed_factor(covariance: Float[Array, "e e"], seen: Bool[Array, "e"]) -> Float[Array, "e e"]:
    r"""The Cholesky factor of \(\Sigma_{oo}\), with the identity in place of the missing coordinates."""
    both = seen[:, None] & seen
    return cholesky(jnp.where(both, covariance, jnp.eye(len(seen), dtype=covariance.dtype)))


@jax.custom_jvp
def cholesky(covariance: Float[Array, "e e"]) -> Float[Array, "e e"]:
    r"""The lower Cholesky factor, of \(\Sigma + \rho\,\mathrm{diag}\,\Sigma\) where \(\Sigma\) has none.

    Rounding can leave a covariance with an eigenvalue below 0. \(\rho\) is the smallest of 1e-7, 1e-6, … that
    works, so a covariance that factors is left exactly as it is.
    """
    diagonal = jnp.diag(jnp.diagonal(covariance))

    def fails(state):
        factor, ridge = state
        return ~jnp.all(jnp.isfinite(factor)) & (ridge < 1)

    def retry(state):
        ridge = state[1] * 10
        return jnp.linalg.cholesky(covariance + ridge * diagonal), ridge

    start = jnp.linalg.cholesky(covariance), jnp.asarray(FIRST_RIDGE / 10, covariance.dtype)
    return jax.lax.while_loop(fails, retry, start)[0]


@cholesky.defjvp
def _cholesky_jvp(primals, tangents):
    # A while loop has no reverse derivative, so the differential of the factor is written out:
    # dL = L low(L^-1 dS L^-T), the lower half with half of the diagonal (Murray 2016, eq. 8).
    factor, (change,) = cholesky(*primals), tangents
    left = jax.scipy.linalg.solve_triangular(factor, (change + change.T) / 2, lower=True)
    inner = jax.scipy.linalg.solve_triangular(factor, left.T, lower=True)
    lower = jnp.tril(inner) - 0.5 * jnp.diag(jnp.diagonal(inner))
    return factor, product(factor, lower)


def product(a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
    """`a @ b` at the full precision of its type, which accelerators give only when asked."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _log_normal_1d(residual: Float[Array, "e"], deviation: Float[Array, "e"]) -> Float[Array, "e"]:
    return -0.5 * ((residual / deviation) ** 2 + LOG_TAU) - jnp.log(deviation)
