"""One-dimensional families against quadrature, enumeration and their distribution functions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special, stats

from thalweg.models import columns

real = jax.jit(jax.vmap(columns.real_log_prob, (None, 0)))
integer = jax.jit(jax.vmap(columns.integer_log_prob, (None, 0, None, None, None)))
integer_mean = jax.jit(jax.vmap(columns.integer_mean, (0, None, None, None)))


def random_raw(seed, k=4, spread=1.0):
    """Logits, means and scales before the softplus, of every width."""
    return jnp.asarray(np.random.default_rng(seed).normal(0, spread, (3, k)), jnp.float32)


def parts(raw, floor):
    """Weights, means and scales in double precision."""
    logits, means, scales = np.asarray(raw, float)
    return special.softmax(logits), means, np.logaddexp(0, scales) + floor


def distribution(raw, floor, t):
    weights, means, scales = parts(raw, floor)
    return special.expit((np.asarray(t)[..., None] - means) / scales) @ weights


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("spread", [1.0, 3.0])
def test_real_densities_integrate_to_one_and_differentiate_the_distribution(seed, spread):
    raw = random_raw(seed, spread=spread)

    def density(y):
        return np.exp(np.asarray(real(raw, jnp.asarray(y, jnp.float32)), float))

    # Substituting y = sinh(3 s) / 2 puts points both at narrow components and far out.
    s = np.linspace(-3, 3, 60001)
    y = 8 * np.sinh(s)
    total = np.trapezoid(density(y) * 8 * np.cosh(s), s)
    inside = distribution(raw, columns.REAL_FLOOR, y.max()) - distribution(raw, columns.REAL_FLOOR, y.min())
    assert total == pytest.approx(inside, abs=2e-4)
    assert inside > 0.99
    points = np.linspace(-3, 3, 7)
    step = 1e-4
    slope = np.diff(distribution(raw, columns.REAL_FLOOR, [points - step, points + step]), axis=0)[0] / (
        2 * step
    )
    np.testing.assert_allclose(density(points), slope, rtol=5e-3, atol=1e-6)


SIZES = [(1, 0.0, 1.0), (2, 0.4, 0.5), (5, 2.0, 1.3), (17, 5.0, 6.0), (1000, 300.0, 80.0), (3000, 10.0, 1e6)]


@pytest.mark.parametrize(("size", "center", "spread"), SIZES)
@pytest.mark.parametrize("seed", range(3))
def test_integer_masses_sum_to_one_over_the_range(size, center, spread, seed):
    raw = random_raw(seed, spread=2.0)
    masses = np.exp(
        np.asarray(integer(raw, jnp.arange(size, dtype=jnp.float32), size, center, spread), float)
    )
    assert masses.sum() == pytest.approx(1, abs=3e-5)
    floor = columns.INTEGER_FLOOR / spread
    edges = (np.arange(size - 1) + 0.5 - center) / spread
    expected = np.diff(np.concatenate([[0], distribution(raw, floor, edges), [1]]))
    np.testing.assert_allclose(masses, expected, rtol=2e-3, atol=1e-7)


@pytest.mark.parametrize("y", [-1.0, -7.0, 5.0, 40.0])
def test_a_count_outside_the_range_has_its_own_bin(y):
    raw = random_raw(0)
    edge = 0.0 if y < 0 else 4.0
    got, largest = np.exp(np.asarray(integer(raw, jnp.array([y, edge]), 5, 2.0, 1.3), float))
    below, above = distribution(raw, columns.INTEGER_FLOOR / 1.3, (np.array([y - 0.5, y + 0.5]) - 2.0) / 1.3)
    assert got == pytest.approx(above - below, rel=1e-3, abs=1e-9)
    assert got < largest


def test_counts_around_a_large_centre_keep_their_halves():
    """At ten million single precision has no halves: the range's masses must come out even so."""
    center, spread = 1e7, 3.0
    raw = jnp.array([[0.0], [0.0], [-0.5]])
    y = center + np.arange(-4, 5)
    edges = (np.arange(-5, 5) + 0.5) / spread
    expected = np.diff(distribution(raw, columns.INTEGER_FLOOR / spread, edges))
    got = np.exp(integer(raw, jnp.asarray(y, jnp.float32), 2e7, center, spread))
    np.testing.assert_allclose(got, expected, rtol=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_the_mean_of_a_real_column_is_its_integral(seed):
    raw = random_raw(seed)
    weights, means, scales = parts(raw, columns.REAL_FLOOR)

    def moment(y):
        return y * np.sum(weights * stats.logistic.pdf(y, means, scales))

    expected, _ = integrate.quad(moment, -60, 60, points=list(means), limit=400)
    assert float(columns.real_mean(raw)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("size", "center", "spread"), SIZES[:-1])
@pytest.mark.parametrize("deviation", [0.5, 3.0, 20.0])
def test_the_mean_count_is_the_sum_over_the_range(size, center, spread, deviation):
    raws = jnp.stack([random_raw(seed, spread=deviation) for seed in range(8)])
    edges = (np.arange(size - 1) + 0.5 - center) / spread
    for raw, got in zip(raws, integer_mean(raws, size, center, spread), strict=True):
        masses = np.diff(np.concatenate([[0], distribution(raw, columns.INTEGER_FLOOR / spread, edges), [1]]))
        assert float(got) == pytest.approx(np.sum(np.arange(size) * masses), abs=0.01 + 2e-6 * size)


@pytest.mark.parametrize("floor", [columns.REAL_FLOOR, 0.3])
def test_draws_follow_the_distribution(floor):
    raw = random_raw(3, spread=1.5)
    keys = jax.random.split(jax.random.key(0), 4000)
    draws = jax.jit(jax.vmap(lambda key: columns.mixture_draw(raw, floor, key=key)))(keys)
    result = stats.kstest(np.asarray(draws, float), lambda t: distribution(raw, floor, t))
    assert result.pvalue > 1e-3
    shifted = stats.kstest(np.asarray(draws, float) + 0.3, lambda t: distribution(raw, floor, t))
    assert shifted.pvalue < 1e-6


FAMILIES = {
    "real": columns.real_log_prob,
    "integer, narrow": lambda raw, y: columns.integer_log_prob(raw, y, 10, 4.0, 1e-3),
    "integer": lambda raw, y: columns.integer_log_prob(raw, y, 10, 4.0, 1.0),
    "integer, wide": lambda raw, y: columns.integer_log_prob(raw, y, 10, 4.0, 1e6),
    "real mean": lambda raw, y: columns.real_mean(raw),
    "integer mean": lambda raw, y: columns.integer_mean(raw, 10.0, 4.0, 2.0),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_extreme_outputs_and_values_keep_finite_derivatives(family):
    corners = np.array(np.meshgrid(*[[-50.0, 0.0, 50.0]] * 6), np.float32).reshape(6, -1).T.reshape(-1, 3, 2)
    values = np.array([0, 1, -1, 9, 10, 50, -1e3, 1e4, -1e6, 1e9, 1e15], np.float32)
    slope = jax.value_and_grad(FAMILIES[family], (0, 1))
    value, slopes = jax.jit(jax.vmap(jax.vmap(slope, (None, 0)), (0, None)))(corners, values)
    wrong = np.argwhere(~np.isfinite(value))
    assert not len(wrong), (corners[wrong[0, 0]], values[wrong[0, 1]])
    for part in slopes:
        wrong = np.argwhere(~np.isfinite(part))
        assert not len(wrong), (corners[wrong[0, 0]], values[wrong[0, 1]])
