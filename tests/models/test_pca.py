"""Probabilistic principal components against scikit-learn and dense Gaussians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.datasets import load_wine
from sklearn.decomposition import PCA as Reference

from thalweg.data.rows import Rows
from thalweg.energy.spaces import Column, Record
from thalweg.errors import SettingsError
from thalweg.learning.run import Run
from thalweg.models import pca
from thalweg.models.embedding import Embedding
from thalweg.models.pca import PCA, PPCA, maximum, mean_energy, principal
from thalweg.models.recipe import Problem

WINE = load_wine().data
WINE = (WINE - WINE.mean(axis=0)) / WINE.std(axis=0)
RNG = np.random.default_rng(0)


def batch(function):
    return jax.jit(jax.vmap(function))


def numbers(values):
    return tuple(
        Column(f"c{i}", "real", center=float(v.mean()), spread=float(v.std())) for i, v in enumerate(values.T)
    )


def rows_of(values, observed=None):
    observed = np.ones(values.shape, bool) if observed is None else observed
    return Rows(np.where(observed, values, 0).astype(np.float32), observed, np.zeros(len(values), int))


def problem(values, columns, observed=None, validation=None, log=lambda line: None, **settings):
    rows = rows_of(values, observed)
    held = rows[:0] if validation is None else rows_of(validation)
    configured = PCA.configure(settings)
    return Problem(Record(columns), rows, held, configured, jax.random.key(0), Run(progress=False, log=log))


def model():
    """Five real columns with an embedding that is not the identity, and the dense Gaussian of the codes."""
    spread, center = np.array([0.5, 2.0, 1.0, 3.0, 0.7]), np.arange(5) - 2.0
    columns = tuple(Column(f"c{i}", "real", center=center[i], spread=spread[i]) for i in range(5))
    mean, loadings, sigma = RNG.normal(size=5), RNG.normal(size=(5, 2)), 0.4
    arrays = (jnp.asarray(a, jnp.float32) for a in (mean, loadings, np.log(sigma)))
    covariance = (loadings @ loadings.T + sigma**2 * np.eye(5)) * np.outer(spread, spread)
    return PPCA(Embedding(Record(columns)), *arrays), center + spread * mean, covariance


def test_density_is_that_of_scikit_learn():
    reference = Reference(4).fit(WINE)
    # scikit-learn divides by n - 1; the likelihood's maximum divides by n.
    reference.explained_variance_ = reference.explained_variance_ * (len(WINE) - 1) / len(WINE)
    reference.noise_variance_ = reference.noise_variance_ * (len(WINE) - 1) / len(WINE)
    fitted = PCA.train(problem(WINE, numbers(WINE), components=4))
    energies = batch(fitted.energy)(jnp.asarray(WINE, jnp.float32))
    np.testing.assert_allclose(-energies, reference.score_samples(WINE), rtol=1e-4)
    np.testing.assert_allclose(fitted.history[0]["loss"], jnp.mean(energies), rtol=1e-5)
    assert fitted.status == "closed form"


def test_no_other_plane_is_likelier():
    found = principal(jnp.asarray(WINE, jnp.float32))
    best = maximum(found, 3)
    lowest = mean_energy(found, best)
    assert mean_energy(found, best._replace(variance=best.variance * 1.05)) > lowest
    assert mean_energy(found, best._replace(variance=best.variance * 0.95)) > lowest
    assert mean_energy(found, best._replace(loadings=best.loadings * 1.03)) > lowest
    assert mean_energy(found, maximum(found, 2)) > lowest


def test_energy_and_marginals_are_dense_ones():
    energy, mean, covariance = model()
    for seed in range(3):
        y = np.random.default_rng(seed).normal(size=5) * 2
        code = jnp.asarray(y, jnp.float32)
        np.testing.assert_allclose(energy(code), -multivariate_normal(mean, covariance).logpdf(y), rtol=1e-4)
        np.testing.assert_allclose(energy.marginal(code, jnp.ones(5, bool)), energy(code), rtol=1e-5)
        for observed in ([True, False, True, True, False], [False, False, False, True, False]):
            o = np.flatnonzero(observed)
            expected = multivariate_normal(mean[o], covariance[np.ix_(o, o)]).logpdf(y[o])
            np.testing.assert_allclose(energy.marginal(code, jnp.asarray(observed)), -expected, rtol=1e-4)


def test_completion_and_draws_are_the_dense_conditional():
    """30,000 conditional draws: mean and covariance within 5 standard errors."""
    energy, mean, covariance = model()
    observed = np.array([True, False, True, True, False])
    o, m = np.flatnonzero(observed), np.flatnonzero(~observed)
    y = np.array([-1.5, np.nan, 0.5, 2.0, np.nan])
    gain = covariance[np.ix_(m, o)] @ np.linalg.inv(covariance[np.ix_(o, o)])
    expected = mean[m] + gain @ (y[o] - mean[o])
    code, mask = jnp.asarray(y, jnp.float32), jnp.asarray(observed)
    completed = energy.complete(code, mask)
    np.testing.assert_allclose(completed[m], expected, rtol=1e-3)
    np.testing.assert_array_equal(completed[o], code[o])
    keys = jax.random.split(jax.random.key(0), 30_000)
    draws = np.asarray(batch(lambda k: energy.sample_given(code, mask, key=k))(keys))[:, m]
    spread = covariance[np.ix_(m, m)] - gain @ covariance[np.ix_(o, m)]
    np.testing.assert_allclose(draws.mean(axis=0), expected, atol=5 * np.sqrt(spread.max() / 30_000))
    np.testing.assert_allclose(np.cov(draws.T), spread, atol=0.05 * spread.max())


def test_free_draws_have_the_mean_and_covariance():
    energy, mean, covariance = model()
    draws = np.asarray(batch(lambda k: energy.sample(key=k))(jax.random.split(jax.random.key(0), 30_000)))
    np.testing.assert_allclose(draws.mean(axis=0), mean, atol=5 * np.sqrt(covariance.max() / 30_000))
    np.testing.assert_allclose(np.cov(draws.T), covariance, atol=0.05 * covariance.max())


def test_the_code_is_the_posterior_mean():
    energy, *_ = model()
    y, observed = jnp.asarray([-1.5, 0.0, 0.5, 2.0, 1.0]), jnp.asarray([True, True, False, True, False])
    u, seen = (np.asarray(a) for a in energy.embedding.embed(y, observed))
    w, variance = np.asarray(energy.loadings)[seen], np.exp(2 * float(energy.log_noise))
    expected = np.linalg.solve(w.T @ w + variance * np.eye(2), w.T @ (u - np.asarray(energy.mean))[seen])
    np.testing.assert_allclose(energy.encode(y, observed), expected, rtol=1e-4)


@pytest.mark.parametrize("noise", [[0.3] * 5, [0.1, 0.0, 1.0, 5.0, 0.4]])
def test_denoising_is_the_minimum_of_the_energy_and_the_noise(noise):
    energy, *_ = model()
    y, noise = jnp.asarray([-1.5, 0.0, 0.5, 2.0, 1.0]), jnp.asarray(noise)
    cleaned = energy.denoise(y, noise)
    gradient = jax.grad(energy)(cleaned) * noise**2 + cleaned - y
    np.testing.assert_allclose(gradient, 0, atol=2e-4)
    np.testing.assert_allclose(cleaned[noise == 0], y[noise == 0], rtol=1e-6)
    assert energy(cleaned) < energy(y)


def test_em_with_missing_cells_recovers_the_subspace():
    """2,000 rows near a plane in R^6, 25 % of the cells missing."""
    generator = np.random.default_rng(11)
    loadings = generator.normal(size=(6, 2))
    values = generator.normal(size=(2000, 2)) @ loadings.T + 0.1 * generator.normal(size=(2000, 6))
    observed = generator.random(values.shape) > 0.25
    columns = tuple(Column(f"c{i}", "real") for i in range(6))
    fitted = PCA.train(problem(values, columns, observed, components=2, tolerance=1e-6, iterations=300))
    energy = fitted.energy
    np.testing.assert_allclose(jnp.exp(energy.log_noise), 0.1, rtol=0.1)
    whole_rows = np.cov(values.T, bias=True) - 0.01 * np.eye(6)  # what the sample itself says of the plane
    np.testing.assert_allclose(energy.loadings @ energy.loadings.T, whole_rows, atol=0.05)
    losses = [record["loss"] for record in fitted.history]
    assert (np.diff(losses) < 1e-6).all()
    completed = batch(energy.complete)(jnp.asarray(values, jnp.float32), jnp.asarray(observed))
    missing = ~observed & (observed.sum(axis=1, keepdims=True) >= 3)
    assert np.sqrt(np.mean((np.asarray(completed) - values)[missing] ** 2)) < 0.35


def test_the_number_of_components_is_chosen():
    loadings = RNG.normal(size=(12, 3))
    make = lambda n: RNG.normal(size=(n, 3)) @ loadings.T + 0.3 * RNG.normal(size=(n, 12))  # noqa: E731
    values, held_out = make(400), make(400)
    columns = tuple(Column(f"c{i}", "real") for i in range(12))
    by_likelihood = PCA.train(problem(values, columns, validation=held_out)).energy
    by_variance = PCA.train(problem(values, columns)).energy
    used = lambda energy: int((np.abs(np.asarray(energy.loadings)).max(axis=0) > 0).sum())  # noqa: E731
    assert used(by_likelihood) == 3
    explained = np.cumsum(principal(jnp.asarray(values, jnp.float32)).variances)
    assert used(by_variance) == 1 + np.argmax(explained >= 0.95 * explained[-1])
    assert by_likelihood.loadings.shape == by_variance.loadings.shape == (12, 11)
    unused = np.asarray(by_likelihood.encode(jnp.asarray(values[0], jnp.float32), jnp.ones(12, bool)))[3:]
    np.testing.assert_array_equal(unused, 0)


@pytest.mark.parametrize("width", [5, 80])
@pytest.mark.parametrize("most_double", [0, 10**9])
@pytest.mark.parametrize("offset", [0.0, 1.0, 300.0])
def test_the_axes_are_those_of_numpys_covariance(monkeypatch, width, most_double, offset):
    """Of short and long rows, in both precisions, near 0 and far from it, over several blocks."""
    monkeypatch.setattr(pca, "MOST_DOUBLE", most_double)
    monkeypatch.setattr(pca, "BLOCK", 600)
    generator = np.random.default_rng(2)
    values = generator.normal(size=(2000, width)) * np.linspace(1, 3, width) + offset
    found = principal(values.astype(np.float32))
    covariance = np.cov(values.T, bias=True)
    np.testing.assert_allclose(found.mean, values.mean(axis=0), atol=1e-4)
    rebuilt = (found.axes * found.variances) @ found.axes.T
    np.testing.assert_allclose(rebuilt, covariance, atol=1e-3)


@pytest.mark.parametrize("share_seen", [1.0, 0.7])
def test_the_directions_that_indicators_forbid_have_no_part_in_the_noise(share_seen):
    """Independent categories are all noise: sigma^2 is their variance in the directions that rows can take."""
    generator = np.random.default_rng(4)
    columns = tuple(Column(f"c{i}", "categorical", size=2) for i in range(10))
    values = (generator.random((3000, 10)) < 0.5).astype(float)
    observed = generator.random(values.shape) < share_seen
    energy = PCA.train(problem(values, columns, observed, components=1)).energy
    # Of a fair category (1/2, 1/2) + a (1, -1)/√2 the variance of a is 1/2; the other direction has none.
    np.testing.assert_allclose(jnp.exp(2 * energy.log_noise), 0.5, rtol=0.05)


def test_fewer_rows_than_columns():
    values = RNG.normal(size=(8, 30))
    lines = []
    asked = problem(values, numbers(values), components=20, log=lines.append)
    energy = PCA.train(asked).energy
    assert energy.loadings.shape == (30, 20)
    assert lines == ["pca: 8 components instead of 20, all that there are"]
    assert np.isfinite(batch(energy)(asked.rows.values)).all()
    dense = np.linalg.eigvalsh(np.cov(((values - values.mean(0)) / values.std(0)).T, bias=True))[::-1]
    found = principal(jnp.asarray((values - values.mean(0)) / values.std(0), jnp.float32))
    np.testing.assert_allclose(found.variances, dense[:8], atol=1e-5)


def test_mixed_columns_shapes_and_gradients():
    number = RNG.normal(size=300)
    values = np.stack([number, (number > 0) * 1.0, np.clip(np.round(3 + number), 0, 6)], axis=1)
    columns = (
        Column("number", "real"),
        Column("category", "categorical", 2),
        Column("count", "integer", 7, center=3.0, spread=1.0),
    )
    asked = problem(values, columns, RNG.random(values.shape) > 0.1, components=2)
    fitted = PCA.train(asked)
    expected = jax.eval_shape(lambda: PCA.skeleton(asked.space, asked.settings))
    assert jax.tree.structure(expected) == jax.tree.structure(fitted.energy)
    assert [a.shape for a in jax.tree.leaves(expected)] == [a.shape for a in jax.tree.leaves(fitted.energy)]
    only = jnp.asarray([True, False, False])
    assert fitted.energy.complete(jnp.asarray([1.5, 0.0, 0.0]), only)[1] == 1
    assert fitted.energy.complete(jnp.asarray([-1.5, 0.0, 0.0]), only)[1] == 0
    gradient = jax.grad(
        lambda f: f.marginal(jnp.asarray([0.3, jnp.nan, 2.0]), jnp.asarray([True, False, True]))
    )(fitted.energy)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    noisy = jnp.asarray([1.0, 1.0, 4.0])
    assert fitted.energy.denoise(noisy, jnp.asarray([0.5, 9.0, 0.5]))[1] == 1


def test_one_column():
    values = RNG.normal(size=(50, 1))
    asked = problem(values, numbers(values))
    expected = -multivariate_normal(values.mean(0), values.var(0)).logpdf(values)
    np.testing.assert_allclose(batch(PCA.train(asked).energy)(asked.rows.values), expected, rtol=1e-3)


def test_impossible_settings_say_so():
    with pytest.raises(SettingsError, match="components must be 0"):
        PCA.configure({"components": -1})
    with pytest.raises(SettingsError, match=r"loadings \(1, q\)"):
        PPCA(Embedding(Record((Column("a", "real"),))), jnp.zeros(1), jnp.zeros((2, 1)), jnp.zeros(()))
