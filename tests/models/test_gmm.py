"""The mixture of Gaussians against scikit-learn, dense formulas and simulation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp, softmax
from scipy.stats import invwishart, multivariate_normal
from sklearn.datasets import load_iris
from sklearn.mixture import GaussianMixture as Reference

from thalweg.data.rows import Rows
from thalweg.energy.spaces import Column, Record
from thalweg.errors import SettingsError
from thalweg.learning.run import Run
from thalweg.models import em
from thalweg.models.embedding import Embedding
from thalweg.models.gaussian import double_precision
from thalweg.models.gmm import FORMS, GMM, GaussianMixture, initial_parameters
from thalweg.models.recipe import Problem

NAMES = {"full": "full", "diagonal": "diag", "tied": "tied"}
RNG = np.random.default_rng(0)
IRIS = load_iris().data - load_iris().data.mean(axis=0)


def batch(function):
    return jax.jit(jax.vmap(function))


def numbers(values):
    return tuple(
        Column(f"c{i}", "real", center=float(v.mean()), spread=float(v.std())) for i, v in enumerate(values.T)
    )


def problem(values, columns, observed=None, **settings):
    observed = np.ones(values.shape, bool) if observed is None else observed
    rows = Rows(np.where(observed, values, 0).astype(np.float32), observed, np.zeros(len(values), int))
    return Problem(
        Record(columns), rows, rows[:0], GMM.configure(settings), jax.random.key(0), Run(progress=False)
    )


def run_em(values, initial, form, seen=None, **options):
    seen = np.ones(values.shape, bool) if seen is None else seen
    with double_precision():
        cells = em.split(values, seen, len(initial.means), form)
        start = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), initial)
        found = em.expectation_maximisation(cells, start, form=form, ridge=1e-6, **options)
        return jax.tree.map(np.asarray, found)


@pytest.mark.parametrize(("a_group", "groups"), [(0, 3), (1e30, 1)])
def test_the_moments_of_rows_with_holes_are_those_of_each_alone(monkeypatch, a_group, groups):
    """However many groups: an iteration's log-likelihood, counts and first moments, with NumPy, row by row."""
    monkeypatch.setattr(em, "GROUP", a_group)
    rng, e = np.random.default_rng(3), 20
    values, seen = rng.normal(size=(60, e)), rng.random((60, e)) > np.linspace(0, 0.95, 60)[:, None]
    means = rng.normal(size=(2, e))
    covariances = np.stack([np.cov(rng.normal(size=(e, 3 * e))) for _ in range(2)])
    with double_precision():
        cells = em.split(values, seen, 2, "full")
        assert len(cells.partial) == groups
        start = em.Parameters(np.log([0.3, 0.7]), means, np.linalg.cholesky(covariances))
        found = em.expect(cells, jax.tree.map(jnp.asarray, start), "full")
    log_likelihood, counts, first = 0.0, np.zeros(2), np.zeros((2, e))
    for row, known in zip(values, seen, strict=True):
        parts = [(m[known], c[np.ix_(known, known)]) for m, c in zip(means, covariances, strict=True)]
        densities = np.log([0.3, 0.7]) + [
            multivariate_normal(m, c).logpdf(row[known]) if known.any() else 0 for m, c in parts
        ]
        shares = softmax(densities)
        log_likelihood += logsumexp(densities)
        counts += shares
        for k, (m, c) in enumerate(parts):
            gap = np.linalg.solve(c, row[known] - m)
            first[k] += shares[k] * np.where(known, row, means[k] + covariances[k][:, known] @ gap)
    np.testing.assert_allclose(found.log_likelihood, log_likelihood)
    np.testing.assert_allclose(found.counts, counts)
    np.testing.assert_allclose(found.first, first, atol=1e-10)


def start_of(values, labels, form):
    with double_precision():
        shares = jax.nn.one_hot(labels, int(labels.max()) + 1)
        found = initial_parameters(jnp.asarray(values, float), shares, form=form, ridge=1e-6)
        return jax.tree.map(np.asarray, found)


def mixture(form="full", k=3):
    """A mixture over three real columns, its embedding not the identity, and its covariances in `u`."""
    columns = tuple(Column(f"c{i}", "real", center=i - 1.0, spread=0.5 + i) for i in range(3))
    a = RNG.normal(size=(k, 3, 3))
    covariances = a @ a.transpose(0, 2, 1) / 3 + 0.2 * np.eye(3)
    if form == "tied":
        covariances = np.stack([covariances[0]] * k)
    if form == "diagonal":
        covariances = covariances * np.eye(3)
    factors = np.linalg.cholesky(covariances)
    stored = {"full": factors, "tied": factors[0], "diagonal": np.diagonal(factors, axis1=1, axis2=2)}[form]
    means, weights = RNG.normal(size=(k, 3)) * 2, softmax(RNG.normal(size=k))
    arrays = (jnp.asarray(a, jnp.float32) for a in (np.log(weights) + 1.0, means, stored))
    return GaussianMixture(Embedding(Record(columns)), *arrays, form), weights, means, covariances


def dense(values, index, weights, means, covariances):
    """log w_k N(u_o) for each component, in codes: u = (y - m) / s."""
    center, spread = np.arange(3) - 1.0, 0.5 + np.arange(3)
    u = ((values - center) / spread)[index]
    logs = [
        np.log(w) + multivariate_normal(m[index], c[np.ix_(index, index)]).logpdf(u)
        for w, m, c in zip(weights, means, covariances, strict=True)
    ]
    return np.array(logs) - np.log(spread[index]).sum()


@pytest.mark.parametrize("form", FORMS)
def test_em_reaches_the_optimum_of_scikit_learn_from_the_same_start(form):
    labels = load_iris().target
    initial = start_of(IRIS, labels, form)
    if form == "tied":
        precision = np.linalg.inv(initial.factors @ initial.factors.T)
    elif form == "diagonal":
        precision = 1 / initial.factors**2
    else:
        precision = np.linalg.inv(initial.factors @ initial.factors.transpose(0, 2, 1))
    reference = Reference(
        3,
        covariance_type=NAMES[form],
        weights_init=np.exp(initial.log_weights),
        means_init=initial.means,
        precisions_init=precision,
        tol=1e-5,
        max_iter=300,
    ).fit(IRIS)
    found = run_em(IRIS, initial, form, tolerance=1e-5, iterations=300)
    assert found.converged
    assert found.step == reference.n_iter_
    np.testing.assert_allclose(found.curve[found.step - 1], reference.lower_bound_, rtol=1e-4)
    np.testing.assert_allclose(found.parameters.means, reference.means_, atol=1e-3)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_the_likelihood_never_falls(form, missing):
    seen = RNG.random(IRIS.shape) >= missing
    labels = RNG.integers(0, 4, len(IRIS))
    found = run_em(IRIS, start_of(IRIS, labels, form), form, seen, tolerance=0, iterations=40)
    curve = found.curve[: found.step]
    assert len(curve) == 40
    assert (np.diff(curve) > -1e-5).all()
    assert curve[-1] > curve[0]


@pytest.mark.parametrize("form", ["full", "tied"])
def test_the_likelihood_of_incomplete_rows_is_that_of_dense_marginals(form):
    seen = RNG.random(IRIS.shape) > 0.4
    seen[0], seen[1] = False, True
    initial = start_of(IRIS, load_iris().target, form)
    found = run_em(IRIS, initial, form, seen, iterations=1)
    expected = []
    for u, o in zip(IRIS, seen, strict=True):
        index = np.flatnonzero(o)
        logs = list(initial.log_weights)
        for k in range(3):
            factor = initial.factors if form == "tied" else initial.factors[k]
            covariance = (factor @ factor.T)[np.ix_(index, index)]
            logs[k] += (
                multivariate_normal(initial.means[k][index], covariance).logpdf(u[index]) if len(index) else 0
            )
        expected.append(logsumexp(logs))
    np.testing.assert_allclose(found.curve[0], np.mean(expected), rtol=1e-6)


@pytest.mark.parametrize("form", ["full", "diagonal"])
def test_em_with_missing_cells_recovers_a_known_gaussian(form):
    """3,000 rows, 30 % of the cells missing: mean and covariance within about 4 standard errors."""
    covariance = np.array([[1.0, 0.8, -0.3], [0.8, 2.0, 0.0], [-0.3, 0.0, 0.5]])
    covariance = covariance if form == "full" else np.diag(np.diag(covariance))
    values = RNG.multivariate_normal([1.0, -2.0, 0.5], covariance, size=3000)
    seen = RNG.random(values.shape) > 0.3
    found = run_em(values, start_of(values, np.zeros(3000, int), form), form, seen, tolerance=1e-7)
    factor = found.parameters.factors[0]
    estimate = factor @ factor.T if form == "full" else np.diag(factor**2)
    np.testing.assert_allclose(found.parameters.means[0], [1.0, -2.0, 0.5], atol=0.12)
    np.testing.assert_allclose(estimate, covariance, atol=0.2)


def test_the_prior_is_that_of_the_highest_evidence():
    """Beside the marginal likelihood by SciPy's densities: p(u) = p(u | Sigma) p(Sigma) / p(Sigma | u) at any Sigma."""
    e, counts = 3, [12, 5, 40]
    groups = [RNG.normal(size=(n, e)) * RNG.gamma(4, 0.25, size=e) for n in counts]
    scatters = np.stack([rows.T @ rows for rows in groups])
    sigma = np.diag([0.7, 1.1, 2.0])

    def evidence(a):
        total = 0.0
        for rows, scatter in zip(groups, scatters, strict=True):
            prior = invwishart(a + e + 1, a * np.eye(e))
            posterior = invwishart(a + e + 1 + len(rows), a * np.eye(e) + scatter)
            likelihood = multivariate_normal(np.zeros(e), sigma).logpdf(rows).sum()
            total += likelihood + prior.logpdf(sigma) - posterior.logpdf(sigma)
        return total

    grid = em.DIAGONAL_ROWS
    expected = max(grid * e, key=evidence)
    with double_precision():
        found = em.prior_rows(jnp.asarray(scatters), jnp.asarray(counts, float), grid)
        # Groups without rows and coordinates without scatter change nothing.
        padded = np.pad(scatters, [(0, 2), (0, 1), (0, 1)])
        again = em.prior_rows(jnp.asarray(padded), jnp.asarray([*counts, 0, 0], float), grid)
    np.testing.assert_allclose([found, again], expected)
    assert grid[0] * e < expected < grid[-1] * e


@pytest.mark.parametrize(("form", "gain"), [("full", 0.5), ("tied", 0.05), ("diagonal", -0.05)])
def test_with_a_prior_unseen_rows_fit_better(form, gain):
    """40 rows of two components in R^8; with 100 times as many rows the prior makes no odds."""
    columns = tuple(Column(f"c{i}", "real") for i in range(8))

    def energy(n, prior, seed):
        rng = np.random.default_rng(seed)
        centres, mixing = 3 * rng.normal(size=(2, 8)), rng.normal(size=(8, 8)) / 3 + np.eye(8)
        rows = centres[rng.integers(2, size=n + 2000)] + rng.normal(size=(n + 2000, 8)) @ mixing
        fitted = GMM.train(problem(rows[:n], columns, components=2, covariance=form, prior=prior)).energy
        return float(jnp.mean(batch(fitted)(jnp.asarray(rows[n:], jnp.float32))))

    few = {prior: np.mean([energy(40, prior, seed) for seed in range(5)]) for prior in ("none", "evidence")}
    assert few["evidence"] < few["none"] - gain, few
    many = {prior: energy(4000, prior, 0) for prior in ("none", "evidence")}
    np.testing.assert_allclose(many["evidence"], many["none"], atol=0.02)


def test_values_missing_at_random_do_not_bias_the_mean():
    """b is missing where a is large: the mean of what is seen is far off, the likelihood's is not."""
    values = RNG.multivariate_normal([0.0, 0.0], [[1.0, 0.9], [0.9, 1.0]], size=4000)
    seen = np.ones(values.shape, bool)
    seen[:, 1] = values[:, 0] < 0.3
    found = run_em(values, start_of(values, np.zeros(4000, int), "full"), "full", seen, tolerance=1e-8)
    assert values[seen[:, 1], 1].mean() < -0.4
    np.testing.assert_allclose(found.parameters.means[0], [0, 0], atol=0.08)


@pytest.mark.parametrize("form", FORMS)
def test_energy_marginal_and_responsibilities_are_dense_ones(form):
    energy, *truth = mixture(form)
    for seed in range(3):
        y = np.random.default_rng(seed).normal(size=3)
        everything = dense(y, np.arange(3), *truth)
        code = jnp.asarray(y, jnp.float32)
        np.testing.assert_allclose(energy(code), -logsumexp(everything), rtol=1e-4)
        np.testing.assert_allclose(energy.marginal(code, jnp.ones(3, bool)), energy(code), rtol=1e-4)
        for observed in ([True, False, True], [False, True, False]):
            part = dense(y, np.flatnonzero(observed), *truth)
            mask = jnp.asarray(observed)
            np.testing.assert_allclose(energy.marginal(code, mask), -logsumexp(part), rtol=1e-4)
            np.testing.assert_allclose(energy.encode(code, mask), softmax(part), atol=1e-4)


def test_the_density_integrates_to_one():
    columns = (Column("a", "real", center=2.0, spread=3.0),)
    arrays = (jnp.zeros(2), jnp.asarray([[-1.0], [0.7]]), jnp.asarray([[0.4], [0.9]]))
    energy = GaussianMixture(Embedding(Record(columns)), *arrays, "diagonal")
    grid = jnp.linspace(-25, 30, 20_001)
    np.testing.assert_allclose(jnp.trapezoid(jnp.exp(-batch(energy)(grid[:, None])), grid), 1, rtol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_completion_is_the_mean_of_the_conditional_draws(form):
    """20,000 draws of the missing part: mean within 5 standard errors of the closed form."""
    energy, *_ = mixture(form)
    y, observed = jnp.asarray([0.3, jnp.nan, -0.5]), jnp.asarray([True, False, True])
    completed = energy.complete(y, observed)
    keys = jax.random.split(jax.random.key(0), 20_000)
    draws = np.asarray(batch(lambda k: energy.sample_given(y, observed, key=k))(keys))
    np.testing.assert_array_equal(draws[:, [0, 2]], np.tile([0.3, -0.5], (20_000, 1)).astype(np.float32))
    error = draws[:, 1].std() / np.sqrt(20_000)
    assert abs(draws[:, 1].mean() - completed[1]) < 5 * error


@pytest.mark.parametrize("form", FORMS)
def test_draws_have_the_density(form):
    """20,000 draws against as many made with NumPy: mean energy (the entropy), and means to 5 errors."""
    energy, weights, means, covariances = mixture(form)
    keys = jax.random.split(jax.random.key(1), 20_000)
    ours = np.asarray(batch(lambda k: energy.sample(key=k))(keys))
    which = RNG.choice(3, size=20_000, p=weights)
    u = means[which] + np.einsum(
        "nij,nj->ni", np.linalg.cholesky(covariances)[which], RNG.normal(size=(20_000, 3))
    )
    theirs = u * (0.5 + np.arange(3)) + np.arange(3) - 1.0
    entropies = [jnp.mean(batch(energy)(jnp.asarray(draws, jnp.float32))) for draws in (ours, theirs)]
    np.testing.assert_allclose(*entropies, atol=0.05)
    error = np.sqrt(2 / 20_000) * theirs.std(axis=0)
    assert (np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) < 5 * error).all()


def test_gradients_are_finite():
    energy, *_ = mixture()
    loss = lambda f, y, o: f.marginal(y, o)  # noqa: E731
    y, observed = jnp.asarray([0.3, jnp.nan, -0.5]), jnp.asarray([True, False, True])
    gradient = jax.grad(loss)(energy, y, observed)
    assert all(np.isfinite(leaf).all() and np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))
    assert np.isfinite(jax.grad(energy)(jnp.asarray([0.1, 0.2, 0.3]))).all()


def test_mixed_columns_with_missing_cells():
    """A category that goes with the sign of a number is completed from it, and the number from it."""
    number = RNG.normal(size=600)
    category = np.where(number > 0, 2.0, np.where(number > -0.7, 1.0, 0.0))
    count = np.clip(np.round(4 + 2 * number), 0, 9)
    values = np.stack([number, category, count], axis=1)
    columns = (
        Column("number", "real"),
        Column("category", "categorical", 3),
        Column("count", "integer", 10, center=float(count.mean()), spread=float(count.std())),
    )
    asked = problem(values, columns, RNG.random(values.shape) > 0.1, components=4, reg=1e-3)
    fitted = GMM.train(asked)
    assert np.isfinite([record["loss"] for record in fitted.history]).all()
    only = jnp.asarray([True, False, False])
    for value, expected in ((1.5, 2.0), (-0.4, 1.0), (-1.8, 0.0)):
        completed = fitted.energy.complete(jnp.asarray([value, 0.0, 0.0]), only)
        assert completed[1] == expected
        np.testing.assert_allclose(completed[2], np.clip(4 + 2 * value, 0, 9), atol=1.0)
    drawn = fitted.energy.sample(key=jax.random.key(3))
    assert drawn[1] in (0.0, 1.0, 2.0)


def test_the_recipe_fits_its_skeleton_and_reports_nats_per_row():
    columns = numbers(IRIS)
    for form in FORMS:
        asked = problem(IRIS, columns, components=3, covariance=form)
        fitted = GMM.train(asked)
        expected = jax.eval_shape(lambda a=asked: GMM.skeleton(a.space, a.settings))
        assert jax.tree.structure(expected) == jax.tree.structure(fitted.energy)
        assert [a.shape for a in jax.tree.leaves(expected)] == [
            a.shape for a in jax.tree.leaves(fitted.energy)
        ]
        mean = jnp.mean(batch(fitted.energy)(asked.rows.values))
        np.testing.assert_allclose(mean, fitted.history[-1]["loss"], atol=5e-3)


def test_few_rows_give_fewer_components_in_arrays_of_the_promised_shape():
    lines = []
    values = RNG.normal(size=(12, 2))
    asked = problem(values, numbers(values), components=8, reg=1e-2)
    asked = Problem(
        asked.space, asked.rows, asked.validation, asked.settings, asked.key, Run(log=lines.append)
    )
    energy = GMM.train(asked).energy
    assert lines == ["gmm: 2 components instead of 8, for 12 rows"]
    assert energy.means.shape == (8, 2)
    assert len(np.unique(np.asarray(energy.means), axis=0)) == 2
    np.testing.assert_allclose(jnp.sum(jnp.exp(energy.log_weights)), 1, rtol=1e-5)
    assert np.isfinite(batch(energy)(asked.rows.values)).all()


def test_collinear_columns_give_finite_energies():
    base = RNG.normal(size=(200, 3))
    values = np.concatenate([base, base, base.sum(axis=1, keepdims=True)], axis=1)
    asked = problem(values, numbers(values), components=2)
    energy = GMM.train(asked).energy
    assert np.isfinite(batch(energy)(asked.rows.values)).all()
    seen = jnp.asarray(RNG.random(values.shape) > 0.3)
    assert np.isfinite(batch(energy.marginal)(asked.rows.values, seen)).all()
    missing = jnp.asarray([True] * 3 + [False] * 4)
    completed = batch(lambda y: energy.complete(y, missing))(asked.rows.values)
    np.testing.assert_allclose(completed[:, 3:6], values[:, :3], atol=0.05)


def test_impossible_settings_say_so():
    with pytest.raises(
        SettingsError, match="covariance 'spherical' is not known: choose one of full, diagonal"
    ):
        GMM.configure({"covariance": "spherical"})
    with pytest.raises(SettingsError, match="components must be at least 1, not 0"):
        GMM.configure({"components": 0})
    with pytest.raises(SettingsError, match="reg must be 0 or more"):
        GMM.configure({"reg": -1.0})
    with pytest.raises(SettingsError, match=r"factors \(2, 1, 1\)"):
        GaussianMixture(
            Embedding(Record((Column("a", "real"),))), jnp.zeros(2), jnp.zeros((2, 1)), jnp.ones((2, 1))
        )
