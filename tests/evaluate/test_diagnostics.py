"""R-hat and effective sample sizes, against autoregressive chains of which they are known."""

import numpy as np
import pytest

from thalweg.evaluate import diagnostics


def autoregressive(rho, chains=8, draws=20_000, seed=0):
    """Chains of variance 1 and autocorrelation rho^t, started in their own distribution."""
    rng = np.random.default_rng(seed)
    y = np.empty((chains, draws, 1))
    y[:, 0] = rng.standard_normal((chains, 1))
    for t in range(1, draws):
        y[:, t] = rho * y[:, t - 1] + np.sqrt(1 - rho**2) * rng.standard_normal((chains, 1))
    return y


@pytest.mark.parametrize("rho", [0.9, 0.5, 0.0, -0.5])
def test_effective_sample_size_of_an_autoregressive_chain(rho):
    y = autoregressive(rho)
    expected = y.size * (1 - rho) / (1 + rho)
    assert np.allclose(diagnostics.ess(y), expected, rtol=0.1)
    assert np.allclose(diagnostics.mean_ess(y), expected, rtol=0.1)
    # Ranks are a monotone map of a normal chain: nearly as correlated.
    assert np.allclose(diagnostics.bulk_ess(y), expected, rtol=0.12)


def test_the_error_of_a_mean_is_what_the_effective_sample_size_says():
    """Over 200 repetitions, the variance of the mean times the effective sample size is the variance."""
    means, sizes = [], []
    for seed in range(200):
        y = autoregressive(0.7, chains=4, draws=400, seed=seed)
        means.append(y.mean())
        sizes.append(diagnostics.mean_ess(y)[0])
    ratio = np.var(means) * np.mean(sizes)
    assert abs(ratio - 1) < 4 * np.sqrt(2 / 200)


def test_tails_are_worth_what_their_indicators_are():
    y = autoregressive(0.9)
    inside = (y <= np.quantile(y, 0.05)).astype(float)
    assert diagnostics.tail_ess(y)[0] <= diagnostics.ess(diagnostics._split(inside))[0] * 1.0001


def test_chains_that_agree_and_chains_that_do_not():
    rng = np.random.default_rng(0)
    y = rng.standard_normal((4, 1000, 1))
    assert diagnostics.split_r_hat(y)[0] < 1.005
    moved = y + np.arange(4)[:, None, None]
    between = np.var(np.arange(4), ddof=1)
    # Without ranks it is sqrt(1 + B/W); ranks draw shifted tails in a little.
    assert np.isclose(diagnostics._r_hat(moved)[0], np.sqrt(1 + between), rtol=0.05)
    assert diagnostics.split_r_hat(moved)[0] > 1.2
    drifting = y + np.linspace(0, 3, 1000)[None, :, None]
    assert diagnostics.split_r_hat(drifting)[0] > 1.2
    wider = y * np.array([1, 1, 1, 5])[:, None, None]
    assert diagnostics._r_hat(diagnostics._normal_scores(wider))[0] < 1.01
    assert diagnostics.split_r_hat(wider)[0] > 1.1


def test_one_chain_that_drifts_is_seen():
    y = np.cumsum(np.random.default_rng(0).standard_normal((1, 1000, 1)), axis=1)
    assert diagnostics.split_r_hat(y)[0] > 1.1


def test_what_never_changes_has_no_diagnosis():
    y = np.ones((4, 100, 2))
    y[..., 1] = np.random.default_rng(0).standard_normal((4, 100))
    for measure in (
        diagnostics.split_r_hat,
        diagnostics.bulk_ess,
        diagnostics.tail_ess,
        diagnostics.mean_ess,
    ):
        found = measure(y)
        assert np.isnan(found[0]) or measure is diagnostics.split_r_hat
        assert np.isfinite(found[1])
    assert np.isnan(diagnostics.split_r_hat(y[:, :3])).all()
