"""The toys are densities: they integrate to one, and their draws follow them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from thalweg.data import load
from thalweg.data.toys import TOYS, Banana, Funnel, Grid25

#: A box that holds all but a negligible part of each toy.
BOXES = {
    "two_moons": (-2.0, 3.0, -1.5, 2.0),
    "rings": (-3.8, 3.8, -3.8, 3.8),
    "pinwheel": (-5.5, 5.5, -5.5, 5.5),
    "eight_gaussians": (-3.5, 3.5, -3.5, 3.5),
    "grid_25": (-4.8, 4.8, -4.8, 4.8),
    "checkerboard": (-5.0, 5.0, -5.0, 5.0),
    "banana": (-5.0, 5.0, -4.0, 26.0),
}
_STEPS = 400


def _cells(name: str, parts: int) -> np.ndarray:
    """The mass of each cell of a parts × parts partition of the toy's box, by the midpoint rule."""
    x0, x1, y0, y1 = BOXES[name]
    xs = x0 + (np.arange(_STEPS) + 0.5) * (x1 - x0) / _STEPS
    ys = y0 + (np.arange(_STEPS) + 0.5) * (y1 - y0) / _STEPS
    points = np.stack(np.meshgrid(xs, ys, indexing="ij"), axis=-1).reshape(-1, 2)
    density = TOYS[name]()
    log_prob = jax.jit(lambda block: jax.lax.map(density.log_prob, block, batch_size=20_000))
    p = np.exp(np.asarray(log_prob(jnp.asarray(points, jnp.float32)), np.float64))
    mass = p.reshape(_STEPS, _STEPS) * (x1 - x0) * (y1 - y0) / _STEPS**2
    side = _STEPS // parts
    return mass.reshape(parts, side, parts, side).sum(axis=(1, 3))


@pytest.mark.parametrize("name", BOXES)
def test_normalised_and_sampled_exactly(name):
    mass = _cells(name, 20)
    assert mass.sum() == pytest.approx(1.0, abs=2e-3)

    x0, x1, y0, y1 = BOXES[name]
    keys = jax.random.split(jax.random.key(7), 20_000)
    density = TOYS[name]()
    draws = np.asarray(jax.jit(jax.vmap(lambda key: density.sample(key=key)))(keys))
    counts, _, _ = np.histogram2d(*draws.T, bins=20, range=[(x0, x1), (y0, y1)])
    expected = mass * len(draws)
    large = expected > 10
    rest = (counts[~large].sum(), expected[~large].sum() + len(draws) * (1 - mass.sum()))
    observed = np.append(counts[large], len(draws) - counts[large].sum())
    predicted = np.append(expected[large], max(rest[1], 1e-9))
    statistic = ((observed - predicted) ** 2 / np.maximum(predicted, 1)).sum()
    assert stats.chi2.sf(statistic, len(observed) - 1) > 1e-4


def test_funnel_is_normalised_and_sampled_exactly():
    """Its tails are too long for a box: each factor is compared with scipy's normal distribution instead."""
    funnel = Funnel()
    points = np.random.default_rng(0).normal(size=(50, 2)) * [3, 2]
    expected = stats.norm(0, 1.5).logpdf(points[:, 1]) + stats.norm(0, np.exp(points[:, 1] / 2)).logpdf(
        points[:, 0]
    )
    found = jax.jit(jax.vmap(funnel.log_prob))(jnp.asarray(points, jnp.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)

    draws = np.asarray(
        jax.jit(jax.vmap(lambda k: funnel.sample(key=k)))(jax.random.split(jax.random.key(3), 5000)), float
    )
    assert stats.kstest(draws[:, 1], stats.norm(0, 1.5).cdf).pvalue > 1e-4
    assert stats.kstest(draws[:, 0] / np.exp(draws[:, 1] / 2), stats.norm.cdf).pvalue > 1e-4


def test_banana_against_scipy():
    points = np.random.default_rng(1).normal(size=(50, 2)) * 2
    expected = stats.norm.logpdf(points[:, 0]) + stats.norm(points[:, 0] ** 2 - 1, 0.5).logpdf(points[:, 1])
    found = jax.jit(jax.vmap(Banana().log_prob))(jnp.asarray(points, jnp.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


def test_the_energy_of_a_toy_is_minus_its_log_density():
    y = jnp.array([0.3, 1.9])
    assert Grid25()(y) == -Grid25().log_prob(y)


@pytest.mark.parametrize("name", ["rings", "pinwheel"])
def test_gradients_are_finite_at_the_origin(name):
    """A norm has no gradient there."""
    assert jnp.all(jnp.isfinite(jax.jit(jax.grad(TOYS[name]()))(jnp.zeros(2))))


def test_a_toy_loads_the_same_2000_rows_each_time():
    assert load("banana").table.equals(load("banana").table)


@pytest.mark.parametrize("name", TOYS)
def test_every_toy_loads(name):
    table = load(name).table
    assert (table.num_rows, table.column_names) == (2000, ["x0", "x1"])
    log_prob = jax.jit(jax.vmap(TOYS[name]().log_prob))
    assert jnp.all(jnp.isfinite(log_prob(jnp.asarray(np.array(table.to_pandas()), jnp.float32))))
