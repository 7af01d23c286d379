"""K-means against scikit-learn and brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.cluster import KMeans as Reference
from sklearn.datasets import load_digits

from thalweg.data.rows import Rows
from thalweg.energy.spaces import Column, Record
from thalweg.errors import SettingsError
from thalweg.learning.run import Run
from thalweg.models.embedding import Embedding
from thalweg.models.kmeans import KMEANS, KMeans, cluster, lloyd, plus_plus
from thalweg.models.recipe import Problem

DIGITS = load_digits().data.astype(np.float32)
DIGITS = DIGITS[:, DIGITS.std(axis=0) > 0]
DIGITS -= DIGITS.mean(axis=0)


def problem(values, columns, observed=None, **settings):
    observed = np.ones(values.shape, bool) if observed is None else observed
    rows = Rows(np.where(observed, values, 0).astype(np.float32), observed, np.zeros(len(values), int))
    configured = KMEANS.configure(settings)
    return Problem(Record(columns), rows, rows[:0], configured, jax.random.key(0), Run(progress=False))


def batch(function):
    return jax.jit(jax.vmap(function))


def numbers(values, **more):
    return tuple(
        Column(f"c{i}", "real", center=float(v.mean()), spread=float(v.std()) or 1.0, **more)
        for i, v in enumerate(values.T)
    )


def test_lloyd_reaches_the_optimum_of_scikit_learn_from_the_same_start():
    start = np.asarray(plus_plus(jnp.asarray(DIGITS), None, 10, key=jax.random.key(1)))
    reference = Reference(10, init=start, n_init=1, tol=0, max_iter=300).fit(DIGITS)
    found = lloyd(jnp.asarray(DIGITS), None, jnp.asarray(start), tolerance=0)
    np.testing.assert_allclose(found.energy * len(DIGITS), reference.inertia_, rtol=1e-4)
    np.testing.assert_allclose(found.centroids, reference.cluster_centers_, atol=1e-2)
    assert found.converged


def test_the_energy_never_rises():
    found = cluster(jnp.asarray(DIGITS), None, 15, key=jax.random.key(0))
    curve = np.asarray(found.curve[: found.step])
    assert (np.diff(curve) <= 1e-5 * curve[0]).all()
    assert found.energy <= curve[-1] * (1 + 1e-6)


def test_seeding_is_as_good_as_scikit_learns():
    """Mean energy of k-means++ seeds before any descent, 10 draws each; rows at random are far worse."""
    rows = jnp.asarray(DIGITS)
    energy = lambda c: ((DIGITS[:, None] - np.asarray(c)[None]) ** 2).sum(-1).min(1).mean()  # noqa: E731
    ours = np.mean(
        [energy(plus_plus(rows, None, 10, key=k)) for k in jax.random.split(jax.random.key(0), 10)]
    )
    from sklearn.cluster import kmeans_plusplus

    theirs = np.mean([energy(kmeans_plusplus(DIGITS, 10, random_state=s)[0]) for s in range(10)])
    assert abs(ours / theirs - 1) < 0.05


def test_exactly_k_points_have_energy_zero():
    space = Record(tuple(Column(f"c{i}", "real", center=1.0, spread=2.0) for i in range(3)))
    centroids = jax.random.normal(jax.random.key(0), (7, 3))
    energy = KMeans(Embedding(space), centroids)
    codes = jax.vmap(energy.embedding.unembed)(centroids)
    np.testing.assert_allclose(batch(energy)(codes), 0, atol=1e-10)
    elsewhere = codes + jnp.asarray([[0.1, 0.0, 0.0]])
    assert (batch(energy)(elsewhere) > 1e-3).all()
    pairs = (codes[:, None] + codes[None]) / 2
    midpoints = pairs[np.triu_indices(7, 1)]
    assert (batch(energy)(midpoints) > 1e-3).all()


def test_masked_energy_completion_and_code_are_those_of_brute_force():
    space = Record(
        (
            Column("a", "real", center=1.0, spread=2.0),
            Column("b", "categorical", 3),
            Column("c", "integer", 5, spread=1.5),
        )
    )
    centroids = jax.random.normal(jax.random.key(2), (4, 5))
    energy = KMeans(Embedding(space), centroids)
    y, observed = jnp.asarray([2.0, jnp.nan, 3.0]), jnp.asarray([True, False, True])
    u = np.array([0.5, 2.0])
    distances = ((np.asarray(centroids)[:, [0, 4]] - u) ** 2).sum(axis=1)
    best = distances.argmin()
    np.testing.assert_allclose(energy.marginal(y, observed), distances.min(), rtol=1e-5)
    np.testing.assert_array_equal(energy.encode(y, observed), np.eye(4)[best])
    expected = [2.0, np.asarray(centroids)[best, 1:4].argmax(), 3.0]
    np.testing.assert_allclose(energy.complete(y, observed), expected)
    full = jnp.asarray([2.0, 1.0, 3.0])
    np.testing.assert_allclose(energy.marginal(full, jnp.ones(3, bool)), energy(full))


def test_missing_cells_are_left_out_of_distances_and_means():
    rng = np.random.default_rng(0)
    centres = np.array([[-4.0, 0.0, 4.0], [4.0, 4.0, -4.0]])
    labels = rng.integers(0, 2, 400)
    values = (centres[labels] + rng.normal(size=(400, 3)) * 0.5).astype(np.float32)
    seen = rng.random(values.shape) > 0.3
    found = cluster(jnp.asarray(values), jnp.asarray(seen), 2, key=jax.random.key(0), restarts=3)
    order = np.argsort(np.asarray(found.centroids)[:, 0])
    for k in range(2):
        masked = np.where(seen[labels == k], values[labels == k], np.nan)
        keep = seen[labels == k].any(axis=1)
        np.testing.assert_allclose(
            np.asarray(found.centroids)[order[k]], np.nanmean(masked[keep], axis=0), atol=0.1
        )


def test_an_empty_cluster_starts_anew_at_the_farthest_row():
    rows = jnp.asarray([[0.0], [0.1], [0.2], [9.0]])
    start = jnp.asarray([[0.1], [100.0]])
    found = lloyd(rows, None, start)
    np.testing.assert_allclose(np.sort(np.asarray(found.centroids)[:, 0]), [0.1, 9.0], atol=1e-6)


def test_more_clusters_than_rows():
    values = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
    fitted = KMEANS.train(problem(values, numbers(values), clusters=5))
    assert fitted.energy.centroids.shape == (5, 2)
    np.testing.assert_allclose(batch(fitted.energy)(values.astype(np.float32)), 0, atol=1e-10)


def test_no_cluster_starts_at_a_row_that_is_not_there():
    """Small tables are filled up with zeros: here are more empty clusters than rows to start them at."""
    rows = np.random.default_rng(0).normal(5, 1, (9, 2)).astype(np.float32)
    found = np.asarray(lloyd(rows, None, np.full((12, 2), 100, np.float32), iterations=1).centroids)
    nearest = np.abs(found[1:, None] - rows[None]).sum(axis=2).min(axis=1)
    np.testing.assert_allclose(nearest, 0, atol=1e-5)


def test_coordinate_descent_needs_fewer_passes_than_gradient_descent():
    values = DIGITS[:600]
    columns = numbers(values)
    coordinate = KMEANS.train(problem(values, columns, restarts=1, scale="none"))
    gradient = KMEANS.train(
        problem(values, columns, solver="gradient", restarts=1, iterations=100, rate=0.3, scale="none")
    )
    mean = lambda fitted: float(jnp.mean(batch(fitted.energy)(jnp.asarray(values))))  # noqa: E731
    assert coordinate.status == "converged"
    assert coordinate.steps < 50
    # Within as many passes as coordinate descent took in all, gradient descent is still above it.
    early = [record for record in gradient.history if record["step"] <= coordinate.steps]
    assert early
    assert min(record["loss"] for record in early) > mean(coordinate)
    assert mean(coordinate) <= mean(gradient) * 1.02
    assert mean(gradient) < gradient.history[0]["loss"]


def test_the_fit_has_the_shape_of_its_skeleton_and_a_curve_that_falls():
    values = DIGITS[:300]
    asked = problem(
        values, numbers(values), observed=np.random.default_rng(0).random(values.shape) > 0.1, clusters=4
    )
    fitted = KMEANS.train(asked)
    expected = jax.eval_shape(lambda: KMEANS.skeleton(asked.space, asked.settings))
    assert jax.tree.structure(expected) == jax.tree.structure(fitted.energy)
    assert [a.shape for a in jax.tree.leaves(expected)] == [a.shape for a in jax.tree.leaves(fitted.energy)]
    losses = [record["loss"] for record in fitted.history]
    assert losses[-1] < losses[0]
    marginals = batch(fitted.energy.marginal)(asked.rows.values, asked.rows.observed)
    np.testing.assert_allclose(jnp.mean(marginals), losses[-1], rtol=1e-3)


def test_impossible_settings_say_so():
    with pytest.raises(SettingsError, match="solver 'newton' is not known: choose coordinate or gradient"):
        KMEANS.configure({"solver": "newton"})
    with pytest.raises(SettingsError, match="clusters must be at least 1, not 0"):
        KMEANS.configure({"clusters": 0})
