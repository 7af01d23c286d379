"""detect: every window of the pyramid, against each of them cut out; and what cannot be searched."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thalweg.data.pictures import open_pictures
from thalweg.data.resample import resized
from thalweg.energy import Real
from thalweg.energy.base import FunctionEnergy
from thalweg.energy.capabilities import AbstractSliding
from thalweg.errors import DataError, NotAnswered, SettingsError
from thalweg.questions.detect import WindowSearch, detect
from thalweg.questions.pyramid import levels, packed, pieces, sheets, side_of

HEIGHT, WIDTH, STRIDE = 6, 8, 2


class Bright(AbstractSliding):
    """Two labels: how far a window's mean is from 1, and from -1."""

    space: Real = Real((HEIGHT * WIDTH,))
    nothing: int = 2
    window: tuple[int, int, int] = (HEIGHT, WIDTH, 1)
    stride: int = STRIDE

    def __call__(self, y, x=None):
        return -jnp.mean(y)

    def slide(self, picture):
        ones = jnp.ones((HEIGHT, WIDTH, 1, 1)) / (HEIGHT * WIDTH)
        mean = jax.lax.conv_general_dilated(
            picture[None], ones, (STRIDE, STRIDE), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )[0]
        return jnp.abs(mean - jnp.array([[[1.0, -1.0]]])), jnp.array(0.3), jnp.array(5.0)


def every_window(picture, search):
    """(x, y, width, height, label, energy, probability) of each window, one by one."""
    found = []
    for h, w in levels(picture.shape[:2], (HEIGHT, WIDTH, 1), search.smallest, search.largest, search.step):
        small = resized(picture, (h, w))
        pad = ((0, -(h - HEIGHT) % STRIDE), (0, -(w - WIDTH) % STRIDE), (0, 0))
        small = np.pad(small, pad, "edge")
        down, across = picture.shape[0] / h, picture.shape[1] / w
        for i in range(0, small.shape[0] - HEIGHT + 1, STRIDE):
            for j in range(0, small.shape[1] - WIDTH + 1, STRIDE):
                mean = small[i : i + HEIGHT, j : j + WIDTH].mean()
                energies = np.abs(mean - np.array([1.0, -1.0]))
                shares = np.exp(-5 * np.append(energies, 0.3))
                best = int(energies.argmin())
                probability = shares[best] / shares.sum()
                if probability >= search.threshold:
                    x, y = j * across, i * down
                    right, lower = (
                        min(x + WIDTH * across, picture.shape[1]),
                        min(y + HEIGHT * down, picture.shape[0]),
                    )
                    found.append([x, y, right - x, lower - y, best, energies[best], probability])
    return np.array(found).reshape(-1, 7)


def test_every_window_of_pictures_of_any_size_is_judged():
    rng = np.random.default_rng(0)
    # The last is larger than a sheet, and cut.
    shown = [rng.normal(0, 5, shape) for shape in [(6, 8), (40, 31), (23, 300)]]
    # Nothing is suppressed by a union that overlaps by no more than all of it.
    search = WindowSearch(threshold=0.55, overlap=1.0, step=1.5)
    found = detect(Bright(), open_pictures(shown), ("one", "two"), search)
    for number, picture in enumerate(shown):
        expected = every_window(picture[..., None], search)
        here = found.of(number)
        labels = np.array([("one", "two").index(label) for label in here.label])
        got = np.column_stack([here.place, labels, here.energy, here.probability])
        assert len(got) == len(expected)
        order, other = (np.lexsort(np.round(rows[:, :4].T, 3)) for rows in (got, expected))
        np.testing.assert_allclose(got[order], expected[other], rtol=1e-4, atol=1e-4)
    assert len(found.of(2)) > 100
    assert (np.diff(found.of(2).probability) <= 0).all()


def test_of_what_overlaps_the_most_probable_stays():
    picture = np.zeros((60, 60))
    picture[20:26, 30:38] = 1.0
    picture[44:50, 6:14] = -1.0
    found = detect(Bright(), open_pictures(picture), ("one", "two"), WindowSearch(largest=1.0))
    assert found.label[found.probability > 0.75].tolist() == ["one", "two"]
    np.testing.assert_allclose(found.place[:2], [[30, 20, 8, 6], [6, 44, 8, 6]])
    assert found.energy[:2] == pytest.approx(0, abs=1e-6)
    assert found.probability[:2] == pytest.approx(1 / (1 + np.exp(-1.5) + np.exp(-10)), rel=1e-5)


def test_pieces_are_packed_apart_and_at_windows():
    rng = np.random.default_rng(1)
    sizes = [tuple(rng.integers(6, 33, 2).tolist()) for _ in range(60)]
    taken = {}
    for (height, width), place in zip(sizes, packed(sizes, 64, STRIDE), strict=True):
        assert place.row % STRIDE == place.column % STRIDE == 0
        assert place.row + height <= 64
        assert place.column + width <= 64
        sheet = taken.setdefault(place.sheet, np.zeros((64, 64), int))
        sheet[place.row : place.row + height, place.column : place.column + width] += 1
    assert max(sheet.max() for sheet in taken.values()) == 1
    assert sum(sheet.sum() for sheet in taken.values()) > 0.6 * 64**2 * len(taken)


def test_a_large_picture_is_cut_so_that_each_window_lies_in_one_piece():
    window, size = (HEIGHT, WIDTH, 1), (600, 301)
    picture = np.arange(600 * 301, dtype=np.float32).reshape(*size, 1)
    parts = list(pieces(picture, 0, [size], window, STRIDE))
    side = side_of(window, STRIDE)
    seen = np.zeros((600, 301), int)
    for part in parts:
        assert max(part.pixels.shape) <= side
        for i in range(0, part.pixels.shape[0] - HEIGHT + 1, STRIDE):
            for j in range(0, part.pixels.shape[1] - WIDTH + 1, STRIDE):
                seen[part.corner[0] + i, part.corner[1] + j] += 1
    expected = np.zeros((600, 301), int)
    expected[0 : 600 - HEIGHT + 1 : STRIDE, 0 : 301 - WIDTH + 1 + STRIDE - 1 : STRIDE] = 1
    np.testing.assert_array_equal(seen, expected)
    paper = sheets(parts, packed([part.pixels.shape[:2] for part in parts], side, STRIDE), side, 4)
    assert len(paper) % 4 == 0
    assert set(np.unique(picture)) <= set(np.unique(paper))


def test_scales_go_from_the_smallest_to_what_fills_the_picture():
    window = (10, 10, 1)
    assert levels((20, 40), window, 1.0, np.inf, 2.0) == [(20, 40), (10, 20)]
    assert levels((20, 40), window, 0.5, 0.5, 2.0) == [(40, 80)]
    assert levels((30, 30), window, 1.0, np.inf, 2.0) == [(30, 30), (15, 15), (10, 10)]
    assert levels((9, 40), window, 1.0, np.inf, 2.0) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": 0.0}, "threshold is a probability above 0"),
        ({"overlap": 2.0}, "overlap of two boxes is a share from 0 to 1, not 2"),
        ({"smallest": 2.0, "largest": 1.0}, "not 2 to 1"),
        ({"step": 1.0}, "a factor above 1.01, not 1"),
    ],
)
def test_a_search_that_cannot_be_is_refused(settings, message):
    with pytest.raises(SettingsError, match=message):
        WindowSearch(**settings)


def test_a_picture_smaller_than_the_window_and_an_energy_that_does_not_slide_are_refused():
    small = open_pictures([np.zeros((60, 60)), np.zeros((5, 60))])
    with pytest.raises(
        DataError, match=r"the list, picture 1 is 60×5 pixels, smaller than the least window of 8×6"
    ):
        detect(Bright(), small, ("one", "two"), WindowSearch())
    assert len(detect(Bright(), small, ("one", "two"), WindowSearch(smallest=0.5, threshold=1.0))) == 0
    flat = FunctionEnergy(lambda y: jnp.sum(y), Real((2,)))
    with pytest.raises(
        NotAnswered,
        match="FunctionEnergy judges whole rows and does not look for objects in pictures: fit detector",
    ):
        detect(flat, small, (), WindowSearch())
