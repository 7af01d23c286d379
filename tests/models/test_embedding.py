"""Codes to coordinates and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thalweg.data.rows import Rows
from thalweg.energy.spaces import Column, Record
from thalweg.errors import DataError, SettingsError
from thalweg.models.embedding import Embedding

COLUMNS = (
    Column("height", "real", center=0.5, spread=2.0, unit=10.0),
    Column("colour", "categorical", 3),
    Column("count", "integer", 9, center=4.0, spread=2.5),
    Column("flag", "categorical", 2),
)
Y = jnp.asarray([1.7, 2.0, 6.0, 0.0])


def test_numbers_are_scaled_and_categories_are_blocks():
    u, seen = Embedding(Record(COLUMNS)).embed(Y)
    np.testing.assert_allclose(u, [0.6, 0, 0, 1, 0.8, 1, 0], atol=1e-6)
    assert seen.all()
    assert Embedding(Record(COLUMNS)).width == 7


def test_missing_columns_hide_their_whole_block():
    observed = jnp.asarray([False, False, True, True])
    u, seen = Embedding(Record(COLUMNS)).embed(jnp.asarray([np.nan, np.nan, 6.0, 0.0]), observed)
    np.testing.assert_array_equal(seen, [False] * 4 + [True] * 3)
    np.testing.assert_allclose(u, [0, 0, 0, 0, 0.8, 1, 0], atol=1e-6)


@pytest.mark.parametrize("scale", ["auto", "column", "common", "none"])
def test_unembed_is_the_inverse(scale):
    embedding = Embedding(Record(COLUMNS), scale)
    np.testing.assert_allclose(embedding.unembed(embedding.embed(Y)[0]), Y, rtol=1e-5)


@pytest.mark.parametrize("scale", ["auto", "column", "common", "none"])
def test_log_volume_is_the_jacobian(scale):
    columns = tuple(column for column in COLUMNS if column.kind != "categorical")
    embedding = Embedding(Record(columns), scale)
    jacobian = jax.jacobian(lambda y: embedding.embed(y)[0])(jnp.asarray([1.7, 6.0]))
    np.testing.assert_allclose(embedding.log_volume(), np.linalg.slogdet(jacobian)[1], rtol=1e-5)
    only = embedding.log_volume(jnp.asarray([False, True]))
    np.testing.assert_allclose(only, np.log(jacobian[1, 1]), rtol=1e-5)


def test_common_scale_keeps_the_ratio_of_units():
    columns = (Column("a", "real", spread=2.0, unit=3.0), Column("b", "real", spread=1.0, unit=1.0))
    factors = np.diag(jax.jacobian(lambda y: Embedding(Record(columns), "common").embed(y)[0])(jnp.zeros(2)))
    np.testing.assert_allclose(factors[0] / factors[1], 3.0, rtol=1e-6)
    np.testing.assert_allclose(np.mean((factors * [2.0, 1.0]) ** 2), 1, rtol=1e-6)


def test_pixels_share_a_scale_and_other_columns_have_their_own():
    pixels = tuple(
        Column(f"p{i}", "integer", 17, center=8.0, spread=float(i + 1), pixel=True) for i in range(4)
    )
    record = Record((*pixels, Column("age", "real", spread=7.0)))
    factors = np.diag(jax.jacobian(lambda y: Embedding(record).embed(y)[0])(jnp.zeros(5)))
    np.testing.assert_allclose(factors[:4], 1 / np.sqrt(np.mean(np.arange(1, 5) ** 2)), rtol=1e-6)
    np.testing.assert_allclose(factors[4], 1 / 7, rtol=1e-6)


def test_nothing_in_it_trains():
    assert jax.tree.leaves(Embedding(Record(COLUMNS))) == []


def test_noise_is_scaled_like_the_numbers():
    noise = Embedding(Record(COLUMNS)).noise(jnp.asarray([1.0, 9.0, 1.0, 9.0]))
    np.testing.assert_allclose(noise, [0.5, 0, 0, 0, 0.4, 0, 0], rtol=1e-6)


def test_errors_name_cause_and_remedy():
    with pytest.raises(SettingsError, match="scale 'pixel' is not known: choose one of auto, column"):
        Embedding(Record(COLUMNS), "pixel")
    none = Rows(np.zeros((0, 4), np.float32), np.zeros((0, 4), bool), np.zeros(0, int))
    with pytest.raises(DataError, match="no rows to fit"):
        Embedding(Record(COLUMNS)).rows(none)
