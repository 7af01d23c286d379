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
from thalweg.triangular import factorise, invert, product

LOG_TAU = math.log(2 * math.pi)


class Conditional(NamedTuple):
    """What the observed part of a row says: its own log density in nats, and the mean of the row given it."""

    log_density: Scalar
    mean: Float[Array, "e"]


def double_precision() -> AbstractContextManager:
    """float64 inside, for fitting: small variances are differences of large sums over all rows."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    return jax.experimental.enable_x64(True)  # type: ignore[attr-defined]  # its name before JAX 0.8


def log_normal(u: Float[Array, "e"], mean: Float[Array, "e"], factor: Float[Array, "..."]) -> Scalar:
    r"""\(\log \mathcal{N}(u; \mu, \Sigma)\) of a complete row, in nats."""
    if factor.ndim == 1:
        return jnp.sum(log_normal_1d(u - mean, factor))
    whitened = product(invert(factor), u - mean)
    return -0.5 * jnp.sum(whitened**2 + LOG_TAU) - jnp.sum(jnp.log(jnp.diagonal(factor)))


def condition(
    u: Float[Array, "e"], seen: Bool[Array, "e"], mean: Float[Array, "e"], factor: Float[Array, "..."]
) -> Conditional:
    r"""\(\log p(u_o)\) and \(E[u \mid u_o]\); `u` is read where seen.

    \(E[u_m \mid u_o] = \mu_m + \Sigma_{mo}\Sigma_{oo}^{-1}(u_o - \mu_o)\).
    """
    residual = jnp.where(seen, u - mean, 0)
    if factor.ndim == 1:
        return Conditional(jnp.sum(jnp.where(seen, log_normal_1d(residual, factor), 0)), mean + residual)
    covariance = product(factor, factor.T)
    both = seen[:, None] & seen[None]
    observed, inverse = factorise(jnp.where(both, covariance, jnp.eye(len(seen), dtype=covariance.dtype)))
    whitened = product(inverse, residual)
    log_density = -0.5 * jnp.sum(whitened**2 + jnp.where(seen, LOG_TAU, 0)) - jnp.sum(
        jnp.log(jnp.diagonal(observed))
    )
    pulled = product(covariance, product(inverse.T, whitened))
    return Conditional(log_density, jnp.where(seen, u, mean + pulled))


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


def log_normal_1d(residual: Float[Array, "..."], deviation: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""\(\log \mathcal{N}(r; 0, s^2)\), elementwise."""
    return -0.5 * ((residual / deviation) ** 2 + LOG_TAU) - jnp.log(deviation)
