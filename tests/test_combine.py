"""Sums of fitted models: against the product of two Gaussians in closed form, kept, and refused with the reason."""

import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

import thalweg
from thalweg.cli.main import main
from thalweg.energy.spaces import Real
from thalweg.errors import ModelDirectoryError, SettingsError
from thalweg.persist.directory import write_new
from thalweg.persist.layout import CONTENTS
from thalweg.persist.plain import to_json
from thalweg.questions import methods

QUIET = {"progress": False, "log": lambda line: None}
WEIGHTS = (1.0, 0.5)


def cloud(mean, covariance, seed) -> np.ndarray:
    return np.random.default_rng(seed).multivariate_normal(mean, covariance, 400)


@pytest.fixture(scope="module")
def tables() -> list[np.ndarray]:
    """Two tables of the same columns, of other centres and scales."""
    return [
        cloud([10, -1, 0], [[4, 1, 0], [1, 1, 0.3], [0, 0.3, 0.5]], 0),
        cloud([11, 0, 0.5], [[1, -0.4, 0], [-0.4, 2, 0], [0, 0, 3]], 1),
    ]


@pytest.fixture(scope="module")
def models(tables):
    return [
        thalweg.fit(table, "gmm", components=1, prior="none", calibrate=False, **QUIET) for table in tables
    ]


@pytest.fixture(scope="module")
def both(models):
    return thalweg.combine(models, WEIGHTS)


@pytest.fixture(scope="module")
def product(tables):
    """Mean and covariance of the weighted product of the two maximum-likelihood Gaussians, by their precisions."""
    precisions = [w * np.linalg.inv(np.cov(t.T, bias=True)) for w, t in zip(WEIGHTS, tables, strict=True)]
    covariance = np.linalg.inv(sum(precisions))
    pull = sum(q @ t.mean(axis=0) for q, t in zip(precisions, tables, strict=True))
    return covariance @ pull, covariance


def test_energies_are_those_of_the_closed_form(both, product):
    mean, covariance = product
    rows = cloud(mean, covariance, 2)[:50]
    apart = rows - mean
    due = 0.5 * np.einsum("ni,ij,nj->n", apart, np.linalg.inv(covariance), apart)
    found = both.energy(rows)
    np.testing.assert_allclose(found - found[0], due - due[0], atol=0.02)


def test_draws_and_completions_are_those_of_the_closed_form(both, product):
    mean, covariance = product
    drawn = np.stack([c.to_numpy() for c in both.sample(500, seed=1).columns], axis=1)
    error = np.sqrt(np.diag(covariance) / 500)
    np.testing.assert_array_less(np.abs(drawn.mean(axis=0) - mean), 5 * error)
    scale = np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    np.testing.assert_allclose(np.cov(drawn.T) / scale, covariance / scale, atol=5 * np.sqrt(2 / 500))
    row = np.array([[11.0, np.nan, np.nan]])
    slope = covariance[1:, 0] / covariance[0, 0]
    deviation = np.sqrt(np.diag(covariance)[1:])
    guess = both.complete(row)[0, 1:]
    assert (np.abs(guess - mean[1:] - slope * (11 - mean[0])) < 0.2 * deviation).all()
    cleaned = both.denoise(np.array([mean + 0.5]), noise=0.5)
    assert both.energy(cleaned)[0] < both.energy(np.array([mean + 0.5]))[0]


@pytest.fixture(scope="module")
def mixed():
    """Two models of mixed tables with other ranges, one of them with its columns in another order."""
    generator = np.random.default_rng(3)

    def table(shift, n=120):
        return pa.table(
            {
                "height": generator.normal(170 + shift, 8, n),
                "children": generator.integers(int(shift > 0), 5 + int(shift > 0), n),
                "eyes": generator.choice(["blue", "brown", "green"], n),
                "seen": pa.array(np.datetime64("2024-01-05") + generator.integers(int(shift), 300, n)),
            }
        )

    first, second = table(0), table(5.0)
    second = second.select(["eyes", "seen", "height", "children"])
    return first, [
        thalweg.fit(first, "rbm", steps=50, hidden=4, **QUIET),
        thalweg.fit(second, "gmm", components=2, **QUIET),
    ]


@pytest.mark.filterwarnings("ignore:.*outside the range of training:thalweg.errors.DataWarning")
def test_each_model_reads_the_cells_in_its_own_codes(mixed):
    rows, (a, b) = mixed
    rows = rows.slice(0, 20)
    both = thalweg.combine([a, b], (2.0, -0.5))

    def in_codes(model):
        return np.array([model.F(jnp.asarray(y)) for y in model.schema.encode(rows).values])

    np.testing.assert_allclose(both.energy(rows), 2 * in_codes(a) - 0.5 * in_codes(b), rtol=1e-4, atol=1e-3)
    # A combination of combinations is the combination of their parts.
    nested = thalweg.combine([thalweg.combine([a, b], (4.0, -1.0)), b], (0.5, 1.0))
    np.testing.assert_allclose(nested.energy(rows), 2 * in_codes(a) + 0.5 * in_codes(b), rtol=1e-4, atol=1e-3)
    turned = thalweg.combine([b, thalweg.combine([a, b], (4.0, -1.0))], (1.0, 0.5))
    np.testing.assert_allclose(turned.energy(rows), nested.energy(rows), rtol=1e-4, atol=1e-3)
    assert [part["weight"] for part in nested.settings["parts"]] == [2.0, -0.5, 1.0]


@pytest.mark.filterwarnings("ignore:.*outside the range of training:thalweg.errors.DataWarning")
def test_a_combination_is_kept_as_a_model_directory(mixed, tmp_path):
    rows, members = mixed
    both = thalweg.combine(members, WEIGHTS)
    again = thalweg.load(both.save(tmp_path / "both"))
    np.testing.assert_array_equal(again.energy(rows), both.energy(rows))
    np.testing.assert_array_equal(again.score(rows, alpha=0.1).p_value, both.score(rows, alpha=0.1).p_value)
    assert again.settings == both.settings
    text = (tmp_path / "both" / "README.md").read_text()
    assert "F(y) = 1·rbm(y) + 0.5·gmm(y)" in text
    assert "thalweg score this-directory" in text
    assert thalweg.load(again.save(tmp_path / "twice")).settings == both.settings


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            lambda parts: parts[0].update(recipe="nonsense"),
            "recipe 'nonsense', which this Thalweg does not have",
        ),
        (lambda parts: parts[0].update(recipe="custom"), "an energy of its maker's own"),
        (lambda parts: parts[0].update(weight="1"), "each part of a combination has a recipe"),
        (lambda parts: parts[0].update(weight=7.0), "other numbers"),
        (lambda parts: parts[0]["settings"].update(hidden=5), "says that array .*needs F32"),
        (lambda parts: parts[0]["settings"].update(hidden=10**12), "says that array .*needs F32"),
        (lambda parts: parts[1]["schema"].update(columns=[]), "field 'settings'.*schema|nothing"),
        (
            lambda parts: parts[1].update(schema=None),
            "lacks the array|says that array|no energy can be built",
        ),
        (lambda parts: parts.clear(), "lists 1 to 64 parts"),
        (lambda parts: parts.extend(parts[:1] * 80), "lists 1 to 64 parts"),
    ],
)
def test_a_changed_combination_is_refused(mixed, tmp_path, change, match):
    path = thalweg.combine(mixed[1], WEIGHTS).save(tmp_path / "both")
    record = json.loads((path / "model.json").read_text())
    change(record["settings"]["parts"])
    contents = {name: (path / name).read_bytes() for name in CONTENTS}
    write_new(path, contents | {"model.json": to_json(record)})
    with pytest.raises(ModelDirectoryError, match=match):
        thalweg.load(path)


class Ball(eqx.Module):
    """A constraint: far from a centre costs much."""

    centre: object

    def __call__(self, y):
        return 8 * jnp.sum((y - self.centre) ** 2)


def test_a_constraint_of_ones_own_draws_the_model_to_it(models, product, tmp_path):
    ball = thalweg.energy_of(Ball(jnp.array([1.0, 0.0, 0.0])), Real((3,)))
    held = thalweg.combine([models[0], ball])
    drawn = held.schema.encode(held.sample(300)).values
    # In codes the model is a Gaussian, whose precision is added to that of the ball, 16.
    gaussian = models[0].F
    precision = np.asarray(jax.hessian(gaussian)(jnp.zeros(3)), np.float64)
    pull = -np.asarray(jax.grad(gaussian)(jnp.zeros(3)), np.float64) + 16 * np.array([1.0, 0, 0])
    due = np.linalg.solve(precision + 16 * np.eye(3), pull)
    np.testing.assert_allclose(drawn.mean(axis=0), due, atol=5 * 0.25 / np.sqrt(300))
    path = held.save(tmp_path / "held")
    with pytest.raises(ModelDirectoryError, match=r"an energy of its maker's own .*energy=…"):
        thalweg.load(path)
    blank = thalweg.energy_of(Ball(jnp.zeros(3)), Real((3,)))
    rows = held.sample(5)
    np.testing.assert_array_equal(thalweg.load(path, energy=blank).energy(rows), held.energy(rows))


@pytest.mark.slow
def test_counts_from_other_minima_are_other_codes():
    """Spaces can be equal where the cells behind the same codes are not."""
    counts = np.arange(20) % 5
    a, b = (
        thalweg.fit({"n": counts + low, "m": counts[::-1] + 0.5}, "gmm", components=1, **QUIET)
        for low in (0, 3)
    )
    assert a.F.space == b.F.space
    both = thalweg.combine([a, b])
    rows = {"n": [4], "m": [1.5]}
    codes = [model.schema.encode(thalweg.data.load(rows).table).values[0] for model in (a, b)]
    assert codes[0][0] == codes[1][0] + 3
    assert both.energy(rows)[0] == pytest.approx(float(a.F(codes[0]) + b.F(codes[1])), rel=1e-5)


def test_what_cannot_be_combined_says_why(models, mixed):
    a, b = models
    ball = thalweg.energy_of(Ball(jnp.zeros(3)), Real((3,)))
    wine = thalweg.fit({"eyes": ["blue", "brown", "grey"] * 5, "height": np.arange(15.0)}, "pca", **QUIET)
    eyes = thalweg.fit({"eyes": ["blue", "brown", "green"] * 5, "height": np.arange(15.0)}, "pca", **QUIET)
    for members, weights, match in (
        ([], None, "the first of what is combined must be a fitted model"),
        ([ball, a], None, "the first of what is combined must be a fitted model"),
        ([a, b], (1.0,), "2 energies need 2 weights, not 1"),
        ([a, b], (1.0, np.nan), "a weight is a finite number other than 0, not nan"),
        ([a, mixed[1][0]], None, "only one of them sees '.*' vary"),
        ([eyes, wine], None, r"column 'eyes' is categorical .*'green'.* and categorical .*'grey'"),
        ([a, ball, ball], None, "add yours first, f \\+ g"),
        ([a, 3], None, "models and energies are combined, not int"),
        ([a, thalweg.energy_of(Ball(jnp.zeros(2)), Real((2,)))], None, "over points of shape"),
    ):
        with pytest.raises(SettingsError, match=match):
            thalweg.combine(members, weights)


@pytest.mark.filterwarnings("ignore:.*outside the range of training:thalweg.errors.DataWarning")
def test_every_question_by_the_command_line(mixed, tmp_path, capsys, monkeypatch):
    rows, members = mixed
    monkeypatch.chdir(tmp_path)
    for name, model in zip(("a", "b"), members, strict=True):
        model.save(name)
    pa.parquet.write_table(rows.slice(0, 5), "rows.parquet")
    assert (
        main(
            ["combine", "a", "b", "--weights", "1,0.5", "--out", "both", "--calibrate", "rows.parquet", "-q"]
        )
        == 0
    )
    assert len(thalweg.load("both").calibration.rows) == 5
    assert main(["combine", "a", "b", "--weights", "1,x", "--out", "c"]) == 2
    assert "--weights needs numbers with commas between" in capsys.readouterr().err
    assert main(["combine", "a", "b", "--out", "both"]) == 1
    assert "--force" in capsys.readouterr().err
    for question in ("energy", "score", "denoise", "explain"):
        assert (
            main(
                [question, "both", "rows.parquet", "-q", *(["--alpha", "0.5"] if question == "score" else [])]
            )
            == 0
        )
    assert methods(type(thalweg.load("both").F))["sample"].startswith("chains: ")
