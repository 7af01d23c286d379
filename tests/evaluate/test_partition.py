"""log Z against closed forms: sums, quadrature, and a bracket that holds the truth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sampling.targets import correlated, lattice
from thalweg.data.toys import TOYS
from thalweg.energy import Binary, Real, energy_of
from thalweg.energy.reference import Reference
from thalweg.energy.spaces import Categorical, Column, Record, Simplex
from thalweg.errors import DataError, SettingsError
from thalweg.evaluate.annealing import bennett, bracket, log_partition, mean_weight
from thalweg.evaluate.likelihood import log_likelihood
from thalweg.evaluate.partition import exact_log_partition, quadrature
from thalweg.models.rbm import rbm

KEY = jax.random.key(0)


def test_quadrature_of_gaussians_in_one_to_three_dimensions():
    for size in (1, 2, 3):
        energy = energy_of(lambda y: jnp.sum(y**2) / 2, Real((size,), -8.0, 8.0))
        assert np.isclose(quadrature(energy, nodes=48), size / 2 * np.log(2 * np.pi), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(TOYS) - {"banana", "checkerboard", "funnel"}))
def test_quadrature_finds_that_toys_are_normalised(name):
    toy = TOYS[name]()
    boxed = energy_of(lambda y: -toy.log_prob(y), Real((2,), -8.0, 8.0))
    assert abs(float(quadrature(boxed, nodes=400))) < 2e-3


def test_exact_sums():
    glass = lattice(3)
    points = np.asarray(glass.space.points())
    energies = np.asarray(jax.vmap(glass)(points), np.float64)
    assert np.isclose(exact_log_partition(glass), np.log(np.exp(-energies).sum()), rtol=1e-5)
    found = log_partition(glass, key=KEY)
    assert found.kind == "exact"
    assert found.lower == found.value == found.upper
    assert "enumeration" in str(found)
    assert log_partition(correlated(3), key=KEY).value == 0.0


TABLE = Record(
    (Column("a", "integer", size=5), Column("b", "real", lower=0.0, upper=2.0), Column("c", "real"))
)
DENSITIES = [
    (Binary((4,)), [0, 1, 0, 0], -4 * np.log(2)),
    (Categorical((2,), 3), [2, 0], -2 * np.log(3)),
    (Real((2,), -1.0, 3.0), [0, 2], -2 * np.log(4)),
    (Real((1,), 2.0), [3], -1.0),
    (Real((1,), -np.inf, -1.0), [-3], -2.0),
    (Real((2,)), [0, 1], -np.log(2 * np.pi) - 0.5),
    (Simplex(3), [0.2, 0.3, 0.5], np.log(2)),
    (TABLE, [4, 0.5, 0], -np.log(5) - np.log(2) - np.log(2 * np.pi) / 2),
]
MEANS = dict(
    zip((str(space) for space, *_ in DENSITIES), (0.5, 1, 1, 3, -2, 0, 1 / 3, [2, 1, 0]), strict=True)
)


@pytest.mark.parametrize(("space", "y", "log_prob"), DENSITIES, ids=lambda value: type(value).__name__)
def test_a_reference_draws_what_its_density_says(space, y, log_prob):
    density = Reference(space)
    assert np.isclose(density.log_prob(jnp.asarray(y, jnp.float32)), log_prob, rtol=1e-5)
    draws = jax.vmap(lambda k: density.sample(key=k))(jax.random.split(KEY, 20_000))
    assert np.asarray(jax.vmap(space.contains)(draws)).all()
    assert np.allclose(np.mean(draws, axis=0), MEANS[str(space)], atol=0.05)


def test_a_bracket_holds_the_truth_and_is_narrow():
    machine = rbm(Binary((30,)), 12, key=KEY, scale=0.6)
    truth = float(exact_log_partition(machine))
    found = log_partition(machine, key=KEY, exact=False, chains=100, temperatures=1000)
    assert found.kind == "bracket"
    assert found.lower < truth < found.upper
    assert found.upper - found.lower < 0.5
    assert abs(found.value - truth) < 4.5 * found.error + 1e-3
    assert "annealing" in str(found)


def test_a_bracket_of_a_real_energy_by_its_own_scales():
    density = correlated(6)
    scaled = energy_of(lambda y: -density.log_prob(y) - 3.0, Real((6,)))
    found = log_partition(scaled, key=KEY, chains=100, temperatures=500)
    assert found.lower < 3.0 < found.upper
    assert found.upper - found.lower < 1.5
    assert abs(found.value - 3.0) < 4.5 * found.error + 0.01


def test_too_few_temperatures_give_a_wide_bracket_and_not_a_wrong_one():
    machine = rbm(Binary((30,)), 12, key=KEY, scale=1.5)
    truth = float(exact_log_partition(machine))
    found = log_partition(machine, key=KEY, exact=False, chains=50, temperatures=5)
    assert found.lower < truth < found.upper
    assert found.upper - found.lower > 1.0


@pytest.mark.slow
def test_estimates_over_many_repetitions_are_as_far_off_as_they_say():
    machine = rbm(Binary((12,)), 6, key=KEY, scale=1.0)
    truth = float(exact_log_partition(machine))
    found = [
        log_partition(machine, key=jax.random.key(i), exact=False, chains=30, temperatures=60)
        for i in range(40)
    ]
    z = np.array([(f.value - truth) / f.error for f in found])
    assert abs(z.mean()) < 4.5 / np.sqrt(40)
    assert 0.6 < z.std() < 1.5
    inside = np.mean([f.lower <= truth <= f.upper for f in found])
    assert inside >= 0.9


def test_sides_that_contradict_each_other_widen_the_bracket_and_say_so():
    rng = np.random.default_rng(0)
    above, below = 6 + 0.5 * rng.standard_normal(100), 4 + 0.5 * rng.standard_normal(100)
    found = bracket(above, below, 10.0, 50)
    assert found.lower < 14.0 < 16.0 < found.upper
    assert found.lower < found.value < found.upper
    assert "contradict" in str(found)
    assert "contradict" not in str(bracket(below, above, 10.0, 50))


def test_the_ratio_of_two_gaussians_by_bennett():
    """Works between N(0, 1) and N(1, 1), both normalised, shifted by a constant of 2."""
    rng = np.random.default_rng(0)
    of = lambda y: -((y - 1) ** 2) / 2 + y**2 / 2 + 2.0  # noqa: E731
    value, error = bennett(of(rng.standard_normal(4000)), of(1 + rng.standard_normal(4000)))
    assert abs(value - 2.0) < 4.5 * error
    assert error < 0.05
    low, low_error = mean_weight(of(rng.standard_normal(4000)))
    assert abs(low - 2.0) < 4.5 * low_error


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: quadrature(energy_of(jnp.sum, Real((2,)))), "bound the space"),
        (lambda: quadrature(energy_of(jnp.sum, Real((4,), 0.0, 1.0))), "one to three real dimensions"),
        (
            lambda: exact_log_partition(rbm(Binary((40,)), 30, key=KEY)),
            "30 hidden units has 2.30 terms.*annealed",
        ),
        (lambda: log_partition(energy_of(jnp.sum, Real((4,))), key=KEY, chains=1), "at least two chains"),
    ],
)
def test_what_cannot_be_summed_is_refused(call, message):
    with pytest.raises(SettingsError, match=message):
        call()


def test_a_likelihood_says_what_it_is():
    machine = rbm(Binary((12,)), 6, key=KEY, scale=1.0)
    rows = jnp.asarray(np.random.default_rng(0).integers(0, 2, (200, 12)), jnp.float32)
    truth = -float(jnp.mean(jax.vmap(machine)(rows))) - float(machine.log_partition())
    exact = log_likelihood(machine, rows, key=KEY)
    assert exact.kind == "exact"
    assert np.isclose(exact.value, truth, rtol=1e-5)
    assert exact.lower == exact.upper == exact.value
    found = log_likelihood(machine, rows, key=KEY, exact=False, temperatures=200)
    assert found.kind == "bracket"
    assert found.lower < truth < found.upper
    assert found.error >= exact.error > 0
    assert "within" in str(found)
    assert "exact" in str(exact)
    with pytest.raises(DataError, match="no rows"):
        log_likelihood(machine, rows[:0], key=KEY)
