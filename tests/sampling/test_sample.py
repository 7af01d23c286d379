"""The entry point: draws of known targets, conditionals, warm-up, diagnoses and bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sampling.targets import Mixed, Table, correlated, lattice
from thalweg.data.toys import EightGaussians, Funnel
from thalweg.energy import Binary, Real, energy_of
from thalweg.energy.spaces import Column, Record
from thalweg.errors import ChainWarning, SettingsError
from thalweg.sampling import (
    HMC,
    MALA,
    NUTS,
    ULA,
    Cycle,
    Gibbs,
    GibbsWithGradients,
    Metropolis,
    ParallelTempering,
    UnderdampedLangevin,
    default_kernel,
    sample,
)
from thalweg.sampling.langevin import variance_of_ula
from thalweg.sampling.warmup import Moments

KEY = jax.random.key(0)
DEVIATIONS = 4.5


def from_mean(chains, expected, of=lambda y: y):
    """By how many Monte Carlo errors the means of a function of the draws differ from what they should be."""
    from thalweg.evaluate import diagnostics

    values = np.asarray(of(chains.draws.astype(np.float64)))
    values = values.reshape(*values.shape[:2], -1)
    error = values.std(axis=(0, 1)) / np.sqrt(diagnostics.mean_ess(values))
    return np.abs(values.mean(axis=(0, 1)) - np.ravel(expected)) / error


TUNED = {
    "nuts": (NUTS(), 1000),
    "nuts, dense": (NUTS(mass="dense"), 1000),
    "hmc": (HMC(leapfrogs=8), 2000),
    "mala": (MALA(), 10_000),
    "metropolis": (Metropolis(), 40_000),
}


@pytest.mark.parametrize("name", TUNED)
def test_moments_of_a_correlated_gaussian(name):
    kernel, steps = TUNED[name]
    density = correlated(5)
    covariance = np.asarray(density.factor @ density.factor.T, np.float64)
    chains = sample(density, key=KEY, kernel=kernel, steps=steps, warmup=1000)
    assert from_mean(chains, density.mean).max() < DEVIATIONS
    products = from_mean(
        chains,
        covariance,
        lambda y: (y - np.asarray(density.mean))[..., None] * (y - np.asarray(density.mean))[..., None, :],
    )
    assert products.max() < DEVIATIONS
    excess = chains.acceptance.mean() - kernel.optimal
    assert excess > -0.1
    if excess >= 0.1:
        # Trajectories of many leapfrogs lose acceptance suddenly: steps half as long again have too little.
        longer = chains.kernel.with_step(1.5 * chains.kernel.step_size)
        start = jnp.asarray(chains.draws[:, -1])
        with pytest.warns(ChainWarning, match="flew apart"):
            after = sample(density, key=KEY, kernel=longer, steps=1000, warmup=0, start=start)
        assert after.acceptance.mean() < kernel.optimal


def test_a_dense_metric_learns_the_covariance():
    density = correlated(5)
    chains = sample(density, key=KEY, kernel=NUTS(mass="dense"), steps=1000, warmup=2000)
    learnt = np.asarray(chains.kernel.metric.scale) @ np.asarray(chains.kernel.metric.scale).T
    truth = np.asarray(density.factor @ density.factor.T)
    assert np.allclose(learnt, truth, atol=0.15 * np.abs(truth).max())
    diagonal = sample(density, key=KEY, kernel=NUTS(), steps=1000, warmup=2000).kernel.metric.scale
    assert np.allclose(diagonal, np.sqrt(np.diag(truth)), rtol=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [NUTS(), HMC(leapfrogs=32)], ids=["nuts", "hmc"])
def test_moments_in_a_hundred_dimensions(kernel):
    density = correlated(100)
    chains = sample(density, key=KEY, kernel=kernel, steps=2000, warmup=2000)
    variances = np.diag(np.asarray(density.factor @ density.factor.T, np.float64))
    assert from_mean(chains, density.mean).max() < DEVIATIONS
    assert from_mean(chains, variances, lambda y: (y - np.asarray(density.mean)) ** 2).max() < DEVIATIONS


@pytest.mark.parametrize("step", [0.1, 0.5, 1.0])
def test_unadjusted_langevin_has_its_own_variance(step):
    normal = energy_of(lambda y: jnp.sum(y**2) / 2, Real((1,)))
    chains = sample(normal, key=KEY, kernel=ULA(step), chains=200, steps=2000, warmup=100)
    assert from_mean(chains, variance_of_ula(step), lambda y: y**2).max() < DEVIATIONS
    assert from_mean(chains, 1.0, lambda y: y**2).max() > DEVIATIONS
    assert not chains.kernel.exact


def test_underdamped_langevin_has_the_gaussian_itself():
    """BAOAB has the right positions on a Gaussian at any stable step."""
    normal = energy_of(lambda y: jnp.sum(y**2 / jnp.array([2.0, 8.0])), Real((2,)))
    chains = sample(normal, key=KEY, kernel=UnderdampedLangevin(1.0), chains=100, steps=4000, warmup=100)
    assert from_mean(chains, [1.0, 4.0], lambda y: y**2).max() < DEVIATIONS


@pytest.mark.parametrize("kernel", [Gibbs(), GibbsWithGradients(flips=16)], ids=["gibbs", "gradients"])
def test_probabilities_of_an_enumerated_lattice(kernel):
    glass = lattice(4)
    table = Table.of(glass)
    probabilities = np.exp(np.asarray(table.log_probs, np.float64))
    points = np.asarray(table.points)
    chains = sample(glass, key=KEY, kernel=kernel, chains=50, steps=1000, warmup=100)
    assert from_mean(chains, probabilities @ points).max() < DEVIATIONS
    pairs = np.einsum("n,ni,nj->ij", probabilities, points, points)
    seen = from_mean(chains, pairs, lambda y: y[..., :, None] * y[..., None, :])
    assert seen.max() < DEVIATIONS
    energies = np.asarray(jax.vmap(glass)(table.points), np.float64)
    assert np.isclose(chains.energies.mean(), probabilities @ energies, atol=0.05)


def test_tempering_crosses_between_modes():
    ring = EightGaussians()
    start = jnp.array([2.0, 0.0])
    sides = jnp.stack([start, start, -start, -start])
    with pytest.warns(ChainWarning, match="R-hat"):
        stuck = sample(ring, key=KEY, kernel=HMC(0.1), steps=500, warmup=200, start=sides, chains=4)
    # Chains that crossed would be half of the time on either side.
    assert (stuck.draws[:, :, 0] * np.asarray(sides[:, :1]) > 0).mean() > 0.75
    crossing = ParallelTempering(HMC(0.1, 8), (1.0, 0.4, 0.15, 0.06))
    found = sample(ring, key=KEY, kernel=crossing, steps=4000, warmup=500, start=start, chains=4)
    modes = np.argmin(np.sum((found.flat[:, None] - ring.centres()[None]) ** 2, axis=2), axis=1)
    assert from_mean(found, [0.0, 0.0]).max() < DEVIATIONS
    assert np.bincount(modes, minlength=8).min() / len(modes) > 0.08
    # Each temperature has a step size of its own, larger where it is hotter.
    sizes = np.asarray(found.kernel.kernel.step_size)
    assert sizes.shape == (4,)
    assert sizes[-1] > 2 * sizes[0]


def test_a_mixed_row_by_its_default_kernel():
    row = Mixed()
    assert isinstance(default_kernel(row), Cycle)
    chains = sample(row, key=KEY, steps=3000, warmup=500)
    shares = [0.2, 0.5, 0.3]
    assert from_mean(chains, shares, lambda y: (y[..., :1] == np.arange(3)).astype(float)).max() < DEVIATIONS
    mean = np.dot(shares, [-1.0, 0.0, 1.0])
    assert from_mean(chains, mean, lambda y: y[..., 1:2]).max() < DEVIATIONS


def test_what_is_observed_is_held_and_the_rest_is_conditional():
    density = correlated(4)
    mean, covariance = (np.asarray(a, np.float64) for a in (density.mean, density.factor @ density.factor.T))
    values, observed = jnp.array([1.0, 0.0, -2.0, 0.0]), jnp.array([True, False, True, False])
    chains = sample(density, key=KEY, steps=3000, warmup=1000, start=values, observed=observed)
    seen, free = [0, 2], [1, 3]
    gain = covariance[np.ix_(free, seen)] @ np.linalg.inv(covariance[np.ix_(seen, seen)])
    expected = mean[free] + gain @ (np.asarray(values)[seen] - mean[seen])
    spread = np.diag(covariance[np.ix_(free, free)] - gain @ covariance[np.ix_(seen, free)])
    assert (chains.draws[..., seen] == np.asarray(values)[seen]).all()
    assert np.isnan(chains.r_hat[seen]).all()
    assert from_mean(chains, expected, lambda y: y[..., free]).max() < DEVIATIONS
    assert from_mean(chains, spread, lambda y: (y[..., free] - expected) ** 2).max() < DEVIATIONS


def test_each_chain_may_hold_what_it_likes():
    density = correlated(3)
    start = jnp.array([[5.0, 0.0, 0.0], [0.0, -5.0, 0.0]])
    observed = jnp.array([[True, False, False], [False, True, False]])
    chains = sample(
        density, key=KEY, chains=2, steps=2000, warmup=200, start=start, observed=observed, thin=2
    )
    assert chains.draws.shape == (2, 1000, 3)
    assert (chains.draws[0, :, 0] == 5).all()
    assert (chains.draws[1, :, 1] == -5).all()
    assert np.ptp(chains.draws[1, :, 0]) > 0


def test_an_inverse_temperature_narrows():
    normal = energy_of(lambda y: jnp.sum(y**2) / 2, Real((2,)))
    chains = sample(normal, key=KEY, steps=2000, warmup=500, beta=4.0)
    assert from_mean(chains, [0.25, 0.25], lambda y: y**2).max() < DEVIATIONS
    assert np.allclose(chains.energies, np.sum(chains.draws**2, axis=2) / 2, rtol=1e-4)


def test_the_same_key_draws_the_same_and_tuned_kernels_are_used_again():
    density = correlated(3)
    first = sample(density, key=KEY, steps=1000, warmup=300)
    again = sample(density, key=KEY, steps=1000, warmup=300)
    assert (first.draws == again.draws).all()
    frozen = sample(
        density, key=jax.random.key(1), kernel=first.kernel, steps=1000, warmup=0, start=density.mean
    )
    assert frozen.kernel.step_size == first.kernel.step_size
    assert frozen.acceptance.mean() > 0.6


def test_a_summary_names_columns_and_says_what_is_wrong():
    space = Record((Column("width", "real"), Column("height", "real")))
    row = energy_of(lambda y: jnp.sum(y**2) / 2, space)
    chains = sample(row, key=KEY, steps=1000, warmup=500)
    text = str(chains)
    assert "width" in text
    assert "R-hat" in text
    assert chains.complaints() == []
    assert chains.ess_per_second > 0
    with pytest.warns(ChainWarning, match="R-hat is .* the chains do not agree yet"):
        sample(row, key=KEY, kernel=ULA(1e-4), steps=200, warmup=0)


def test_divergent_steps_are_counted_and_explained():
    with pytest.warns(ChainWarning, match="flew apart: the energy is too steep"):
        chains = sample(Funnel(scale=3.0), key=KEY, kernel=NUTS(1.5), steps=500, warmup=0)
    assert chains.divergences.sum() > 0


def test_chains_that_never_move_are_named():
    wall = energy_of(lambda y: jnp.where(jnp.abs(y[0]) < 1e-3, 0.0, jnp.inf), Real((1,)))
    with pytest.warns(ChainWarning, match=r"chains \[0, 1, 2, 3\] never moved"):
        sample(wall, key=KEY, kernel=Metropolis(10.0), steps=50, warmup=0, start=jnp.zeros(1))


NORMAL = energy_of(lambda y: jnp.sum(y**2) / 2, Real((2,)))
BITS = energy_of(lambda y: jnp.sum(y), Binary((3,)))


@pytest.mark.parametrize(
    ("energy", "options", "message"),
    [
        (lambda y: y, {}, "not an energy but function"),
        (NORMAL, {"kernel": Gibbs()}, "redraws finite coordinates.*use NUTS"),
        (BITS, {"kernel": NUTS()}, "moves real coordinates.*use Gibbs"),
        (BITS, {"kernel": MALA()}, "moves real coordinates.*use Gibbs"),
        (NORMAL, {"kernel": GibbsWithGradients()}, "redraws finite coordinates"),
        (NORMAL, {"beta": -1.0}, "must be positive and finite"),
        (NORMAL, {"steps": 0}, "steps must be at least 1"),
        (NORMAL, {"chains": 0}, "chains must be at least 1"),
        (NORMAL, {"start": jnp.zeros(3)}, r"`start` has shape \(3,\)"),
        (NORMAL, {"start": jnp.array([0.0, jnp.nan])}, "infinite or not a number"),
        (NORMAL, {"observed": jnp.array([True, False])}, "held at their values in `start`"),
        (NORMAL, {"observed": jnp.ones(2), "start": jnp.zeros(2)}, "must be boolean"),
        (NORMAL, {"observed": jnp.ones(2, bool), "start": jnp.zeros(2)}, "nothing is left to draw"),
        (BITS, {"start": jnp.array([0.0, 2.0, 1.0])}, "lies outside"),
        (energy_of(lambda y: jnp.inf * jnp.sum(y**0), Real((2,))), {}, "energy of every start is infinite"),
    ],
)
def test_what_cannot_be_sampled_is_refused(energy, options, message):
    with pytest.raises(SettingsError, match=message):
        sample(energy, key=KEY, **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NUTS(0.0), "step size must be positive"),
        (lambda: NUTS(max_depth=0), "doubled 1 to 20 times"),
        (lambda: HMC(leapfrogs=0), "at least one leapfrog"),
        (lambda: HMC(jitter=1.0), "jitter"),
        (lambda: UnderdampedLangevin(friction=0.0), "friction must be positive"),
        (lambda: Gibbs(0), "at least one sweep"),
        (lambda: GibbsWithGradients(flips=0), "at least one flip"),
        (lambda: Cycle(()), "at least one kernel"),
        (lambda: ParallelTempering(NUTS(), (1.0, 1.0)), "fall from 1"),
        (lambda: ParallelTempering(NUTS(), (0.5, 0.1)), "fall from 1"),
    ],
)
def test_impossible_kernels_are_refused(make, message):
    with pytest.raises(SettingsError, match=message):
        make()


def learnt(rows):
    """The metric that a warm-up makes of draws (draws, chains, d)."""
    moments = Moments.none(rows.shape[1], rows.shape[2:], dense=False)
    for row in rows:
        moments = moments.with_rows(jnp.asarray(row, jnp.float32), dense=False)
    return np.asarray(moments.metric(dense=False).scale)


@pytest.mark.parametrize("correlation", [0.0, 0.98])
def test_a_metric_is_learnt_as_far_as_the_draws_tell_scales_apart(correlation):
    rng, draws, chains, d = np.random.default_rng(0), 400, 4, 60
    rows = np.zeros((draws, chains, d))
    for i in range(draws):
        before = rows[i - 1] if i else rng.standard_normal((chains, d))
        rows[i] = correlation * before + np.sqrt(1 - correlation**2) * rng.standard_normal((chains, d))
    alike = np.log(learnt(rows))
    plain = np.log(rows.std(axis=(0, 1)))
    # Of scales that are all 1, most of what differs is error.
    assert np.std(alike) < 0.5 * np.std(plain)
    scales = np.geomspace(0.1, 10, d)
    assert np.corrcoef(np.log(learnt(rows * scales)), np.log(scales))[0, 1] > 0.98
    if not correlation:
        assert np.allclose(learnt(rows * scales), scales, rtol=0.15)


def test_arviz_finds_the_same_diagnostics():
    arviz = pytest.importorskip("arviz")
    row = Record((Column("height", "real"), Column("kind", "categorical", size=3)))
    energy = energy_of(lambda y: y[0] ** 2 / 2 + jnp.where(y[1] == 1, 1.0, 0.0), row)
    chains = sample(energy, key=KEY, steps=500)
    data = chains.to_arviz()
    assert list(data["posterior"]["column"].values) == ["height", "kind"]
    assert np.allclose(chains.bulk_ess, arviz.ess(data, method="bulk")["y"], rtol=1e-4)
    # A quantile that never varies, as of few categories, counts there as all draws, and here not at all.
    assert np.isclose(chains.tail_ess[0], arviz.ess(data, method="tail")["y"][0], rtol=1e-4)
    assert np.allclose(chains.r_hat, arviz.rhat(data)["y"], rtol=1e-4)
    assert np.allclose(data["sample_stats"]["energy"], chains.energies)


def test_arviz_is_asked_for_where_it_is_missing(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "arviz", None)
    with pytest.raises(SettingsError, match="pip install arviz"):
        sample(NORMAL, key=KEY, steps=500, warmup=200).to_arviz()
