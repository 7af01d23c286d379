"""Losses of lists against values by hand, sums in plain loops and the metric itself."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thalweg.energy import Real
from thalweg.energy.capabilities import AbstractScored
from thalweg.errors import SettingsError
from thalweg.evaluate.ranking import ndcg
from thalweg.learning import ranking
from thalweg.learning.groups import groups

M = 7
ALL = jnp.ones(M, bool)


@pytest.fixture(scope="module")
def one_list():
    rng = np.random.default_rng(5)
    return rng.normal(size=M).astype(np.float32), np.array([2, 0, 1, 1, 4, 0, 2], np.float32)


def above(relevance):
    return [
        (i, j) for i, j in itertools.permutations(range(len(relevance)), 2) if relevance[i] > relevance[j]
    ]


def test_rank_net_is_the_mean_log_loss_of_pairs(one_list):
    scores, relevance = one_list
    losses = [np.log1p(np.exp(-(scores[i] - scores[j]))) for i, j in above(relevance)]
    found = ranking.rank_net(jnp.asarray(scores), jnp.asarray(relevance), ALL)
    assert float(found) == pytest.approx(np.mean(losses), rel=1e-5)


def test_list_net_is_the_divergence_of_who_comes_first(one_list):
    scores, relevance = one_list
    p = np.exp(relevance) / np.exp(relevance).sum()
    q = np.exp(scores) / np.exp(scores).sum()
    found = ranking.list_net(jnp.asarray(scores), jnp.asarray(relevance), ALL)
    assert float(found) == pytest.approx(np.sum(p * np.log(p / q)), rel=1e-5)
    assert float(ranking.list_net(jnp.asarray(relevance), jnp.asarray(relevance), ALL)) == pytest.approx(
        0, abs=1e-6
    )


@pytest.mark.parametrize("gain", ["exponential", "linear"])
@pytest.mark.parametrize("k", [3, 10])
def test_weights_of_lambda_rank_are_what_an_exchange_changes_of_ndcg(one_list, gain, k):
    scores, relevance = one_list
    found = np.asarray(
        ranking.ndcg_changes(jnp.asarray(scores), jnp.asarray(relevance), ALL, k, gain == "exponential")
    )
    before = ndcg(scores, relevance, k, gain=gain)
    for i, j in itertools.combinations(range(M), 2):
        exchanged = scores.copy()
        exchanged[[i, j]] = scores[[j, i]]
        assert found[i, j] == pytest.approx(abs(ndcg(exchanged, relevance, k, gain=gain) - before), abs=1e-5)


def test_lambda_rank_weighs_the_pairs_of_rank_net(one_list):
    scores, relevance = jnp.asarray(one_list[0]), jnp.asarray(one_list[1])
    weights = np.asarray(ranking.ndcg_changes(scores, relevance, ALL, 5, True))
    losses = [weights[i, j] * np.log1p(np.exp(scores[j] - scores[i])) for i, j in above(relevance)]
    assert float(ranking.lambda_rank(scores, relevance, ALL, 5)) == pytest.approx(np.sum(losses), rel=1e-5)
    # The weight has no gradient: the slope is that of the log losses alone.
    slope = jax.grad(ranking.lambda_rank)(scores, relevance, ALL, 5)
    expected = np.zeros(M)
    for i, j in above(relevance):
        push = weights[i, j] / (1 + np.exp(scores[i] - scores[j]))
        expected[i] -= push
        expected[j] += push
    np.testing.assert_allclose(slope, expected, atol=1e-5)


def test_the_objective_has_the_slope_of_lambda_rank_at_one_less_ndcg_and_what_parts_ties(one_list):
    scores, relevance = jnp.asarray(one_list[0]), jnp.asarray(one_list[1])
    value, slope = jax.value_and_grad(ranking.LambdaRank(3).of_list)(scores, relevance, ALL)
    ties = 0.01 * float(ranking.rank_net(scores, relevance, ALL))
    assert float(value) == pytest.approx(1 - ndcg(*one_list, 3) + ties, abs=1e-5)
    np.testing.assert_allclose(slope, jax.grad(ranking.lambda_rank)(scores, relevance, ALL, 3), atol=1e-6)


LOSSES = {
    "rank-net": ranking.rank_net,
    "list-net": ranking.list_net,
    "lambda-rank": lambda s, r, p: ranking.lambda_rank(s, r, p, 5),
}


@pytest.mark.parametrize("name", LOSSES)
def test_rows_that_are_absent_change_nothing(one_list, name):
    scores, relevance = map(jnp.asarray, one_list)
    padded = jnp.append(scores, jnp.array([9.0, -9.0])), jnp.append(relevance, jnp.array([4.0, 0.0]))
    present = jnp.arange(M + 2) < M
    value, slope = jax.value_and_grad(LOSSES[name])(*padded, present)
    expected, expected_slope = jax.value_and_grad(LOSSES[name])(scores, relevance, ALL)
    assert float(value) == pytest.approx(float(expected), rel=1e-6)
    np.testing.assert_allclose(slope[:M], expected_slope, atol=1e-6)
    assert not np.any(slope[M:])


@pytest.mark.parametrize("name", ["rank-net", "lambda-rank"])
def test_rows_of_equal_relevance_are_no_pair(name):
    scores = jnp.array([0.4, -1.0, 2.0])
    value, slope = jax.value_and_grad(LOSSES[name])(scores, jnp.full(3, 2.0), jnp.ones(3, bool))
    assert float(value) == 0.0
    assert not np.any(slope)


@pytest.mark.parametrize("name", LOSSES)
def test_a_list_of_one_row_and_one_without_anything_relevant_teach_nothing(name):
    for relevance in ([2.0], [0.0, 0.0]):
        scores = jnp.arange(float(len(relevance))) * (0.0 if name == "list-net" else 1.0)
        value, slope = jax.value_and_grad(LOSSES[name])(
            scores, jnp.asarray(relevance), jnp.ones(len(relevance), bool)
        )
        assert float(value) == pytest.approx(0.0, abs=1e-6)
        np.testing.assert_allclose(slope, 0.0, atol=1e-6)


class Sum(AbstractScored):
    """s is a weighted sum of the row."""

    space: Real
    weights: jax.Array

    def score(self, y, observed, *, key=None):
        return y @ self.weights

    def __call__(self, y, x=None):
        return -self.score(y, jnp.ones(y.shape, bool))


@pytest.mark.parametrize("objective", [ranking.RankNet(), ranking.ListNet(), ranking.LambdaRank(3)])
def test_an_objective_is_the_mean_over_lists_with_a_pair(objective):
    rng = np.random.default_rng(6)
    y, of = rng.normal(size=(9, 2)).astype(np.float32), np.array([0, 0, 0, 0, 1, 1, 1, 2, 3])
    relevance = np.array([2, 0, 1, 1, 3, 0, 0, 1, 0], np.float32)
    energy = Sum(Real((2,)), jnp.array([1.0, -0.5]))
    laid = groups((y, np.ones_like(y, bool), relevance), of, 10, seed=0)
    found, (_, metrics) = objective(energy, laid, None, key=jax.random.key(0))
    scores = y @ np.array([1.0, -0.5], np.float32)
    parts = [
        objective.of_list(
            jnp.asarray(scores[of == q]), jnp.asarray(relevance[of == q]), jnp.ones((of == q).sum(), bool)
        )
        for q in (0, 1)
    ]
    assert float(found) == pytest.approx(np.sum([float(p) for p in parts]) / 2, rel=1e-5)
    told = [scores[i] > scores[j] for i, j in above(relevance) if of[i] == of[j]]
    assert float(metrics["in_order"]) == pytest.approx(np.mean(told))


def test_energies_without_scores_are_refused():
    from thalweg import energy_of

    with pytest.raises(SettingsError, match="FunctionEnergy has no scores"):
        ranking.RankNet()(energy_of(lambda y: y[0], Real((2,))), None, None, key=jax.random.key(0))
    with pytest.raises(SettingsError, match="at least one place, not 0"):
        ranking.LambdaRank(0)
