"""The classifier: normalised over its classes, right where the posterior is known, and silent about all else."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pytest
from scipy.special import log_softmax

import thalweg
from thalweg.errors import DataError, DataWarning, NotAnswered, SettingsError
from thalweg.models.classifier import CLASSIFIER
from thalweg.sklearn import EnergyClassifier

# Draws of a Gaussian lie beyond those of training.
pytestmark = pytest.mark.filterwarnings("ignore:.*outside the range of training")
MEANS = np.array([[-1.0, 0.5], [1.0, 0.0], [0.0, -1.5]])
SHARES = np.array([0.5, 0.3, 0.2])


def draw(n: int, seed: int) -> tuple[pa.Table, np.ndarray, np.ndarray]:
    """Three Gaussians of variance 1: rows, their class, and its posterior, which is linear in the logits."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, n, p=SHARES)
    points = MEANS[labels] + rng.normal(size=(n, 2))
    logits = np.log(SHARES) - ((points[:, None] - MEANS) ** 2).sum(axis=2) / 2
    table = pa.table({"a": points[:, 0], "kind": np.array(["x", "y", "z"])[labels], "b": points[:, 1]})
    return table, labels, log_softmax(logits, axis=1)


@pytest.fixture(scope="module")
def fitted():
    return thalweg.fit(draw(3000, 0)[0], "classifier", target="kind", network="linear", progress=False)


def test_the_posterior_is_found(fitted):
    """The mean divergence from the true posterior is that of some ten parameters fitted to 2,500 rows."""
    table, _, log_p = draw(2000, 1)
    answer = fitted.predict(table)
    assert answer.levels == ["x", "y", "z"]
    divergence = np.sum(np.exp(log_p) * (log_p - np.log(answer.probabilities)), axis=1).mean()
    # Half a nat for each of six free weights over 2,500 rows is .0012.
    assert 0 <= divergence < 0.005
    assert float(fitted.F.beta) == pytest.approx(1, abs=0.2)


def test_energies_are_log_probabilities_of_the_answer(fitted):
    table, _, _ = draw(50, 2)
    shares = fitted.predict(table).probabilities
    energies = [
        fitted.energy(table.set_column(1, "kind", pa.array([level] * 50))) for level in ("x", "y", "z")
    ]
    np.testing.assert_allclose(np.exp(-np.stack(energies, axis=1)), shares, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(fitted.energy(table.drop_columns(["kind"])), 0, atol=1e-6)


def test_an_unlikely_answer_is_odd(fitted):
    table, _, log_p = draw(400, 3)
    worst = pa.array(np.array(["x", "y", "z"])[log_p.argmin(axis=1)])
    flagged = fitted.score(table.set_column(1, "kind", worst), alpha=0.05).flag
    assert flagged.mean() > 0.6
    assert fitted.score(table, alpha=0.05).flag.mean() < 0.1


def test_it_fills_and_draws_its_answer_alone(fitted):
    table, _, _ = draw(200, 4)
    open_ = table.set_column(1, "kind", pa.array([None] * 200, pa.string()))
    filled = fitted.complete(open_)["kind"].to_pylist()
    assert filled == fitted.predict(table).value.to_pylist()
    drawn = fitted.sample(3000, given={"a": 0.3, "b": -0.4})["kind"].to_pylist()
    shares = fitted.predict(pa.table({"a": [0.3], "b": [-0.4]})).probabilities[0]
    counts = np.array([drawn.count(level) for level in ("x", "y", "z")]) / 3000
    np.testing.assert_allclose(counts, shares, atol=4 * np.sqrt(0.25 / 3000))
    with pytest.raises(NotAnswered, match=r"is of 'kind' given the other columns.*missing in row 0 is 'a'"):
        fitted.complete(pa.table({"a": pa.array([None], pa.float64()), "b": [0.0], "kind": ["x"]}))
    with pytest.raises(NotAnswered, match="cannot fill these: missing are 'a', 'b'; fit"):
        fitted.sample(3, given={"kind": "x"})
    with pytest.raises(NotAnswered, match="which it cannot draw"):
        fitted.sample(3)
    with pytest.raises(NotAnswered, match="says nothing about 'a'"):
        fitted.predict(table, "a")
    with pytest.raises(NotAnswered, match="denoise is about whole rows"):
        fitted.denoise(table)


def test_a_missing_input_is_read_as_missing(fitted):
    """Nothing at an unknown place is read, and neither is what stands at the answer's."""
    values, other = jnp.array([0.7, 1.0, -0.2]), jnp.array([9.0, 2.0, -0.2])
    known = jnp.array([False, False, True])
    energies = fitted.F.class_energies(values, known)
    np.testing.assert_array_equal(energies, fitted.F.class_energies(other, known))
    assert jnp.all(jnp.isfinite(jax.grad(lambda y: fitted.F.class_energies(y, known)[0])(values)))


def test_along_an_input_the_energy_is_that_of_the_answer(fitted):
    y, known = jnp.array([0.7, 1.0, -0.2]), jnp.ones(3, bool)
    tried = jnp.array([-1.0, 0.0, 2.0])
    found = fitted.F.column_energies(y, jnp.int32(0), tried, known)
    np.testing.assert_allclose(found, [fitted.F(y.at[0].set(v)) for v in tried], rtol=1e-6)


def test_holes_hidden_in_training_make_rows_with_holes_readable():
    """Of the first number alone the posterior is known; a network that never saw a hole takes it for the mean."""
    rng = np.random.default_rng(7)
    b = rng.normal(3.0, 1.0, 4000)
    a = b + 0.1 * rng.normal(size=4000)
    table = pa.table({"a": a, "b": b, "sign": np.where(a + b > 6, "up", "down")})
    model = thalweg.fit(table, "classifier", target="sign", hide=0.3, progress=False)
    asked = pa.table({"a": [1.5, 4.5], "b": pa.array([None, None], pa.float64())})
    assert model.predict(asked).value.to_pylist() == ["down", "up"]


def test_scikit_learn_takes_it_by_name():
    table, labels, _ = draw(600, 5)
    X = np.stack([table["a"].to_numpy(), table["b"].to_numpy()], axis=1)
    model = EnergyClassifier("classifier", settings={"network": "linear", "steps": 300}).fit(X, labels)
    assert model.score(X, labels) > 0.65


def test_what_it_is_not_for():
    table, _, _ = draw(100, 6)
    with pytest.raises(SettingsError, match="predicts one column from the others: say which"):
        thalweg.fit(table, "classifier")
    with pytest.raises(SettingsError, match="'a' is a number: fit implicit"):
        thalweg.fit(table, "classifier", target="a", progress=False)
    with pytest.raises(SettingsError, match="the target is 'kind', and the setting 'target' says 'b'"):
        CLASSIFIER.aimed(CLASSIFIER.configure({"target": "b"}), "kind")
    with pytest.raises(SettingsError, match="there is no loss 'hing'"):
        CLASSIFIER.configure({"loss": "hing"})
    with pytest.raises(SettingsError, match="hide is a share from 0 up to below 1, not 2"):
        CLASSIFIER.configure({"hide": "2"})
    with pytest.raises(SettingsError, match="at least one step, not -5"):
        thalweg.fit(table, "classifier", target="kind", steps=-5, progress=False)
    with pytest.raises(SettingsError, match="network 'mpl' is not known"):
        CLASSIFIER.configure({"network": "mpl"})
    with pytest.raises(SettingsError, match="convolutions are for images"):
        thalweg.fit(table, "classifier", target="kind", network="conv", progress=False)
    with pytest.raises(DataError, match="has no column 'kin' to predict"):
        thalweg.fit(table, "classifier", target="kin", progress=False)
    with pytest.raises(SettingsError, match="none is left to predict it from"):
        thalweg.fit(table.select(["kind"]), "classifier", target="kind", progress=False)


def test_rows_without_an_answer_are_left_out():
    table, _, _ = draw(200, 8)
    holes = table.set_column(1, "kind", pa.array([None, *table["kind"].to_pylist()[1:]]))
    with pytest.warns(DataWarning, match="1 rows that do not say what 'kind' is are left out"):
        # Every row trains, so that the one without an answer does.
        thalweg.fit(holes, "classifier", target="kind", steps=2, calibrate=False, seed=1, progress=False)
    # Nor do they say what is usual.
    half = table.set_column(
        1, "kind", pa.array([k if i % 2 else None for i, k in enumerate(table["kind"].to_pylist())])
    )
    with pytest.warns(DataWarning, match="are left out"):
        model = thalweg.fit(half, "classifier", target="kind", steps=2, seed=1, progress=False)
    assert model.calibration.rows.observed.all()


def test_names_and_units_are_no_part_of_what_is_compiled(fitted):
    y, known = jnp.array([0.7, 1.0, -0.2]), jnp.ones(3, bool)
    bare = fitted.F.bare()
    np.testing.assert_array_equal(bare.class_energies(y, known), fitted.F.class_energies(y, known))
    assert not set(bare.space.names) & {"a", "b", "kind"}
    assert eqx.tree_equal(bare.energy.network.last, fitted.F.energy.network.last)
