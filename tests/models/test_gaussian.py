"""The masked Gaussian against dense closed forms and SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from thalweg.models.gaussian import condition, double_precision, draw, draw_given, log_normal

RNG = np.random.default_rng(3)
E = 5
A = RNG.normal(size=(E, E))
COVARIANCE = A @ A.T / E + 0.2 * np.eye(E)
MEAN = RNG.normal(size=E)
FACTOR = jnp.asarray(np.linalg.cholesky(COVARIANCE), jnp.float32)
DEVIATIONS = jnp.asarray([0.5, 1.0, 2.0, 0.3, 1.5])
U = RNG.normal(size=E)
SEEN = np.array([True, False, True, True, False])


def single(a):
    return jnp.asarray(a, jnp.float32)


def dense_conditional(covariance):
    """E[u | u_o] and its covariance by the textbook formula."""
    o, m = np.flatnonzero(SEEN), np.flatnonzero(~SEEN)
    gain = covariance[np.ix_(m, o)] @ np.linalg.inv(covariance[np.ix_(o, o)])
    mean = U.copy()
    mean[m] = MEAN[m] + gain @ (U[o] - MEAN[o])
    return mean, covariance[np.ix_(m, m)] - gain @ covariance[np.ix_(o, m)]


@pytest.mark.parametrize(
    ("factor", "covariance"), [(FACTOR, COVARIANCE), (DEVIATIONS, np.diag(np.asarray(DEVIATIONS) ** 2))]
)
def test_densities_and_conditional_means(factor, covariance):
    expected = multivariate_normal(MEAN, covariance).logpdf(U)
    np.testing.assert_allclose(log_normal(single(U), single(MEAN), factor), expected, rtol=1e-5)
    o = np.flatnonzero(SEEN)
    marginal = multivariate_normal(MEAN[o], covariance[np.ix_(o, o)]).logpdf(U[o])
    found = condition(single(U), jnp.asarray(SEEN), single(MEAN), factor)
    np.testing.assert_allclose(found.log_density, marginal, rtol=1e-5)
    np.testing.assert_allclose(found.mean, dense_conditional(covariance)[0], rtol=1e-4)


def test_values_at_missing_places_are_never_read():
    poisoned = single(np.where(SEEN, U, np.nan))
    for factor in (FACTOR, DEVIATIONS):
        found = condition(poisoned, jnp.asarray(SEEN), single(MEAN), factor)
        clean = condition(single(U), jnp.asarray(SEEN), single(MEAN), factor)
        np.testing.assert_array_equal(found.mean, clean.mean)
        gradient = jax.grad(
            lambda f, p=poisoned: condition(p, jnp.asarray(SEEN), single(MEAN), f).log_density
        )(factor)
        assert np.isfinite(gradient).all()


def test_nothing_and_everything_observed():
    nothing = condition(single(U), jnp.zeros(E, bool), single(MEAN), FACTOR)
    np.testing.assert_allclose(nothing.log_density, 0, atol=1e-6)
    np.testing.assert_allclose(nothing.mean, MEAN, rtol=1e-5)
    everything = condition(single(U), jnp.ones(E, bool), single(MEAN), FACTOR)
    np.testing.assert_allclose(everything.log_density, log_normal(single(U), single(MEAN), FACTOR), rtol=1e-5)


def test_draws_have_the_mean_and_covariance():
    """40,000 draws: entries of the covariance within 5 standard errors, about 0.04."""
    keys = jax.random.split(jax.random.key(0), 40_000)
    free = np.asarray(jax.vmap(lambda k: draw(single(MEAN), FACTOR, key=k))(keys))
    np.testing.assert_allclose(np.cov(free.T), COVARIANCE, atol=0.05)
    given = jax.vmap(lambda k: draw_given(single(U), jnp.asarray(SEEN), single(MEAN), FACTOR, key=k))(keys)
    given = np.asarray(given)
    mean, covariance = dense_conditional(COVARIANCE)
    np.testing.assert_array_equal(given[:, SEEN], np.broadcast_to(single(U)[SEEN], (40_000, 3)))
    np.testing.assert_allclose(given.mean(axis=0), mean, atol=0.03)
    np.testing.assert_allclose(np.cov(given[:, ~SEEN].T), covariance, atol=0.05)


def test_two_marginals_of_one_batch_end():
    """Two independent batches of factors in one compiled function, as a question about two evidences makes."""
    rows = single(RNG.normal(size=(200, E)))
    seen = jnp.asarray(RNG.random((200, E)) > 0.4)
    evidence = lambda u, s: condition(u, s, single(MEAN), FACTOR).log_density  # noqa: E731
    both = jax.jit(jax.vmap(lambda u, s: (evidence(u, s), evidence(u, ~s))))
    for _ in range(10):
        first, second = both(rows, seen)
    for i in (0, 7):
        for found, o in ((first, np.asarray(seen[i])), (second, ~np.asarray(seen[i]))):
            index = np.flatnonzero(o)
            if len(index):
                expected = multivariate_normal(MEAN[index], COVARIANCE[np.ix_(index, index)])
                np.testing.assert_allclose(found[i], expected.logpdf(np.asarray(rows[i])[index]), rtol=1e-4)


def test_double_precision_is_double_and_ends():
    with double_precision():
        assert jnp.ones(2).dtype == jnp.float64
    assert jnp.ones(2).dtype == jnp.float32
