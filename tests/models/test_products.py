"""Products of experts: score matching against the generic one, and mixing directions against those that were mixed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import thalweg
from thalweg.energy.spaces import Column, Record
from thalweg.errors import SettingsError
from thalweg.learning.scores import ScoreMatching
from thalweg.models.embedding import Embedding
from thalweg.models.products import Products, ProductScoreMatching, Settings, Whitened, build
from thalweg.nn.initial import drawn

SPACE = Record(tuple(Column(name, "real") for name in "abc"))


def product(count: int = 5) -> Products:
    rng = np.random.default_rng(0)
    arrays = (rng.normal(size=(count, 3)), rng.normal(size=count), rng.normal(size=count))
    return Products(Embedding(SPACE), *(jnp.asarray(a, jnp.float32) for a in arrays))


def test_the_energy_is_its_formula():
    F, y = product(), np.array([0.3, -1.0, 2.0], np.float32)
    s = np.asarray(F.filters) @ y + np.asarray(F.shift)
    alpha = 0.5 + np.log1p(np.exp(np.asarray(F.raw)))
    assert float(F(jnp.asarray(y))) == pytest.approx(float(alpha @ np.log(1 + s**2 / 2)), rel=1e-5)
    np.testing.assert_allclose(F.encode(jnp.asarray(y), jnp.ones(3, bool)), s, rtol=1e-5)


def test_its_score_matching_is_that_of_the_generic_objective():
    F, key = product(), jax.random.key(0)
    y = jnp.asarray(np.random.default_rng(1).normal(size=(20, 3)), jnp.float32)
    losses = [objective(F, y, None, key=key)[0] for objective in (ProductScoreMatching(), ScoreMatching())]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


def amari(filters: np.ndarray, mixing: np.ndarray) -> float:
    """How far filters · mixing is from a scaled permutation: 0 for the true filters, 1 at worst."""
    p = np.abs(filters @ mixing)
    rows, columns = p / p.max(axis=1, keepdims=True), p / p.max(axis=0, keepdims=True)
    d = len(p)
    return float((rows.sum() + columns.sum() - 2 * d) / (2 * d * (d - 1)))


def test_square_it_recovers_the_directions_that_were_mixed():
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(3, 3))
    x = rng.laplace(size=(3000, 3)) @ mixing.T
    model = thalweg.fit(x, "products", experts=1.0, steps=1200, jitter=0.0, progress=False, calibrate=False)
    filters = np.asarray(model.F.filters) / [column.std for column in model.schema.columns]
    assert amari(np.linalg.inv(mixing), mixing) == pytest.approx(0, abs=1e-12)
    assert amari(np.eye(3), mixing) > 0.3
    assert amari(filters, mixing) < 0.06


def test_categories_are_for_chains():
    with pytest.raises(SettingsError, match="'target' is a category"):
        thalweg.fit("wine", "products", loss="sm", progress=False)
    model = thalweg.fit("wine", "products", steps=20, chain=2, progress=False)
    assert np.isfinite(model.energy("wine")).all()
    assert model.encode("wine").z.shape == (178, 32)


def test_it_comes_back_from_its_directory(tmp_path):
    model = thalweg.fit("banana", "products", steps=40, progress=False)
    rows = np.array([[0.0, -1.0], [3.0, 3.0]])
    model.save(tmp_path / "model")
    np.testing.assert_array_equal(thalweg.load(tmp_path / "model").energy(rows), model.energy(rows))


def test_impossible_settings_are_refused():
    with pytest.raises(SettingsError, match="loss 'ml' is not known"):
        Settings(loss="ml")
    with pytest.raises(SettingsError, match="experts must be more than 0"):
        Settings(experts=0.0)
    assert build(Embedding(SPACE), Settings(), drawn(jax.random.key(0))).filters.shape == (6, 3)


@pytest.mark.slow
def test_correlated_columns_and_heavy_tails_hide_no_source():
    """Slopes matched in columns that are correlated miss a source here: the error was 0.2, and 0.18 of 12,000 steps."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(4, 4))
    x = rng.standard_t(3, size=(3000, 4)) @ mixing.T
    model = thalweg.fit(x, "products", experts=1.0, steps=1500, progress=False, calibrate=False)
    filters = np.asarray(model.F.filters) / [column.std for column in model.schema.columns]
    assert amari(filters, mixing) < 0.05


def test_whitened_slopes_are_those_of_the_whitened_rows():
    F, key = product(), jax.random.key(0)
    whiten = jnp.asarray(np.random.default_rng(2).normal(size=(3, 3)), jnp.float32)
    y = jnp.asarray(np.random.default_rng(1).normal(size=(20, 3)), jnp.float32)
    found = ProductScoreMatching()(Whitened(F, whiten), y, None, key=key)[0]
    np.testing.assert_allclose(found, ScoreMatching()(F, y @ whiten.T, None, key=key)[0], rtol=1e-4)
