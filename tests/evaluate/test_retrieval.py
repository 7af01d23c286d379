"""Recall and the equal error rate, by hand and against scikit-learn's curve."""

import math

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from thalweg.evaluate.retrieval import equal_error_rate, recall_at


def test_recall_counts_the_rows_whose_answer_is_among_the_first():
    found = np.array([[3, 1], [2, 0], [5, 4]])
    assert recall_at(found, np.array([3, 0, 0]), 1) == pytest.approx(1 / 3)
    assert recall_at(found, np.array([3, 0, 0]), 2) == pytest.approx(2 / 3)


def test_equal_errors_by_hand():
    # At 0.35 one of four of one kind is refused, and one of four of two kinds accepted.
    same = np.array([0.1, 0.2, 0.3, 0.6])
    other = np.array([0.34, 0.5, 0.7, 0.8])
    distances = np.concatenate([same, other])
    assert equal_error_rate(distances, np.arange(8) < 4) == pytest.approx(0.25)


def test_equal_errors_between_two_thresholds_lie_on_a_line():
    # From (refused 1/2, accepted 0) to (refused 1/2, accepted 1): they meet at one half.
    assert equal_error_rate(np.array([0.1, 0.5, 0.3]), np.array([True, True, False])) == pytest.approx(0.5)
    assert equal_error_rate(np.array([0.1, 0.2, 0.3]), np.array([True, True, False])) == 0.0
    assert equal_error_rate(np.array([0.3, 0.1]), np.array([True, False])) == 1.0
    assert equal_error_rate(np.zeros(4), np.array([True, False, True, False])) == 0.5
    assert math.isnan(equal_error_rate(np.ones(3), np.ones(3, bool)))


def test_equal_errors_are_where_the_curve_crosses_the_diagonal():
    rng = np.random.default_rng(0)
    same = rng.random(400) < 0.3
    distances = rng.normal(np.where(same, 0.0, 1.5))
    accepted, right, _ = roc_curve(same, -distances, drop_intermediate=False)
    grid = np.linspace(0, 1, 200_001)
    crossing = grid[np.argmin(np.abs(1 - np.interp(grid, accepted, right) - grid))]
    assert equal_error_rate(distances, same) == pytest.approx(crossing, abs=1e-4)
