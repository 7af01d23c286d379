"""The Siamese energy against its formula; what it learns of classes; pictures that are varied; bad input."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pytest

import thalweg
import thalweg.learning.pairs
from thalweg.data.load import load
from thalweg.data.schema import Schema
from thalweg.errors import DataError, NotAnswered, SettingsError
from thalweg.evaluate.retrieval import recall_at
from thalweg.models.inputs import Inputs
from thalweg.models.siamese import Settings, build
from thalweg.models.variations import Varied
from thalweg.nn.initial import drawn

pytestmark = pytest.mark.filterwarnings("ignore:.*outside the range of training")

HIDDEN, LOUD = 3, 5


def people(classes: range, each: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose class lies in three columns, beside five that say nothing."""
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(1).normal(size=(100, HIDDEN))[classes.start : classes.stop]
    of = np.repeat(np.arange(len(centers)), each)
    quiet = centers[of] + 0.05 * rng.normal(size=(len(of), HIDDEN))
    return np.hstack([quiet, rng.normal(size=(len(of), LOUD))]), of + classes.start


def table(x: np.ndarray, of: np.ndarray | None = None) -> pa.Table:
    columns = {f"x{i}": column for i, column in enumerate(x.T)}
    return pa.table(columns if of is None else columns | {"who": pa.array([f"p{i}" for i in of])})


FAST = {"target": "who", "width": 64, "steps": 500, "learning_rate": 3e-3, "progress": False}


@pytest.fixture(scope="module")
def fitted():
    return thalweg.fit(table(*people(range(60), 6, 2)), "siamese", **FAST)


@pytest.fixture(scope="module")
def by_hand():
    """An energy with drawn prototypes, a row, and what its network says of it."""
    space = Schema.infer(load(table(*people(range(4), 6, 2))), target="who").space
    energy = build(space, Settings(target="who", size=5, temperature=0.25), drawn(jax.random.key(3)))
    prototypes = np.random.default_rng(0).normal(size=(4, 5))
    prototypes /= np.linalg.norm(prototypes, axis=1, keepdims=True)
    energy = replace(energy, prototypes=jnp.asarray(prototypes, jnp.float32))
    y = jnp.asarray(np.append(np.random.default_rng(1).normal(size=8), 2.0), jnp.float32)
    u = np.asarray(energy.network(y), np.float64)
    return energy, y, u / np.linalg.norm(u), prototypes


def test_the_energy_is_the_squared_distance_to_the_prototype_over_twice_the_temperature(by_hand):
    energy, y, u, prototypes = by_hand
    expected = np.sum((prototypes - u) ** 2, axis=1) / (2 * 0.25)
    known = jnp.ones(9, bool)
    assert float(energy(y)) == pytest.approx(expected[2], rel=1e-4)
    without = energy.marginal(y.at[8].set(jnp.nan), known.at[8].set(False))
    assert float(without) == pytest.approx(-np.log(np.exp(-expected).sum()), rel=1e-4)
    along = energy.column_energies(y, jnp.int32(8), jnp.arange(4.0), known.at[8].set(False))
    np.testing.assert_allclose(along, expected, rtol=1e-4)
    assert float(energy.complete(y, known.at[8].set(False))[8]) == expected.argmin()
    np.testing.assert_allclose(energy.encode(y, known), u, atol=1e-5)
    draws = jax.vmap(lambda k: energy.sample_given(y, known.at[8].set(False), key=k)[8])(
        jax.random.split(jax.random.key(0), 4000)
    )
    shares = np.bincount(np.asarray(draws, int), minlength=4) / 4000
    np.testing.assert_allclose(shares, np.exp(-expected) / np.exp(-expected).sum(), atol=0.03)


def test_prototypes_are_the_mean_directions_of_the_classes(fitted):
    x, of = people(range(60), 6, 2)
    known = fitted.calibration.rows
    z = fitted.encode(table(x)).z.astype(np.float64)
    held_out = {tuple(row) for row in fitted._encode(table(x, of))[1].values[:, :8].tolist()} & {
        tuple(row) for row in known.values[:, :8].tolist()
    }
    rows = fitted._encode(table(x, of))[1].values
    trained = np.array([tuple(row) not in held_out for row in rows[:, :8].tolist()])
    for code in (0, 7, 31):
        mean = z[trained & (rows[:, 8] == code)].sum(axis=0)
        np.testing.assert_allclose(fitted.F.prototypes[code], mean / np.linalg.norm(mean), atol=1e-4)


def test_it_finds_rows_of_classes_never_seen_where_distances_of_rows_do_not(fitted):
    x, of = people(range(60, 100), 3, 5)
    found = fitted.retrieve(table(x), k=1).order
    assert recall_at(of[found], of, 1) > 0.8
    plain = np.sum((x[:, None] - x[None]) ** 2, axis=2) + 1e9 * np.eye(len(x))
    assert recall_at(of[plain.argmin(axis=1)[:, None]], of, 1) < 0.3


def test_it_reads_the_class_of_new_rows(fitted):
    x, of = people(range(60), 2, 7)
    answer = fitted.predict(table(x))
    assert np.mean(np.array(answer.value.to_pylist()) == [f"p{i}" for i in of]) > 0.8
    np.testing.assert_allclose(answer.probabilities.sum(axis=1), 1, rtol=1e-6)
    # The wrong class costs more than the right one, and a row alone no more than with its best class.
    right, wrong = fitted.energy(table(x, of)), fitted.energy(table(x, (of + 30) % 60))
    assert np.mean(right < wrong) > 0.95
    assert np.all(fitted.energy(table(x)) <= right + 1e-5)


def test_what_it_cannot_say(fitted):
    with pytest.raises(NotAnswered, match="says nothing about 'x0'"):
        fitted.predict(table(*people(range(3), 2, 0)), target="x0")


def test_pictures_are_moved_mirrored_and_lit():
    image = np.random.default_rng(0).normal(size=(30, 5, 4)) * np.linspace(1, 2, 20).reshape(5, 4)
    space = Schema.infer(load(image)).space
    inputs = Inputs(space, ())
    y = jnp.asarray(Schema.infer(load(image)).encode(load(image).table).values[0])
    known = jnp.ones(20, bool)
    whole = np.asarray(inputs.picture(y, known))[..., 0]
    wide = np.pad(whole, 2, mode="edge")
    moved = {
        (r, c, m): (wide[r : r + 5, c : c + 4][:, ::-1] if m else wide[r : r + 5, c : c + 4])
        for r in range(5)
        for c in range(5)
        for m in (False, True)
    }
    varied = jax.jit(Varied(thalweg.learning.pairs.InfoNCE(), inputs, 2, True).varied)
    seen = set()
    for i in range(200):
        found = np.asarray(inputs.picture(varied(y, known, jax.random.key(i)), known))[..., 0]
        near = [place for place, expected in moved.items() if np.allclose(found, expected, atol=1e-4)]
        assert near
        seen.add(near[0])
    assert len(seen) > 40
    lit = Varied(thalweg.learning.pairs.InfoNCE(), inputs, light=0.5).varied(y, known, jax.random.key(0))
    after = np.asarray(inputs.picture(lit, known))[..., 0].ravel()
    slope, offset = np.polyfit(whole.ravel(), after, 1)
    np.testing.assert_allclose(after, slope * whole.ravel() + offset, atol=1e-4)
    assert slope > 0
    assert abs(slope - 1) > 1e-3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "hinge"}, "loss 'hinge' is not known: choose one of info-nce"),
        ({"temperature": 0.0}, "temperature must be more than 0"),
        ({"margin": 3.0}, "at most 2 apart"),
        ({"each": 1}, "at least 2 rows of 2 classes"),
        ({"each": 4, "batch": 6}, "at least 2 rows of 2 classes"),
        ({"size": 1}, "at least 2 numbers, not 1"),
        ({"shift": -1}, "a shift is a number of pixels, not -1"),
        ({"target": "whom"}, "whom"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises((SettingsError, DataError), match=message):
        thalweg.fit(table(*people(range(4), 6, 2)), "siamese", **(FAST | settings))


def test_data_without_pairs():
    x, of = people(range(10), 2, 2)
    with pytest.raises(DataError, match="the same in every row, there is nothing to predict"):
        thalweg.fit(table(x, np.zeros_like(of)), "siamese", **FAST)
    with pytest.raises(DataError, match="no two rows have the same 'who'"):
        thalweg.fit(table(x, np.arange(20)), "siamese", **FAST, calibrate=False)
    with pytest.raises(SettingsError, match="predicts a category, and 'x0' is a number"):
        thalweg.fit(table(x), "siamese", **(FAST | {"target": "x0"}))
    with pytest.raises(SettingsError, match="say which, target="):
        thalweg.fit(table(x, of), "siamese", progress=False)
