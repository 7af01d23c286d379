"""Langevin steps on a lattice against the enumerated probabilities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from thalweg.energy.base import energy_of
from thalweg.energy.spaces import Categorical, Real
from thalweg.errors import SettingsError
from thalweg.sampling.lattice import LatticeLangevin, _log_bin
from thalweg.sampling.target import Target
from thalweg.sampling.walk import walk


def bowl(y):
    """Counts that pull at each other, with a kink that no Gaussian has."""
    return 0.3 * (y[0] - 2.5) ** 2 + 0.5 * jnp.abs(y[1] - y[0]) + 0.4 * jnp.sin(2 * y[1])


@pytest.mark.parametrize("step_size", [0.7, 2.0])
def test_many_steps_have_the_enumerated_probabilities(step_size):
    energy, chains = energy_of(bowl, Categorical((2,), 5)), 20_000
    points = np.asarray(energy.space.points())
    weights = np.exp(-np.asarray(jax.vmap(energy)(points), np.float64))
    start = jnp.zeros((chains, 2))
    ends = jax.jit(lambda k: walk(Target(energy), LatticeLangevin(step_size), start, 150, key=k))(
        jax.random.key(0)
    )
    codes = np.asarray(ends.points).astype(int) @ [5, 1]
    seen = np.bincount(codes, minlength=25) / chains
    truth = weights / weights.sum()
    np.testing.assert_allclose(seen, truth, atol=5 * np.sqrt(truth.max() / chains))
    assert 0.1 < float(ends.acceptance) < 1


@pytest.mark.parametrize(("mean", "deviation"), [(3.2, 0.4), (100.0, 30.0), (-40.0, 3.0), (300.0, 8.0)])
def test_the_proposals_of_all_values_are_those_of_the_gaussian_and_add_up(mean, deviation):
    values = np.arange(256.0)
    found = np.asarray(_log_bin(*(jnp.asarray(a, jnp.float32) for a in (values, mean, deviation, 255.0))))
    edges = (np.arange(1, 256) - 0.5 - mean) / deviation
    # The smaller tail of each side, in double precision.
    shares = np.where(edges[1:] > 0, norm.sf(edges[:-1]) - norm.sf(edges[1:]), np.diff(norm.cdf(edges)))
    truth = np.concatenate([[norm.cdf(edges[0])], shares, [norm.sf(edges[-1])]])
    some = truth > 1e-30
    np.testing.assert_allclose(found[some], np.log(truth[some]), rtol=2e-3, atol=2e-3)
    assert np.exp(found).sum() == pytest.approx(1, abs=1e-4)


def test_what_is_held_and_what_has_no_scale_stays():
    energy = energy_of(lambda y: 0.1 * jnp.sum(y**2), Categorical((3,), 4))
    held = jnp.array([[3.0, 1.0, 2.0]])
    target = Target(energy, held=held, observed=jnp.array([[True, False, False]]))
    kernel = LatticeLangevin(2.0, scales=(1.0, 1.0, 0.0))
    ends = np.asarray(walk(target, kernel, jnp.repeat(held, 1, 0), 30, key=jax.random.key(1)).points)
    assert ends[0, 0] == 3
    assert ends[0, 2] == 2


def test_numbers_are_refused():
    with pytest.raises(SettingsError, match="redraws finite coordinates"):
        LatticeLangevin().check(Target(energy_of(jnp.sum, Real((2,)))))
