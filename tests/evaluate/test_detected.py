"""Matching, average precision and FROC on cases that were worked out by hand, and against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from thalweg.data.boxes import Boxes
from thalweg.errors import DataError
from thalweg.evaluate.detected import LEFT_OUT, NOTHING, average_precision, curve, match


def boxes(*rows, labels=None, probabilities=None):
    """Boxes from (picture, x, y, width, height)."""
    rows = np.array(rows, float).reshape(-1, 5)
    label = None if labels is None else np.array(labels, object)
    probability = None if probabilities is None else np.array(probabilities, float)
    return Boxes(rows[:, 0].astype(int), rows[:, 1:], label, probability=probability)


TRUTH = boxes((0, 0, 0, 10, 10), (0, 50, 50, 20, 20), (1, 0, 0, 10, 10), labels=["a", "b", "a"])
FOUND = boxes(
    (0, 1, 0, 10, 10),  # the first
    (0, 0, 0, 10, 10),  # the first again, and better, but less probable
    (0, 50, 60, 20, 20),  # half of the second: 1/3 of the union
    (1, 0, 0, 10, 9),  # the third
    (1, 50, 50, 20, 20),  # the second, in another picture
    labels=["a", "a", "b", "a", "b"],
    probabilities=[0.9, 0.8, 0.7, 0.6, 0.5],
)


def test_each_true_box_is_taken_once_by_the_most_probable():
    assert match(FOUND, TRUTH).tolist() == [0, NOTHING, NOTHING, 2, NOTHING]
    assert match(FOUND, TRUTH, 0.3).tolist() == [0, NOTHING, 1, 2, NOTHING]
    # In the opposite order the second takes the first true box, and the first has nothing left.
    other = boxes(
        *np.column_stack([FOUND.picture, FOUND.place]), labels=FOUND.label, probabilities=[1, 2, 3, 4, 5]
    )
    assert match(other, TRUTH).tolist() == [NOTHING, 0, NOTHING, 2, NOTHING]


def test_labels_have_to_agree_unless_they_are_not_asked_for():
    wrong = boxes((0, 0, 0, 10, 10), labels=["b"], probabilities=[1])
    assert match(wrong, TRUTH).tolist() == [NOTHING]
    assert match(wrong, TRUTH, labelled=False).tolist() == [0]


def test_average_precision_by_hand():
    # All together: hits at ranks 1 and 4 of 3 true boxes: recall 1/3 at precision 1, 2/3 at 2/4.
    assert average_precision(FOUND, TRUTH, labelled=False) == pytest.approx(1 / 3 * 1 + 1 / 3 * 0.5)
    # Label a: hits at ranks 1 and 3 of 2: (1 + 2/3) / 2; label b: nothing.
    assert average_precision(FOUND, TRUTH) == pytest.approx((1 + 2 / 3) / 2 / 2)
    assert average_precision(TRUTH_FOUND, TRUTH) == 1
    assert average_precision(FOUND[:0], TRUTH) == 0
    assert np.isnan(average_precision(FOUND, TRUTH[:0]))


TRUTH_FOUND = Boxes(TRUTH.picture, TRUTH.place, TRUTH.label, probability=np.array([0.1, 0.2, 0.3]))


def test_precision_is_the_best_at_any_higher_recall():
    # Two misses, then three hits: precision 1/3, 2/4, 3/5 at recalls 1/3, 2/3, 1; the envelope is 3/5.
    found = boxes(
        (0, 80, 0, 5, 5),
        (1, 80, 0, 5, 5),
        *np.column_stack([TRUTH.picture, TRUTH.place]),
        probabilities=[5, 4, 3, 2, 1],
    )
    assert average_precision(found, TRUTH) == pytest.approx(0.6)


def test_areas_leave_out_what_is_of_another_size():
    small, large = (0, 200), (200, np.inf)
    assert match(FOUND, TRUTH, 0.3, areas=small).tolist() == [0, NOTHING, LEFT_OUT, 2, LEFT_OUT]
    assert match(FOUND, TRUTH, 0.3, areas=large).tolist() == [LEFT_OUT, LEFT_OUT, 1, LEFT_OUT, NOTHING]
    # Of label b in large areas: a hit and then a miss; of label a nothing counts.
    assert average_precision(FOUND, TRUTH, 0.3, areas=large) == 1
    assert average_precision(FOUND, TRUTH, 0.3, areas=small) == pytest.approx((1 + 2 / 3) / 2)


def test_froc_by_hand():
    found = curve(FOUND, TRUTH, pictures=2, labelled=False)
    np.testing.assert_allclose(found.recall, np.array([1, 1, 1, 2, 2]) / 3)
    np.testing.assert_allclose(found.false_rate, [0, 0.5, 1, 1, 1.5])
    np.testing.assert_allclose(found.sensitivity((0, 0.4, 0.99, 1, 8)), [1 / 3, 1 / 3, 1 / 3, 2 / 3, 2 / 3])
    assert curve(FOUND[:0], TRUTH, 2).sensitivity().tolist() == [0] * 7


def test_average_precision_without_the_envelope_is_scikit_learns():
    rng = np.random.default_rng(0)
    hits = rng.random(300) < 0.4
    truth = boxes(*((i, 0, 0, 10, 10) for i in np.flatnonzero(hits)))
    found = boxes(*((i, 0, 0, 10, 10) for i in range(300)), probabilities=rng.random(300) + 0.5 * hits)
    line = curve(found, truth, 300)
    by_steps = np.sum(np.diff(line.recall, prepend=0) * line.precision)
    expected = average_precision_score(hits, found.probability)
    assert by_steps == pytest.approx(expected, rel=1e-12)
    assert expected < line.area < expected + 0.02


def test_found_boxes_need_probabilities():
    with pytest.raises(DataError, match="need probabilities, by which they are ordered"):
        match(TRUTH, TRUTH)
