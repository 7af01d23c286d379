"""The neural energy of tables and the mixture that it bends, against quadrature, sums and the toys' own densities."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

import thalweg
from thalweg.data.toys import TOYS
from thalweg.energy.spaces import Column, Record
from thalweg.errors import DataError, DataWarning, SettingsError
from thalweg.models.background import Background, empty
from thalweg.models.embedding import Embedding
from thalweg.models.mlp_ebm import Settings, build
from thalweg.nn.initial import drawn

MIXED = Record(
    (
        Column("a", "real", center=1.0, spread=2.0),
        Column("b", "categorical", size=3),
        Column("c", "integer", size=6, center=2.5, spread=1.5),
        Column("d", "categorical", size=2),
    )
)


def mixed_background() -> Background:
    rng = np.random.default_rng(0)
    tables = np.concatenate([np.log(rng.dirichlet(np.ones(n), 2)) for n in (3, 2)], axis=1)
    factors = np.tril(rng.normal(size=(2, 2, 2)), -1) * 0.3 + np.eye(2) * 0.5
    arrays = (np.log([0.3, 0.7]), rng.normal(size=(2, 2)), np.linalg.inv(factors), tables)
    return Background(Embedding(MIXED), *(jnp.asarray(a, jnp.float32) for a in arrays))


def test_the_background_of_mixed_rows_sums_and_integrates_to_one():
    q, h = mixed_background(), 0.1
    a, c = np.arange(-12, 14, 2 * h), np.arange(-8, 13, 2 * h)
    rows = np.stack(np.meshgrid(a, np.arange(3), c, np.arange(2), indexing="ij"), -1).reshape(-1, 4)
    logs = jax.jit(jax.vmap(q.log_prob))(jnp.asarray(rows, jnp.float32))
    assert float(jnp.sum(jnp.exp(logs))) * (2 * h) ** 2 == pytest.approx(1.0, abs=1e-3)


def test_draws_of_the_background_have_its_moments():
    q, n = mixed_background(), 40_000
    y = np.asarray(jax.jit(jax.vmap(lambda k: q.sample(key=k)))(jax.random.split(jax.random.key(1), n)))
    shares, tables = np.exp(np.asarray(q.log_weights)), np.exp(np.asarray(q.tables))
    expected = shares @ tables
    seen = [np.mean(y[:, 1] == v) for v in range(3)] + [np.mean(y[:, 3] == v) for v in range(2)]
    np.testing.assert_allclose(seen, expected, atol=4 * 0.5 / n**0.5)
    mean = shares @ np.asarray(q.means) * [2.0, 1.5] + [1.0, 2.5]
    np.testing.assert_allclose(y[:, [0, 2]].mean(axis=0), mean, atol=5 * 2.5 / n**0.5)


def test_the_network_bends_nothing_before_training_and_its_gradient_is_finite():
    q = mixed_background()
    F = build(q, Settings(width=8), drawn(jax.random.key(0)))
    y = jnp.array([0.3, 2.0, 3.0, 1.0])
    np.testing.assert_allclose(F(y), -q.log_prob(y), rtol=1e-6)
    F = replace(F, last=jnp.ones(8), constant=jnp.float32(2.0))
    assert float(F(y)) != pytest.approx(float(-q.log_prob(y)), abs=0.1)
    assert np.isfinite(jax.grad(F)(y)).all()
    for beta, energy in ((0.0, -q.log_prob(y)), (1.0, F(y))):
        np.testing.assert_allclose(F.tempered(beta)(y), energy, rtol=1e-6)


def kl(model: thalweg.Model, name: str, low: float, high: float, cells: int = 240) -> float:
    """KL(p || model) on a grid, both normalised there."""
    middle = np.linspace(low, high, cells + 1)[1:] - (high - low) / cells / 2
    grid = np.stack(np.meshgrid(middle, middle), -1).reshape(-1, 2)
    truth = np.asarray(jax.jit(jax.vmap(TOYS[name]().log_prob))(jnp.asarray(grid, jnp.float32)), np.float64)
    codes = (grid - [c.mean for c in model.schema.columns]) / [c.std for c in model.schema.columns]
    ours = -np.asarray(jax.jit(jax.vmap(model.F))(jnp.asarray(codes, jnp.float32)), np.float64)
    truth, ours = truth - logsumexp(truth), ours - logsumexp(ours)
    return float(np.sum(np.exp(truth) * (truth - ours)))


@pytest.mark.slow
def test_rings_by_the_defaults_and_nearly_normalised():
    """The mixture alone is at 0.74 nats."""
    model = thalweg.fit("rings", "mlp-ebm", progress=False)
    assert kl(model, "rings", -5.0, 5.0) < 0.15


@pytest.mark.parametrize(
    "loss",
    ["nce", *(pytest.param(loss, marks=pytest.mark.slow) for loss in ("cd", "pcd", "sm", "ssm", "dsm"))],
)
def test_a_small_fit_answers_and_comes_back(loss, tmp_path):
    small = {"width": 16, "steps": 60, "components": 3, "chain": 3}
    model = thalweg.fit("banana", "mlp-ebm", loss=loss, progress=False, **small)
    rows = np.array([[0.0, -1.0], [0.5, -0.75], [-1.0, 2.5]])
    energies = model.energy(rows)
    assert np.isfinite(energies).all()
    assert energies[:2].max() < energies[2]
    model.save(tmp_path / "model")
    np.testing.assert_array_equal(thalweg.load(tmp_path / "model").energy(rows), energies)


@pytest.mark.slow
def test_missing_cells_are_said_or_used():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(120, 2))
    x[::3, 0] = np.nan
    small = {"width": 8, "steps": 20, "components": 1, "progress": False}
    with pytest.warns(DataWarning, match="left out: loss=pcd uses them too"):
        thalweg.fit(x, "mlp-ebm", **small)
    assert np.isfinite(thalweg.fit(x, "mlp-ebm", loss="pcd", chain=2, **small).energy(x)).all()
    x[1::3, 1] = np.nan
    x[2::3, 1] = np.nan
    with pytest.raises(DataError, match="every row has a missing cell"):
        thalweg.fit(x, "mlp-ebm", **small)


def test_impossible_settings_are_refused():
    with pytest.raises(SettingsError, match="loss 'mle' is not known"):
        Settings(loss="mle")
    with pytest.raises(SettingsError, match="'target' is a category"):
        thalweg.fit("wine", "mlp-ebm", loss="sm", progress=False)


def test_the_outline_has_the_shapes_of_a_fit():
    q = empty(Embedding(MIXED), 2)
    assert jax.tree.map(jnp.shape, q) == jax.tree.map(jnp.shape, mixed_background())
