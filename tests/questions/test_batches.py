"""A row's answer does not depend on the rows beside it; what is compiled for one table serves another."""

from dataclasses import replace

import jax
import numpy as np
import pytest

import thalweg
from thalweg.data.rows import Rows
from thalweg.models.embedding import SCALES, Embedding
from thalweg.questions import energy
from thalweg.questions.batches import BLOCK, LARGEST

COLUMNS = ["alcohol", "hue", "proline", "color_intensity", "flavanoids"]


@pytest.fixture(scope="module")
def model():
    data = thalweg.data.load("wine").table.select(COLUMNS)
    return thalweg.fit(data, recipe="gmm", components=3, progress=False, log=lambda line: None)


@pytest.fixture(scope="module")
def rows(model):
    """More than one large piece and a part of a block beside it, every third row with a missing cell."""
    values = np.random.default_rng(0).normal(size=(LARGEST + BLOCK + 7, len(COLUMNS))).astype(np.float32)
    observed = np.ones(values.shape, bool)
    observed[::3, 1] = False
    return Rows(values, observed, np.zeros(len(values), np.int64))


def test_a_row_has_one_energy_whatever_is_beside_it(model, rows):
    whole = model._code_energies(rows)
    for part in (slice(0, 1), slice(5, 6), slice(3, 90), slice(4000, 4150), slice(None, None, -50)):
        np.testing.assert_array_equal(model._code_energies(rows[part]), whole[part])


def test_every_answer_is_that_of_one_row_after_the_other(model):
    table = thalweg.data.load("wine").table.select(COLUMNS).to_pandas()
    table.loc[::2, "hue"] = np.nan
    few = table.iloc[3:20]
    filled, predicted = model.complete(table), model.predict(table, "alcohol")
    assert filled.iloc[3:20].equals(model.complete(few))
    again = model.predict(few, "alcohol")
    np.testing.assert_array_equal(predicted.mean[3:20], again.mean)
    np.testing.assert_array_equal(predicted.value.to_numpy()[3:20], again.value.to_numpy())


def test_batches_agree_with_one_call(model, rows):
    whole = rows[np.flatnonzero(rows.complete)]
    at_once = jax.vmap(model.F)(whole.values)
    np.testing.assert_allclose(model._code_energies(whole), at_once, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", SCALES)
def test_a_bare_embedding_is_the_same_function(model, scale):
    columns = tuple(replace(c, pixel=i < 2) for i, c in enumerate(model.F.space.columns))
    embedding = Embedding(replace(model.F.space, columns=columns), scale)
    y = np.arange(len(COLUMNS), dtype=np.float32)
    np.testing.assert_array_equal(embedding.bare().embed(y)[0], embedding.embed(y)[0])
    np.testing.assert_array_equal(embedding.bare().layout.factor, embedding.layout.factor)
    assert embedding.bare().bare() == embedding.bare()


def test_tables_of_the_same_shape_share_what_is_compiled():
    generator = np.random.default_rng(1)
    quiet = {"recipe": "gmm", "components": 2, "calibrate": False, "progress": False}
    first, second = (thalweg.fit(scale * generator.normal(size=(90, 2)), **quiet) for scale in (1.0, 30.0))
    first.energy(np.zeros((3, 2)))
    traced = energy._of_points._cached._cache_size()
    second.energy(np.zeros((70, 2)))
    assert energy._of_points._cached._cache_size() == traced
    # Nor does the second one read what belongs to the first.
    assert second.energy(np.zeros((1, 2)))[0] == pytest.approx(
        first.energy(np.zeros((1, 2)))[0] + 2 * np.log(30), abs=1.0
    )
