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
from thalweg.evaluate.annealing import (
    bennett,
    bracket,
    drawn_by_weight,
    effective,
    log_partition,
    mean_weight,
    spaced,
)
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
@pytest.mark.parametrize(
    ("machine", "chains", "temperatures"),
    [
        (rbm(Binary((12,)), 6, key=KEY, scale=1.0), 30, 60),
        (rbm(Binary((30,)), 12, key=KEY, scale=1.5), 50, 200),
        (rbm(Binary((40,)), 14, key=KEY, scale=2.5), 50, 1000),
    ],
    ids=["weak", "strong", "stronger"],
)
def test_estimates_over_many_repetitions_are_as_far_off_as_they_say(machine, chains, temperatures):
    truth = float(exact_log_partition(machine))
    found = [
        log_partition(machine, key=jax.random.key(i), exact=False, chains=chains, temperatures=temperatures)
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


def test_a_lower_side_that_is_surely_above_the_upper_one_is_a_contradiction():
    """Even where the estimate lies between the ends of a bracket that the errors have made wide enough."""
    above, below = np.array([391.0] * 99 + [400.0]), np.array([394.0] * 99 + [386.5])
    found = bracket(above, below, 0.0, 50)
    (low, low_error), (high, high_error) = mean_weight(above), mean_weight(-below)
    assert low - 3 * low_error < found.value < -high + 3 * high_error
    assert low + high > 3 * np.hypot(low_error, high_error)
    assert "contradict" in found.how


def test_few_chains_that_carry_the_weight_are_named():
    logs = np.concatenate([np.zeros(98), [20.0, 20.0]])
    assert effective(logs) == pytest.approx(2.0, rel=1e-6)
    assert effective(np.zeros(50)) == pytest.approx(50.0)
    assert "2.0 chains carry all the weight" in bracket(logs, np.full(100, 19.0), 0.0, 50).how
    assert "carry" not in bracket(np.zeros(100), np.zeros(100), 0.0, 50).how


def test_levels_lie_close_where_the_work_of_the_pilot_deviates():
    rng = np.random.default_rng(0)
    even = np.linspace(0.0, 1.0, 1001)
    deviation = np.where(even[1:] <= 0.5, 1.0, 3.0)
    levels = spaced(even, deviation[:, None] * rng.standard_normal((1000, 4000)), 400)
    assert levels[0] == 0.0
    assert levels[-1] == 1.0
    assert (np.diff(levels) > 0).all()
    # Stretches have a tenth of the average one beside their own share.
    assert np.isclose(np.mean(levels[1:] <= 0.5), (1 + 0.2) / (4 + 0.4), atol=0.01)
    flat = spaced(even, np.zeros((1000, 10)), 400)
    assert np.allclose(flat, np.linspace(0, 1, 401))


def test_work_that_adds_up_counts_for_more_than_work_that_forgets():
    """Of equal deviations at each level, those that are the same all along a stretch take more levels."""
    rng = np.random.default_rng(0)
    even = np.linspace(0.0, 1.0, 1001)
    alone, together = rng.standard_normal((500, 4000)), np.repeat(rng.standard_normal((25, 4000)), 20, axis=0)
    levels = spaced(even, np.concatenate([alone, together]), 400)
    own, other = np.sqrt(20), 20.0
    share = (own + 0.1 * (own + other) / 2) / (1.1 * (own + other))
    assert np.isclose(np.mean(levels[1:] <= 0.5), share, atol=0.01)


def test_chains_are_drawn_as_often_as_they_weigh():
    logs = np.random.default_rng(0).standard_normal(50) - 300
    expected = 50 * np.exp(logs) / np.exp(logs).sum()
    counts = [np.bincount(drawn_by_weight(logs, u), minlength=50) for u in (np.arange(1000) + 0.5) / 1000]
    assert (np.abs(np.array(counts) - expected) < 1).all()
    assert np.allclose(np.mean(counts, axis=0), expected, atol=2e-3)


def test_chains_that_began_at_one_point_count_as_one():
    rng = np.random.default_rng(0)
    logs, copies = rng.standard_normal(40), np.repeat(np.arange(40), 5)
    assert np.allclose(mean_weight(np.repeat(logs, 5), copies), mean_weight(logs))


def test_bennett_is_as_far_off_as_it_says_where_the_way_back_begins_at_ends():
    """Ends in one of two modes that keep their part of the work both ways: 2,000 repetitions of the closed form."""
    rng = np.random.default_rng(0)
    z = []
    for _ in range(2000):
        mode, noise = rng.standard_normal(100), rng.standard_normal((2, 100))
        # log w of mean weight 1, the work of the noise dissipated and that of the mode given back.
        forwards = 0.7 * mode - 0.7**2 / 2 + 0.5 * noise[0] - 0.5**2 / 2
        parents = drawn_by_weight(forwards, rng.random())
        backwards = 0.7 * mode[parents] - 0.7**2 / 2 + 0.5 * noise[1] + 0.5**2 / 2
        value, error = bennett(forwards, backwards, parents)
        z.append(value / error)
    assert abs(np.mean(z)) < 0.3
    assert 0.85 < np.std(z) < 1.15


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
