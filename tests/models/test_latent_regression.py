"""Regression with a latent: two branches, what limits z, what leaks, and both errors."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import norm

import thalweg
from thalweg.energy.spaces import Column, Record
from thalweg.errors import NotAnswered, SettingsError
from thalweg.models.latent_regression import LATENTS, Limit, Settings, build
from thalweg.nn.initial import drawn
from thalweg.questions.walk import errors

NOISE = 0.05
SMALL = {"width": 32, "dropout": 0.0, "steps": 500, "target": "y", "progress": False}


def branches(n: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, n)
    side = np.where(rng.random(n) < 0.5, 1.0, -1.0)
    return {"x": x, "y": side * (0.3 + 0.5 * x**2) + NOISE * rng.normal(size=n)}


def log_p(x, y):
    middle = 0.3 + 0.5 * x**2
    return logsumexp([norm.logpdf(y, s * middle, NOISE) for s in (1, -1)], axis=0) + np.log(0.5)


@pytest.fixture(scope="module")
def two():
    return thalweg.fit(branches(1000, 0), "latent-regression", latent="discrete", size=2, **SMALL)


@pytest.fixture(scope="module")
def leaking():
    """A real z of as many dimensions as the answer has, at no cost to speak of."""
    return thalweg.fit(branches(1000, 0), "latent-regression", latent="ridge", size=1, strength=1e-3, **SMALL)


def measured(model):
    """RMSE with z inferred and with z drawn, and -log p above that of the truth."""
    rows = branches(300, 1)
    both = errors(model.F, model.schema.encode(thalweg.data.load(rows).table))
    unit = model.schema["y"].std
    excess = float(np.mean(model.energy(rows) + log_p(rows["x"], rows["y"])))
    return *(unit * np.sqrt(np.mean(part**2)) for part in both), excess


def test_two_values_are_the_two_branches(two):
    inferred, chance, excess = measured(two)
    assert 0.9 * NOISE < inferred < 1.4 * NOISE
    # By the prior half of the draws are on the other branch, whose distance is twice 0.3 + 0.5 x².
    x = branches(300, 1)["x"]
    apart = np.sqrt(np.mean((2 * (0.3 + 0.5 * x**2)) ** 2) / 2 + NOISE**2)
    assert chance == pytest.approx(apart, rel=0.12)
    assert -0.02 < excess < 0.2
    walked = two.walk({"x": [0.0, 0.8]})
    found = np.sort(np.asarray(walked["y"]).reshape(2, 2), axis=1)
    np.testing.assert_allclose(found, [[-0.3, 0.3], [-0.62, 0.62]], atol=0.06)
    modes = two.predict({"x": [0.0]}, modes=True).modes
    np.testing.assert_allclose(modes.probability, [0.5, 0.5], atol=0.02)


def test_a_latent_of_full_capacity_leaks_the_answer(two, leaking):
    """By the error with z inferred it is better than the truth; by the likelihood it has learnt nothing."""
    inferred, chance, excess = measured(leaking)
    assert inferred < 0.8 * NOISE
    assert chance > 2 * measured(two)[1]
    assert excess > 1.5


def test_the_report_shows_both_errors(two, tmp_path):
    page = two.report(tmp_path / "report.html", branches(200, 3)).read_text()
    shown = {
        name: float(re.search(rf"{name}</(?:dt|th|span)>.*?([\d.]+)", page, re.S)[1])
        for name in ("RMSE, z inferred", "RMSE, z drawn")
    }
    assert shown["RMSE, z inferred"] < 2 * NOISE < shown["RMSE, z drawn"]


@pytest.mark.parametrize("kind", LATENTS)
def test_the_prior_is_normalised_and_its_points_follow_it(kind):
    limit = Limit(kind, 3 if kind == "discrete" else 1, 2.0)
    if kind == "discrete":
        total = sum(np.exp(-float(limit.cost(z))) for z in limit.nodes)
        assert total == pytest.approx(1.0, abs=1e-5)
        return
    z = np.linspace(-1, 1, 4001) if kind == "box" else np.linspace(-12, 12, 40_001)
    p = np.exp(-np.asarray(jax.vmap(limit.cost)(jnp.asarray(z[:, None], jnp.float32)), np.float64))
    assert np.trapezoid(p, z) == pytest.approx(1.0, abs=1e-3)
    second = np.trapezoid(p * z**2, z)
    assert float(jnp.mean(limit.nodes**2)) == pytest.approx(second, rel=0.05)


@pytest.mark.parametrize(("kind", "size"), [("discrete", 3), ("noise", 2), ("noise", 3), ("sparse", 2)])
def test_the_energy_is_normalised_and_its_marginals_agree(kind, size):
    space = Record(
        (
            Column("a", "real", lower=-2.0, upper=2.0),
            Column("b", "categorical", size=3),
            Column("c", "integer", size=6, center=2.5, spread=1.5),
        )
    )
    F = build(
        space, Settings(target="a", also="c", latent=kind, size=size, width=8), drawn(jax.random.key(0))
    )
    a, c = np.meshgrid(np.linspace(-9, 9, 181), np.linspace(-12, 17, 146), indexing="ij")
    rows = jnp.asarray(np.stack([a.ravel(), np.ones(a.size), c.ravel()], 1), jnp.float32)
    p = np.exp(-np.asarray(jax.jit(jax.vmap(F))(rows), np.float64)).reshape(a.shape)
    assert np.trapezoid(np.trapezoid(p, c[0], axis=1), a[:, 0]) == pytest.approx(1.0, abs=2e-3)
    y, observed = jnp.array([0.3, 1.0, 2.0]), jnp.array([True, True, False])
    at = np.argmin(np.abs(a[:, 0] - 0.3))
    assert float(F.marginal(y, observed)) == pytest.approx(-np.log(np.trapezoid(p[at], c[0])), abs=2e-3)
    values = jnp.array([0.0, 1.0])
    for index, known in ((0, observed), (1, observed), (2, jnp.ones(3, bool))):
        along = F.column_energies(y, jnp.int32(index), values, known)
        whole = [F.marginal(y.at[index].set(v), known.at[index].set(True)) for v in values]
        np.testing.assert_allclose(along, whole, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "size"), [("noise", 1), ("noise", 3), ("box", 1), ("sparse", 2)])
def test_every_limit_trains_and_comes_back(kind, size, tmp_path):
    model = thalweg.fit(
        branches(300, 0), "latent-regression", latent=kind, size=size, **SMALL | {"steps": 60}
    )
    rows = branches(20, 2)
    assert np.isfinite(model.energy(rows)).all()
    model.save(tmp_path / "model")
    np.testing.assert_array_equal(thalweg.load(tmp_path / "model").energy(rows), model.energy(rows))


def test_bad_settings_are_refused():
    with pytest.raises(SettingsError, match=r"strength must be more than 0.*says the answer itself"):
        Settings(target="y", latent="ridge", strength=0.0)
    with pytest.raises(SettingsError, match="latent 'any' is not known"):
        Settings(target="y", latent="any")
    with pytest.raises(SettingsError, match="'kind' is a category"):
        thalweg.fit({"x": [0.1, 0.2] * 9, "kind": ["a", "b"] * 9}, "latent-regression", target="kind")


def test_only_a_latent_can_be_walked():
    with pytest.raises(NotAnswered, match="has no latent that says what the answer is"):
        thalweg.fit(branches(40, 0), "gmm", components=1, progress=False).walk(branches(3, 0))
