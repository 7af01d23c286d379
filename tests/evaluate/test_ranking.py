"""NDCG and average precision against scikit-learn and by hand."""

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, ndcg_score

from thalweg.errors import SettingsError
from thalweg.evaluate.ranking import average_precision, mean_over_lists, ndcg


def lists(ties: bool):
    rng = np.random.default_rng(3)
    for m in (2, 3, 10, 40):
        for _ in range(10):
            scores = rng.integers(0, 4, m).astype(float) if ties else rng.normal(size=m)
            yield scores, rng.integers(0, 5, m)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("k", [1, 3, 10, None])
def test_ndcg_is_scikit_learns(ties, k):
    for scores, relevance in lists(ties):
        if relevance.any():
            linear = ndcg(scores, relevance, k, gain="linear")
            assert linear == pytest.approx(ndcg_score([relevance], [scores], k=k))
            assert ndcg(scores, relevance, k) == pytest.approx(
                ndcg_score([2.0**relevance - 1], [scores], k=k)
            )


@pytest.mark.parametrize("ties", [False, True])
def test_average_precision_is_scikit_learns(ties):
    for scores, relevance in lists(ties):
        if (relevance > 2).any():
            expected = average_precision_score(relevance > 2, scores)
            assert average_precision(scores, relevance > 2) == pytest.approx(expected)


def test_ndcg_by_hand():
    # In the order of scores the gains are 3, 0, 1; the best order has 3, 1, 0.
    found = ndcg(np.array([0.1, 0.9, 0.5]), np.array([1, 2, 0]))
    assert found == pytest.approx((3 + 1 / math.log2(4)) / (3 + 1 / math.log2(3)))


def test_scores_that_are_all_equal_give_the_mean_over_all_orders():
    relevance = np.array([2, 0, 1])
    orders = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    mean = np.mean([ndcg(-np.argsort(order).astype(float), relevance, 2) for order in orders])
    assert ndcg(np.zeros(3), relevance, 2) == pytest.approx(mean)


def test_a_list_without_anything_relevant_says_nothing():
    nothing = ndcg(np.arange(3.0), np.zeros(3))
    assert math.isnan(nothing)
    assert math.isnan(average_precision(np.arange(3.0), np.zeros(3, bool)))
    assert mean_over_lists(np.array([nothing, 0.5])) == 0.5
    assert mean_over_lists(np.array([nothing, 0.5]), empty=1.0) == 0.75
    assert math.isnan(mean_over_lists(np.array([nothing])))


def test_a_list_of_one_row_is_in_order():
    assert ndcg(np.array([0.3]), np.array([2])) == 1.0
    assert average_precision(np.array([0.3]), np.array([True])) == 1.0


def test_bad_input_is_named():
    with pytest.raises(SettingsError, match="relevance counts from 0, and the least here is -1"):
        ndcg(np.arange(2.0), np.array([-1, 2]))
    with pytest.raises(SettingsError, match="exponential or linear, not 'cubic'"):
        ndcg(np.arange(2.0), np.array([1, 2]), gain="cubic")
    with pytest.raises(SettingsError, match="at least one place, not 0"):
        ndcg(np.arange(2.0), np.array([1, 2]), k=0)
