"""Suppression against its definition, window by window."""

import numpy as np
import pytest

from thalweg.data.boxes import overlaps
from thalweg.errors import SettingsError
from thalweg.inference.suppression import suppress


def by_definition(places, energies, overlap):
    kept = []
    for i in sorted(range(len(places)), key=lambda i: (energies[i], i)):
        if all(union(places[i], places[j]) <= overlap for j in kept):
            kept.append(i)
    return kept


def union(a, b):
    width = max(0, min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0]))
    height = max(0, min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1]))
    return width * height / (a[2] * a[3] + b[2] * b[3] - width * height)


@pytest.mark.parametrize("n", [0, 1, 40, 200])
@pytest.mark.parametrize("overlap", [0.0, 0.3, 1.0])
def test_the_windows_kept_are_those_of_the_definition(n, overlap):
    rng = np.random.default_rng(n)
    places = np.concatenate([rng.integers(0, 100, (n, 2)), rng.integers(5, 40, (n, 2))], axis=1).astype(float)
    energies = rng.integers(-20, 5, n).astype(float)
    kept = suppress(places, energies, overlap).tolist()
    assert kept == by_definition(places, energies, overlap)
    if n == 200 and overlap < 1:
        assert 5 < len(kept) < 150


def test_overlap_is_intersection_over_union():
    a = np.array([[0.0, 0, 10, 10]])
    b = np.array([[0.0, 0, 10, 10], [5, 0, 10, 10], [10, 0, 5, 5], [2, 2, 2, 4]])
    np.testing.assert_allclose(overlaps(a, b), [1, 1 / 3, 0, 0.08])


def test_an_overlap_that_is_no_share_is_refused():
    with pytest.raises(SettingsError, match=r"a share from 0 to 1, not 1\.5"):
        suppress(np.zeros((1, 4)), np.zeros(1), 1.5)
