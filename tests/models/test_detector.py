"""The detector: one energy in a row and in a picture, a threshold that is learnt, and what it cannot be fitted to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

import thalweg
from thalweg.data.boxes import Boxes
from thalweg.data.crops import windows
from thalweg.errors import DataError, DataWarning, NotAnswered, SettingsError
from thalweg.evaluate.detected import average_precision
from thalweg.models.detector import Settings, build, pane_of
from thalweg.models.inputs import Seen
from thalweg.nn.initial import drawn

SIZE, SIDE = 12, 48
SETTINGS = {"channels": 4, "units": 16, "halvings": 1, "steps": 300, "progress": False}


def shape_of(kind: str, size: int) -> np.ndarray:
    """A ring or a cross that fills a square."""
    at = (np.arange(size) + 0.5) / size * 2 - 1
    across, down = np.meshgrid(at, at)
    radius = np.hypot(across, down)
    ring = (radius < 0.9) & (radius > 0.45)
    cross = (np.minimum(abs(across), abs(down)) < 0.25) & (radius < 0.95)
    return 200.0 * (ring if kind == "ring" else cross)


def scene(rng: np.random.Generator) -> tuple[np.ndarray, list[list[float]], list[str]]:
    """One object of each kind, apart from each other, among bars, in noise."""
    image = rng.uniform(0, 40) + rng.normal(0, 10, (SIDE, SIDE))
    for _ in range(4):
        row, column = rng.integers(0, SIDE - 12, 2)
        bar = image[row : row + 12, column : column + 3]
        bar[:] = np.maximum(bar, 200)
    places = []
    for i, kind in enumerate(("ring", "cross")):
        size = int(rng.integers(SIZE, 2 * SIZE))
        x, y = i * SIDE // 2, rng.integers(0, SIDE - size + 1)
        image[y : y + size, x : x + size] = np.maximum(
            image[y : y + size, x : x + size] / 2, shape_of(kind, size)
        )
        places.append([x, y, size, size])
    return np.clip(image, 0, 255).astype(np.uint8), places, ["ring", "cross"]


def scenes(n: int, seed: int) -> tuple[np.ndarray, Boxes]:
    rng = np.random.default_rng(seed)
    made = [scene(rng) for _ in range(n)]
    labels = np.array([label for _, _, own in made for label in own], object)
    places = np.array([place for _, own, _ in made for place in own], float)
    return np.stack([image for image, _, _ in made]), Boxes(np.repeat(np.arange(n), 2), places, labels)


@pytest.fixture(scope="module")
def fitted(compile_once):
    pictures, boxes = scenes(60, 0)
    learnt = windows(pictures, boxes, (SIZE, SIZE), negatives=15)
    return thalweg.fit(learnt.to_dataset(), "detector", target="label", **SETTINGS)


def test_a_window_has_the_same_energy_in_a_row_and_in_a_picture(fitted):
    """Rows are codes with an origin and a unit of their own in each column; pictures are not."""
    F = fitted.F
    pictures, _ = scenes(2, 1)
    picture = pictures[0][..., None].astype(np.float32)
    slid, threshold, beta = jax.jit(lambda p: F.slide(p))(picture)
    stride, count = F.stride, slid.shape[0]
    assert stride == 2
    assert count == (SIDE - SIZE) // stride + 1
    cut = np.stack(
        [
            pictures[0][2 * i : 2 * i + SIZE, 2 * j : 2 * j + SIZE]
            for i in range(0, count, 3)
            for j in range(0, count, 3)
        ]
    )
    energies = np.asarray(slid)[::3, ::3].reshape(len(cut), 2)
    alone = np.insert(energies, F.nothing, float(threshold), axis=1)
    expected = -float(beta) * alone - logsumexp(-float(beta) * alone, axis=1, keepdims=True)
    found = fitted.predict(cut)
    assert found.levels == ["background", "cross", "ring"]
    np.testing.assert_allclose(np.log(found.probabilities), expected, rtol=1e-3, atol=1e-3)
    assert np.ptp(expected[:, 1:], axis=0).min() > 1


def test_the_threshold_is_learnt_and_presence_is_a_sigmoid(fitted):
    F = fitted.F
    assert abs(float(F.energy.threshold)) > 1e-3
    y = jnp.asarray(fitted.calibration.rows.values[0])
    energies = np.asarray(F.energy.answer_energies(Seen(y, jnp.ones(y.shape, bool))), float)
    beta, threshold = float(F.beta), float(F.energy.threshold)
    assert energies[F.nothing] == pytest.approx(threshold)
    free = -logsumexp(-beta * np.delete(energies, F.nothing)) / beta
    absent = np.exp(-float(F(y.at[F.answers[0]].set(F.nothing))))
    assert 1 - absent == pytest.approx(1 / (1 + np.exp(-beta * (threshold - free))), rel=1e-4, abs=1e-6)


def test_objects_are_found_and_named(fitted):
    pictures, truth = scenes(40, 2)
    found = fitted.detect(pictures, threshold=0.05)
    assert average_precision(found, truth) > 0.8
    assert found.to_table().column_names == [
        "image",
        "x",
        "y",
        "width",
        "height",
        "label",
        "energy",
        "probability",
    ]
    assert set(found.label) == {"ring", "cross"}
    inside = (found.place[:, :2] >= 0).all() and (found.place[:, :2] + found.place[:, 2:] <= SIDE).all()
    assert inside


def test_what_was_saved_detects_the_same(fitted, tmp_path):
    fitted.save(tmp_path / "model")
    again = thalweg.load(tmp_path / "model")
    pictures, _ = scenes(1, 3)
    assert again.detect(pictures).to_table().equals(fitted.detect(pictures).to_table())


def test_false_alarms_become_background(fitted):
    pictures, truth = scenes(10, 4)
    wrong = Boxes(np.array([3, 3]), np.array([[30.0, 30, 12, 12], truth.of(3).place[0]]))
    few = windows(pictures, truth, (SIZE, SIZE), negatives=0)
    assert "background" not in few.labels
    more = windows(pictures, truth, (SIZE, SIZE), negatives=0, hard=wrong)
    assert len(more.labels) - len(few.labels) == (more.labels == "background").sum() <= 1


def test_a_pane_has_one_scale_whatever_the_columns():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 200, (50, 9, 9, 3)) + rng.integers(0, 50, (1, 9, 9, 3))
    dataset = windows_of(pixels.astype(np.uint8), np.where(np.arange(50) % 2, "a", "background"))
    schema = thalweg.data.Schema.infer(dataset, target="label")
    F = build(schema.space, Settings(target="label", nothing=1, halvings=1), drawn(jax.random.key(0)))
    codes = schema.encode(dataset.table).values[:, pane_of(schema.space).pixels]
    shades = np.asarray(jax.vmap(F.energy._shades)(jnp.asarray(codes))).reshape(pixels.shape)
    np.testing.assert_allclose(shades, (pixels - pixels.mean()) / pixels.std(), rtol=1e-4, atol=1e-4)


def windows_of(pixels, labels):
    from thalweg.data.crops import Windows

    return Windows(pixels, labels).to_dataset()


def test_windows_without_background_and_pixels_that_never_vary_are_refused():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 200, (40, 9, 9)).astype(np.uint8)
    labels = np.where(np.arange(40) % 2, "a", "b")
    with pytest.raises(DataError, match=r"no window is labelled 'background'.*'label' has 'a', 'b'"):
        thalweg.fit(windows_of(pixels, labels), "detector", target="label", progress=False)
    with pytest.raises(SettingsError, match=r"too small to be halved 3 times"):
        thalweg.fit(
            windows_of(pixels, labels), "detector", target="label", background="a", halvings=3, progress=False
        )
    pixels[:, 3, 4] = 7
    with pytest.raises(SettingsError, match=r"1 pixels of the windows never vary"):
        thalweg.fit(windows_of(pixels, labels), "detector", target="label", background="a", progress=False)
    with pytest.raises(SettingsError, match="detector is for windows of pictures"):
        thalweg.fit("wine", "detector", target="target", background="class_0", progress=False)


def test_pictures_in_other_units_are_named(fitted):
    pictures, _ = scenes(1, 5)
    with pytest.warns(
        DataWarning, match=r"pixels from 0\.?\d* to .*, and the windows of training had 0 to 2"
    ):
        fitted.detect(pictures / 255)
    with pytest.warns(DataWarning, match="bring them to the same units"):
        fitted.detect(pictures.astype(float) * 100)


def test_pictures_of_other_channels_or_sizes_are_refused(fitted):
    with pytest.raises(DataError, match=r"has 3 channels where the model's windows have 1"):
        fitted.detect(np.zeros((2, 20, 20, 3), np.uint8))
    half = np.tile(np.array([0, 200], np.uint8), 10)
    with pytest.raises(DataError, match=r"picture 0 is 20×11 pixels, smaller than the least window of 12×12"):
        fitted.detect(np.broadcast_to(half, (2, 11, 20)))
    with pytest.raises(NotAnswered, match="does not look for objects in pictures: fit detector, to windows"):
        thalweg.fit("wine", "pca", progress=False).detect(np.zeros((2, 20, 20)))
