"""The statistics of the report, against scipy and against simulation."""

import numpy as np
import pytest
from scipy.stats import betabinom

from thalweg.report.judge import flag_band, most_related, p_values


def test_p_values_count_the_held_out_energies_that_are_at_least_as_high():
    assert p_values([0.0, 2.0, 9.0], [1.0, 2.0, 3.0]).tolist() == [1.0, 0.75, 0.25]


def test_the_band_is_the_beta_binomial_interval():
    calibrated, tested = 99, 150
    rates = np.array([0.01, 0.05, 0.2, 0.5, 0.9])
    low, high = flag_band(rates, calibrated, tested)
    ranks = np.round(rates * (calibrated + 1)).astype(int)
    for i, rank in enumerate(ranks):
        exact = betabinom(tested, rank, calibrated + 1 - rank)
        assert low[i] * tested == exact.ppf(0.025)
        assert high[i] * tested == exact.ppf(0.975)


def test_the_band_holds_fair_curves():
    """Split conformal p-values of fresh rows from one distribution, 4,000 times over."""
    rng = np.random.default_rng(0)
    energies = rng.normal(size=(4000, 40 + 60))
    shares = np.array([np.mean(p_values(e[40:], np.sort(e[:40])) <= 0.2) for e in energies])
    [low], [high] = flag_band([0.2], 40, 60)
    inside = np.mean((shares >= low) & (shares <= high))
    assert 0.94 < inside < 0.985


@pytest.mark.parametrize("rate", [0.001, 1.0])
def test_the_band_closes_where_nothing_or_everything_is_flagged(rate):
    assert np.ravel(flag_band([rate], 99, 10)).tolist() == [round(rate)] * 2


def test_the_most_related_columns_are_those_with_a_partner():
    rng = np.random.default_rng(1)
    base, constant = rng.normal(size=200), np.ones(200)
    codes = np.stack([rng.normal(size=200), base, constant, base + 0.1 * rng.normal(size=200)], axis=1)
    assert set(most_related(codes, 2)) == {1, 3}
    assert most_related(codes[:1], 2) == [0, 1]
