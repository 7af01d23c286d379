"""Regression with many answers: two branches whose density is known; what the questions say of it; bad input."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pytest
from scipy.special import logsumexp
from scipy.stats import norm

import thalweg
from thalweg.asking import ANSWERS
from thalweg.energy.spaces import Column, Record
from thalweg.errors import DataError, NotAnswered, SchemaError, SettingsError
from thalweg.models.implicit import LOSSES, Settings, build
from thalweg.nn.initial import drawn

NOISE = 0.05
SMALL = {"width": 32, "layers": 2, "dropout": 0.0, "progress": False}


def branches(n: int, seed: int) -> dict[str, np.ndarray]:
    """y = ±(0.3 + 0.5 x²) with probabilities 0.3 and 0.7, and a little noise."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, n)
    side = np.where(rng.random(n) < 0.3, 1.0, -1.0)
    return {"x": x, "y": side * (0.3 + 0.5 * x**2) + NOISE * rng.normal(size=n)}


def log_p(x, y):
    middle = 0.3 + 0.5 * x**2
    logs = [np.log(0.3) + norm.logpdf(y, middle, NOISE), np.log(0.7) + norm.logpdf(y, -middle, NOISE)]
    return logsumexp(logs, axis=0)


@pytest.fixture(scope="module")
def model():
    return thalweg.fit(branches(2000, 0), "implicit", target="y", steps=600, calibrate=False, **SMALL)


def test_the_likelihood_is_nearly_that_of_the_truth(model):
    rows = branches(500, 1)
    gap = float(np.mean(model.energy(rows) + log_p(rows["x"], rows["y"])))
    assert -0.02 < gap < 0.15


def test_all_modes_are_returned_with_their_probabilities(model):
    x = np.array([-0.7, 0.0, 0.5])
    found = model.predict({"x": x}, modes=True).modes
    assert found.row.tolist() == [0, 0, 1, 1, 2, 2]
    middle = 0.3 + 0.5 * x**2
    np.testing.assert_allclose(
        np.asarray(found.answer["y"]), np.stack([-middle, middle], 1).ravel(), atol=0.06
    )
    np.testing.assert_allclose(found.probability.reshape(3, 2), np.tile([0.7, 0.3], (3, 1)), atol=0.08)
    np.testing.assert_allclose(
        found.energy, model.energy({"x": x[found.row], "y": np.asarray(found.answer["y"])}), atol=0.02
    )
    assert found.of(1).column("probability").to_pylist() == found.probability[2:4].tolist()
    # The same on the command line, a line an answer.
    table = ANSWERS["predict"](model, pa.table({"x": x}), modes=True)
    assert table.column_names == ["row", "y", "energy", "probability"]
    assert table.num_rows == 6
    # The mean lies between the branches, where there is no answer; the value is one of them.
    answer = model.predict({"x": x})
    assert np.abs(answer.mean + 0.4 * middle).max() < 0.08
    assert (
        model.energy({"x": x, "y": answer.mean}).min() > model.energy({"x": x, "y": answer.value}).max() + 1
    )


def test_probabilities_of_modes_are_the_integral_over_their_side(model):
    """Against quadrature of the model's own density."""
    seen = branches(2000, 0)["y"]
    grid = np.linspace(seen.min(), seen.max(), 2001)
    p = np.exp(-model.energy({"x": np.full(2001, 0.5), "y": grid}))
    assert np.trapezoid(p, grid) == pytest.approx(1.0, abs=0.01)
    found = model.predict({"x": [0.5]}, modes=True).modes
    low = np.trapezoid(np.where(grid < 0, p, 0), grid)
    np.testing.assert_allclose(found.probability[:2], [low, 1 - low], atol=0.01)


def test_draws_lie_on_both_branches(model):
    drawn = np.asarray(model.sample(400, given={"x": 0.5}, seed=1)["y"])
    assert np.mean(drawn > 0) == pytest.approx(0.3, abs=0.1)
    assert np.mean(np.abs(np.abs(drawn) - 0.425) < 4 * NOISE) > 0.95


def mixed() -> Record:
    return Record(
        (
            Column("a", "real", lower=-2.0, upper=2.0),
            Column("b", "categorical", size=3),
            Column("c", "integer", size=6, center=2.5, spread=1.5),
            Column("d", "real", lower=-3.0, upper=1.0),
        )
    )


@pytest.mark.parametrize("targets", ["a", "c", "a,c", "d,a,c"])
def test_the_energy_is_normalised_and_its_marginals_agree(targets):
    first, _, also = targets.partition(",")
    settings = Settings(target=first, also=also, width=8)
    F = build(mixed(), settings, drawn(jax.random.key(0)))
    F = replace(F, last=jnp.asarray(0.3 * np.random.default_rng(0).normal(size=8), jnp.float32))
    y = jnp.array([0.3, 2.0, 3.0, -0.5])
    box, answers = F.box, list(F.answers)
    rng = np.random.default_rng(1)
    lower, upper = (np.array([getattr(c, side) for c in box.relaxed.columns]) for side in ("lower", "upper"))
    points = lower + (upper - lower) * rng.random((40_000, len(answers)))
    counts = [F.space.columns[i].kind == "integer" for i in answers]
    points = np.where(counts, np.rint(points), points)
    rows = jnp.tile(y, (40_000, 1)).at[:, jnp.array(answers)].set(jnp.asarray(points, jnp.float32))
    context = F.context(y, F._inputs(jnp.ones(4, bool)))
    bends = np.asarray(F.over(rows[:, jnp.array(answers)], context), np.float64)
    energies = bends + float(F(y) - F.bent(y[jnp.array(answers)], context))
    assert np.mean(np.exp(-energies)) * np.prod(upper - lower) == pytest.approx(1.0, abs=0.03)
    # An answer that is missing is summed out; the inputs alone are certain.
    observed = jnp.ones(4, bool)
    np.testing.assert_allclose(F.marginal(y, observed), F(y), atol=1e-5)
    np.testing.assert_allclose(F.marginal(y, observed.at[jnp.array(answers)].set(False)), 0.0, atol=1e-5)
    values = jnp.linspace(0.0, 0.9, 3)
    along = F.column_energies(y, jnp.int32(answers[0]), values, observed)
    whole = jnp.stack([F(y.at[answers[0]].set(v)) for v in values])
    np.testing.assert_allclose(along - along[0], whole - whole[0], atol=1e-4)
    hidden = observed.at[jnp.array(answers)].set(False)
    along = F.column_energies(y, jnp.int32(answers[0]), values, hidden)
    known = hidden.at[answers[0]].set(True)
    whole = jnp.stack([F.marginal(y.at[answers[0]].set(v), known) for v in values])
    np.testing.assert_allclose(along - along[0], whole - whole[0], atol=0.02)
    # Of an input it is the energy with the input changed.
    other = jnp.array([0.0, 1.0])
    np.testing.assert_allclose(
        F.column_energies(y, jnp.int32(1), other, observed), [F(y.at[1].set(v)) for v in other], atol=1e-4
    )
    drawn_row = F.sample_given(y, hidden, key=jax.random.key(2))
    assert bool(jnp.all(jnp.where(hidden, drawn_row == y, True)))
    if 2 in answers:
        assert float(drawn_row[2]) in range(6)


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_finds_the_branches(loss):
    model = thalweg.fit(
        branches(1000, 2), "implicit", target="y", loss=loss, steps=800, calibrate=False, **SMALL
    )
    rows = branches(300, 3)
    # Counter-examples that the energy chooses itself make it flatter between its modes, and noisier.
    most = 0.25 if loss in ("near", "uniform", "nce") else 1.2
    assert float(np.mean(model.energy(rows) + log_p(rows["x"], rows["y"]))) < most


def table(n: int = 60) -> pa.Table:
    rng = np.random.default_rng(0)
    return pa.table(
        {
            "x": rng.normal(size=n),
            "kind": rng.choice(["a", "b"], n),
            "price": rng.integers(0, 400, n),
            "day": pa.array(np.datetime64("2024-01-01") + rng.integers(0, 300, n)),
            "same": np.ones(n),
        }
    )


def test_counts_and_dates_are_answers_too(tmp_path):
    few = {"steps": 20, "width": 8, "layers": 1, "progress": False}
    model = thalweg.fit(table(), "implicit", target="price", also="day", **few)
    answer = model.predict(table().slice(0, 4), modes=True)
    assert answer.to_table().column("price").type == pa.int64()
    assert answer.modes.answer.column("day").type == table().column("day").type
    sums = [answer.modes.probability[answer.modes.row == row].sum() for row in range(4)]
    np.testing.assert_allclose(sums, 1.0, atol=0.05)
    assert model.predict(table().slice(0, 4), target="day").value.type == table().column("day").type
    model.save(tmp_path / "model")
    np.testing.assert_array_equal(
        thalweg.load(tmp_path / "model").energy(table().slice(0, 5)), model.energy(table().slice(0, 5))
    )
    told = model.explain(table().slice(0, 2), pairs=True)
    assert told.columns == ("price", "day")
    assert np.isfinite(told.release).all()
    assert {pair["columns"] for pair in told.pairs} == {"price, day"}


def test_what_cannot_be_predicted_is_said():
    few = {"steps": 2, "width": 4, "progress": False}
    with pytest.raises(SettingsError, match="say which, target="):
        thalweg.fit(table(), "implicit", **few)
    with pytest.raises(SettingsError, match="'kind' is a category: fit classifier"):
        thalweg.fit(table(), "implicit", target="kind", **few)
    with pytest.raises((SettingsError, DataError, SchemaError), match="'same'"):
        thalweg.fit(table(), "implicit", target="same", **few)
    with pytest.raises(SettingsError, match="named more than once"):
        thalweg.fit(table(), "implicit", target="price", also="day, price", **few)
    with pytest.raises(SettingsError, match="no column 'prize'"):
        thalweg.fit(table(), "implicit", target="price", also="prize", **few)
    with pytest.raises(SettingsError, match="loss 'mse' is not known"):
        Settings(target="price", loss="mse")


def test_questions_about_inputs_are_declined(model):
    with pytest.raises(NotAnswered, match="says nothing about 'x'"):
        model.predict({"y": [0.1]}, target="x")
    with pytest.raises(NotAnswered, match="cannot draw"):
        model.sample(2)
