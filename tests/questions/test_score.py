"""score: what is odd, and how often it is said of rows that are not."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from scipy import stats

import thalweg
from thalweg.data.rows import Rows
from thalweg.energy import Column, Real, Record
from thalweg.energy.capabilities import AbstractSmoothed
from thalweg.questions.score import judge, surprises, threshold, usual_energies

SPACE = Record((Column("a", "real"), Column("b", "real")))


class TwoViews(AbstractSmoothed):
    """F sees the first column, the smoother energy the second."""

    space: Record = SPACE

    def __call__(self, y, x=None):
        return y[0] ** 2

    def smooth(self, y, observed, x=None):
        return 100 * y[1] ** 2 + 7


def rows_of(values):
    values = np.asarray(values, np.float32)
    return Rows(values, np.ones(values.shape, bool), np.zeros(len(values), int))


def view(rows):
    return rows.values[:, 0].astype(float) ** 2


@pytest.fixture(scope="module")
def usual():
    rows = rows_of(np.random.default_rng(0).normal(size=(500, 2)))
    return usual_energies(TwoViews(), view(rows), rows)


def test_a_row_is_odd_if_either_energy_says_so(usual):
    rows = rows_of([[0.1, 0.1], [4, 0.1], [0.1, 4], [4, 4]])
    plain, first, second, both = surprises(TwoViews(), view(rows), rows, usual)
    assert plain < 0.2
    # Neither energy counts for more because its numbers are larger.
    assert first == pytest.approx(second, rel=0.3)
    assert both == pytest.approx(max(first, second))
    assert first > 5


def test_of_an_image_the_smoother_energy_decides(usual):
    image = TwoViews(Record(tuple(Column(name, "real", pixel=True) for name in "ab")))
    rows = rows_of([[9, 0.1], [0.1, 0.1], [0.1, 4]])
    first, plain, second = surprises(image, view(rows), rows, usual)
    assert first == pytest.approx(plain)
    assert second > plain + 5


def test_an_energy_without_a_second_view_is_its_own_surprise():
    F = thalweg.energy_of(lambda y: y[0] ** 2, Real((2,)))
    rows = rows_of([[1, 0], [3, 0]])
    energies = view(rows)
    unchanged = usual_energies(F, energies, rows)
    np.testing.assert_array_equal(unchanged, [[0, 1], [0, 1]])
    np.testing.assert_array_equal(surprises(F, energies, rows, unchanged), energies)


def test_p_values_of_two_views_keep_their_promise(usual):
    """Over many sets of 39 calibration rows and one fresh row, p is uniform on 1/40, 2/40, …, 1."""

    def surprise(rows):
        return surprises(TwoViews(), view(rows), rows, usual)

    generator = np.random.default_rng(1)
    found = []
    for _ in range(400):
        known, fresh = rows_of(generator.normal(size=(39, 2))), rows_of(generator.normal(size=(1, 2)))
        calibration = SimpleNamespace(rows=known, surprises=surprise(known))
        own = surprise(fresh)
        p_value, limit = judge(own, fresh, surprise, calibration, 0.1)
        assert (p_value[0] <= 0.1) == (own[0] > limit[0])
        found.append(float(p_value[0]))
    counts = (
        np.bincount(np.rint(np.array(found) * 40).astype(int), minlength=41)[1:].reshape(8, 5).sum(axis=1)
    )
    assert np.sum((counts - 50) ** 2 / 50) < stats.chi2.ppf(0.9999, 7)


@pytest.mark.parametrize(
    ("rows", "alpha", "rank"),
    [(99, 0.01, 1), (39, 0.1, 4), (13, 1 / 14, 1), (48, 1 / 49, 1), (13, 0.07, None)],
)
def test_the_threshold_is_an_order_statistic(rows, alpha, rank):
    usual = np.random.default_rng(0).permutation(rows).astype(float)
    assert threshold(usual, alpha) == (np.inf if rank is None else rows - rank)


def test_orderless_scores_by_both_energies_and_answers_alike_once_loaded(tmp_path):
    table = thalweg.data.load("wine").table
    model = thalweg.fit(
        table, steps=60, width=32, context=8, factors=2, progress=False, log=lambda line: None
    )
    scores = model.score(table, alpha=0.05)
    assert scores.to_table().column_names == ["energy", "surprise", "p_value", "flag"]
    encoded = model.schema.encode(table)
    smooth = jax.vmap(model.F.smooth)(encoded.values, encoded.observed)
    middle, reach = model.calibration.usual.T
    energies = scores.energy - model.schema.log_units(encoded.observed)
    expected = np.max((np.stack([energies, smooth]) - middle[:, None]) / reach[:, None], axis=0)
    np.testing.assert_allclose(scores.surprise, expected, rtol=1e-3, atol=1e-3)
    order = np.argsort(scores.surprise)
    assert np.all(np.diff(scores.p_value[order]) <= 0)
    back = thalweg.load(model.save(tmp_path / "wine"))
    np.testing.assert_array_equal(back.score(table, alpha=0.05).p_value, scores.p_value)
