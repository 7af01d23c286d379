"""Sums and minima over finite spaces, against numpy over the same points."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from minimise_cases import FIELD, Ising, ising_table
from scipy.special import logsumexp

from thalweg.energy import Binary, Categorical, Column, Real, Record, energy_of
from thalweg.errors import SettingsError
from thalweg.inference import argmin, log_partition, probabilities

ISING = Ising(jnp.asarray(FIELD))


@pytest.mark.parametrize("chunk", [4096, 100])
def test_the_partition_function_of_spins(chunk):
    points, energies = ising_table()
    assert log_partition(ISING, chunk=chunk) == pytest.approx(logsumexp(-energies), rel=1e-5)
    assert log_partition(ISING, beta=0.3, chunk=chunk) == pytest.approx(logsumexp(-0.3 * energies), rel=1e-5)
    point, energy = argmin(ISING, chunk=chunk)
    np.testing.assert_array_equal(point, points[energies.argmin()])
    assert energy == pytest.approx(energies.min(), rel=1e-5)
    expected = np.exp(-energies - logsumexp(-energies))
    np.testing.assert_allclose(probabilities(ISING, chunk=chunk), expected, atol=1e-6)


@pytest.mark.parametrize("chunk", [4096, 100])
def test_the_gradient_of_log_z_is_the_mean_spin(chunk):
    points, energies = ising_table()
    weight = np.exp(-energies - logsumexp(-energies))
    found = jax.grad(lambda field: log_partition(Ising(field), chunk=chunk))(jnp.asarray(FIELD))
    np.testing.assert_allclose(found, weight @ (2 * points - 1), atol=1e-5)


def test_independent_spins_have_a_product_of_cosh():
    field = jnp.linspace(-1.0, 1.0, 12)
    energy = energy_of(lambda y: -field @ (2 * y - 1), Binary((12,)))
    assert log_partition(energy) == pytest.approx(np.log(2 * np.cosh(np.asarray(field))).sum(), rel=1e-5)


def test_finite_records_and_inputs():
    record = Record((Column("a", "integer", 3), Column("b", "categorical", 4)))
    energy = energy_of(lambda y, x: jnp.sin(3 * y[0] + y[1] * x), record)
    x = 0.7
    table = [np.sin(3 * a + b * x) for a, b in itertools.product(range(3), range(4))]
    assert log_partition(energy, jnp.array(x)) == pytest.approx(logsumexp(-np.array(table)), rel=1e-5)
    point, _ = argmin(energy, jnp.array(x))
    np.testing.assert_array_equal(point, np.unravel_index(int(np.argmin(table)), (3, 4)))


def test_ties_go_to_the_first_point_in_order():
    energy = energy_of(lambda y: jnp.abs(y[0] - y[1] + 1.0), Categorical((2,), 4))
    np.testing.assert_array_equal(argmin(energy)[0], [0, 1])


def test_infinite_and_huge_spaces_are_refused():
    with pytest.raises(SettingsError, match="coordinate 0 is free and real"):
        log_partition(energy_of(jnp.sum, Real((1,))))
    with pytest.raises(SettingsError, match=r"33,554,432 points are more than the 1,048,576"):
        argmin(energy_of(jnp.sum, Binary((25,))))
    with pytest.raises(SettingsError, match="8 points are more than the 4"):
        probabilities(energy_of(jnp.sum, Binary((3,))), largest=4)
