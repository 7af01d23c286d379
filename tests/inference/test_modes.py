"""All minima with their probabilities, and search without a slope, against mixtures whose modes are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import norm

from thalweg.energy import Categorical, Real, energy_of
from thalweg.errors import SettingsError
from thalweg.inference import BFGS, Gradient, Search, minimise, modes
from thalweg.inference.basins import basins

MEANS = np.array([[1.0, 1.0, 1.0], [-1.0, 0.0, 0.5], [0.0, -1.0, -1.0]], np.float32)
WEIGHTS = np.array([0.5, 0.3, 0.2], np.float32)
SPREADS = np.array([0.1, 0.2, 0.15], np.float32)


def mixture(d: int):
    """-log of a mixture of well separated normal densities, of which the modes are the means."""

    def F(y, x=None):
        squares = jnp.sum((y[None] - jnp.asarray(MEANS[:, :d])) ** 2, axis=1) / 2 / SPREADS**2
        return -jax.nn.logsumexp(np.log(WEIGHTS) - squares - d * np.log(SPREADS))

    return energy_of(F, Real((d,), -2.0, 2.0))


@pytest.mark.parametrize("d", [1, 2, 3])
def test_all_modes_of_a_mixture_with_its_weights(d):
    found = modes(mixture(d))
    order = [int(np.argmin(np.abs(MEANS[:, :d] - y).sum(axis=1))) for y in found.values]
    assert sorted(order) == [0, 1, 2]
    np.testing.assert_allclose(found.values, MEANS[order, :d], atol=2e-3)
    tolerance = np.maximum(1e-3, 4 * found.errors)
    assert (np.abs(found.probabilities - WEIGHTS[order]) < tolerance).all()
    assert (found.errors > 0).all() == (d == 3)
    assert (np.diff(found.energies) >= 0).all()
    np.testing.assert_allclose(found.energies, [mixture(d)(jnp.asarray(y)) for y in found.values], rtol=1e-5)


def test_probabilities_of_modes_that_overlap_are_the_integral_to_the_pass_between():
    grid = np.linspace(-2, 2, 40_001)
    log_p = logsumexp(np.log(WEIGHTS) + norm.logpdf(grid[:, None], MEANS[:, 0] * 0.5, SPREADS * 1.2), axis=1)

    def F(y, x=None):
        return -jax.nn.logsumexp(
            np.log(WEIGHTS) + jax.scipy.stats.norm.logpdf(y, MEANS[:, 0] * 0.5, SPREADS * 1.2)
        )

    found = modes(energy_of(F, Real((1,), -2.0, 2.0)), barrier=0.01)
    lows = np.flatnonzero((log_p[1:-1] < log_p[:-2]) & (log_p[1:-1] <= log_p[2:])) + 1
    masses = np.add.reduceat(np.exp(log_p), [0, *lows]) * (grid[1] - grid[0])
    by_place = np.argsort(found.values[:, 0])
    np.testing.assert_allclose(found.probabilities[by_place], masses / masses.sum(), atol=2e-3)


def test_a_low_pass_is_no_pass():
    t = np.linspace(0, 1, 200)
    rough = 5 * np.abs(t - 0.5) + 0.1 * np.cos(100 * t)
    assert len(basins(rough, barrier=0.0).cells) > 5
    merged = basins(rough, barrier=0.25)
    assert len(merged.cells) == 1
    np.testing.assert_allclose(merged.shares, 1.0)
    assert len(basins(np.zeros((4, 5))).cells) == 1
    # Two deep valleys, each of them rough: what is merged goes to the valley on its own side of the pass.
    two = np.minimum(20 * np.abs(t - 0.25), 20 * np.abs(t - 0.75) + 0.5) + 0.2 * np.cos(150 * t)
    assert len(basins(two, barrier=0.0).cells) > 4
    found = basins(two, barrier=0.5)
    left = np.exp(-two[t < 0.5]).sum() / np.exp(-two).sum()
    np.testing.assert_allclose(found.shares, [left, 1 - left], atol=0.01)


def test_a_minimum_at_the_border_of_the_box():
    found = modes(energy_of(lambda y: 3 * y[0], Real((1,), -1.0, 1.0)))
    np.testing.assert_allclose(found.values, [[-1.0]], atol=1e-3)
    np.testing.assert_allclose(found.probabilities, [1.0])


def test_modes_are_of_a_box_of_numbers():
    with pytest.raises(SettingsError, match="unbounded: give the space bounds"):
        modes(energy_of(lambda y: jnp.sum(y**2), Real((2,))))
    with pytest.raises(SettingsError, match="moves real coordinates only"):
        modes(energy_of(jnp.sum, Categorical((2,), 3)))


def host(y):
    return np.float32(np.sum((y - 0.3) ** 2))


CALLED = energy_of(
    lambda y: jax.pure_callback(host, jax.ShapeDtypeStruct((), jnp.float32), y, vmap_method="sequential"),
    Real((2,), -1.0, 1.0),
)
STEPPED = energy_of(lambda y: jnp.sum(jnp.round(4 * (y - 0.3)) ** 2), Real((2,), -1.0, 1.0))


@pytest.mark.parametrize(("energy", "lowest"), [(CALLED, 2e-3), (STEPPED, 0.0)])
def test_a_search_needs_no_slope(energy, lowest):
    found = minimise(energy, jnp.zeros(2), solver=Search(samples=128, iterations=6))
    assert found.energy <= lowest
    assert found.converged


def test_a_search_finds_the_deepest_of_three_and_holds_what_is_observed():
    energy = mixture(2)
    found = minimise(energy, jnp.array([-1.0, 0.0]), solver=Search())
    np.testing.assert_allclose(found.value, MEANS[0, :2], atol=0.02)
    held = minimise(energy, jnp.array([-1.0, 2.0]), solver=Search(), observed=jnp.array([True, False]))
    np.testing.assert_allclose(held.value, [-1.0, 0.0], atol=0.02)


def test_an_energy_without_a_slope_is_refused_by_name():
    start = jnp.full(2, 0.1)
    with pytest.raises(SettingsError, match=r"no derivative for a gradient solver.*solver=Search"):
        minimise(CALLED, start, solver=Gradient())
    with pytest.raises(SettingsError, match=r"flat between its steps.*solver=Search"):
        minimise(STEPPED, start, solver=Gradient())
    with pytest.raises(SettingsError, match="flat between its steps"):
        minimise(energy_of(STEPPED.function, Real((2,))), start, solver=BFGS())
    with pytest.raises(SettingsError, match="turns its argument into an array of NumPy"):
        minimise(energy_of(lambda y: np.sum(np.asarray(y)), Real((2,), -1.0, 1.0)), start, solver=Search())
    with pytest.raises(SettingsError, match="unbounded: give the space bounds"):
        minimise(energy_of(jnp.sum, Real((2,))), start, solver=Search())


def test_a_minimum_that_is_where_the_search_starts_is_no_step():
    found = minimise(
        energy_of(lambda y: jnp.sum(y**2), Real((2,), -1.0, 1.0)), jnp.zeros(2), solver=Gradient()
    )
    assert found.converged
