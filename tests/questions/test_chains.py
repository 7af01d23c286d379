"""Answers by chains, against enumeration and closed forms: conditional probabilities, means, draws and predictions."""

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pytest

import thalweg
from thalweg.data.dataset import Dataset
from thalweg.data.rows import Rows
from thalweg.data.schema import Schema
from thalweg.energy.base import FunctionEnergy
from thalweg.energy.spaces import Binary, Column, Real, Record
from thalweg.errors import ChainWarning, NotAnswered, SettingsError
from thalweg.models.ising import BoltzmannMachine, Ising
from thalweg.models.rbm import RBM, rbm
from thalweg.questions import chains, complete, methods, predict, sample


def coded(values, observed=None) -> Rows:
    values = np.asarray(values, np.float32)
    observed = np.ones(values.shape, bool) if observed is None else np.asarray(observed)
    return Rows(np.where(observed, values, 0), observed, np.zeros(len(values), np.int64))


class Enumerated:
    """All points of a finite space and their probabilities."""

    def __init__(self, F):
        self.points = np.asarray(F.space.points())
        energies = np.asarray(jax.jit(jax.vmap(F))(self.points), np.float64)
        self.p = np.exp(energies.min() - energies) / np.exp(energies.min() - energies).sum()

    def given(self, y, observed) -> np.ndarray:
        """The probability of each point given the observed cells."""
        p = self.p * (self.points[:, observed] == y[observed]).all(axis=1)
        return p / p.sum()

    def marginal(self, p, i) -> np.ndarray:
        return np.bincount(self.points[:, i].astype(int), weights=p)


SPACE = Record(
    (
        Column("shade", "categorical", size=3),
        Column("ripe", "categorical", size=2),
        Column("seeds", "integer", size=4, center=1.5, spread=1.1),
        Column("kind", "categorical", size=4),
        Column("sweet", "categorical", size=2),
    )
)
BITS = Record(tuple(Column(f"b{i}", "categorical", size=2) for i in range(6)))


def small_rbm() -> RBM:
    return rbm(SPACE, 5, key=jax.random.key(3), scale=0.8)


def small_ising() -> Ising:
    couplings, bias = jax.random.split(jax.random.key(4))
    return Ising(BITS, 0.4 * jax.random.normal(couplings, (6, 6)), 0.3 * jax.random.normal(bias, (6,)))


def small_machine() -> BoltzmannMachine:
    across, among = jax.random.split(jax.random.key(5))
    hidden = 0.4 * jax.random.normal(across, (2, 6)), 0.4 * jax.random.normal(among, (2, 2))
    return BoltzmannMachine(small_ising(), *hidden, jnp.zeros(2))


def small_sum():
    """The generic Gibbs kernel, of an energy that knows nothing about itself."""
    return small_ising() + 0.5 * small_machine()


FINITE = {"rbm": small_rbm, "ising": small_ising, "boltzmann machine": small_machine, "sum": small_sum}


def holes(F, n: int) -> Rows:
    """Points drawn uniformly, about half of their cells missing."""
    generator = np.random.default_rng(6)
    points = np.asarray(F.space.points())
    return coded(points[generator.integers(0, len(points), n)], generator.random((n, points.shape[1])) < 0.5)


@pytest.mark.parametrize(
    "name", ["rbm", "ising", "sum", pytest.param("boltzmann machine", marks=pytest.mark.slow)]
)
def test_completions_and_predictions_are_those_of_enumeration(name):
    F, truth = FINITE[name](), Enumerated(FINITE[name]())
    rows = holes(F, 24)
    walker = chains.Walker(F, rows)
    guess = complete.best_guess(F, rows, walker)
    categories = F.space.where("categorical")
    schema = schema_of(F.space)
    for i, column in enumerate(F.space.columns):
        exact = [
            truth.marginal(truth.given(y, o), i) for y, o in zip(rows.values, rows.observed, strict=True)
        ]
        for r in np.flatnonzero(~rows.observed[:, i]):
            if i in categories:
                assert exact[r].max() - exact[r][int(guess[r, i])] < 0.1, (column.name, r)
            else:
                assert guess[r, i] == pytest.approx(exact[r] @ np.arange(column.size), abs=0.1)
        if i in (0, 2):
            # A target is never read, so the truth has it missing too.
            hidden = Rows(rows.values, rows.observed & (np.arange(len(F.space.columns)) != i), rows.unseen)
            due = [
                truth.marginal(truth.given(y, o), i)
                for y, o in zip(rows.values, hidden.observed, strict=True)
            ]
            context = predict.unread(F, rows, i, walker, None)
            shares = predict.conditional(F, context, i, schema, lambda j: np.arange(F.space.columns[j].size))[
                2
            ]
            np.testing.assert_allclose(shares, due, atol=0.06)


def schema_of(space: Record) -> Schema:
    """A schema with this space, for the questions that ask for one."""
    points = np.asarray(space.points()).astype(int)
    cells = {
        c.name: [f"level{v}" for v in points[:, i]] if c.kind == "categorical" else points[:, i]
        for i, c in enumerate(space.columns)
    }
    return Schema.infer(Dataset(pa.table(cells), "points"))


@pytest.mark.parametrize(
    "name", ["rbm", "ising", *(pytest.param(n, marks=pytest.mark.slow) for n in ("boltzmann machine", "sum"))]
)
def test_draws_have_the_enumerated_probabilities(name):
    F, truth = FINITE[name](), Enumerated(FINITE[name]())
    walker, n = chains.Walker(F, holes(F, 30)), 3000
    held = coded(truth.points[7:8], [np.arange(truth.points.shape[1]) == 1])
    for p, drawn in (
        (truth.p, sample.draw(F, n, None, 1, walker)),
        (truth.given(held.values[0], held.observed[0]), sample.draw(F, n, held, 2, walker)),
        (truth.given(held.values[0], held.observed[0]), complete.draws(F, held, n, 3, walker)),
    ):
        sizes = [c.size for c in F.space.columns]
        found = np.bincount(np.ravel_multi_index(drawn.astype(int).T, sizes), minlength=len(p)) / n
        # Points in groups of equal probability: five deviations of a share of so many draws.
        groups = np.array_split(np.argsort(p), 12)
        for group in groups:
            share = p[group].sum()
            assert abs(found[group].sum() - share) < 5 * np.sqrt(share * (1 - share) / n) + 1e-9


COVARIANCE = np.array([[1, 0.8, 0.3, 0], [0.8, 1, 0.5, 0.1], [0.3, 0.5, 1, -0.4], [0, 0.1, -0.4, 1.0]])
MEAN = np.array([0.5, 0, 0, -1])


@pytest.fixture(scope="module")
def gaussian() -> FunctionEnergy:
    precision = jnp.asarray(np.linalg.inv(COVARIANCE), jnp.float32)
    mean = jnp.asarray(MEAN, jnp.float32)
    space = Record(tuple(Column(name, "real", lower=-8.0, upper=8.0) for name in "abcd"))
    return FunctionEnergy(lambda y: (y - mean) @ precision @ (y - mean) / 2, space)


def gaussian_rows(n: int) -> Rows:
    generator = np.random.default_rng(0)
    return coded(generator.multivariate_normal(MEAN, COVARIANCE, n), generator.random((n, 4)) < 0.5)


def conditional(y, observed):
    """Mean and covariance of the missing part."""
    missing = ~observed
    cross = COVARIANCE[np.ix_(missing, observed)] @ np.linalg.inv(COVARIANCE[np.ix_(observed, observed)])
    mean = MEAN[missing] + cross @ (y[observed] - MEAN[observed])
    return mean, COVARIANCE[np.ix_(missing, missing)] - cross @ COVARIANCE[np.ix_(observed, missing)]


def test_a_gaussian_function_is_completed_by_its_conditional(gaussian):
    rows = gaussian_rows(40)
    walker = chains.Walker(gaussian, rows)
    guess = complete.best_guess(gaussian, rows, walker)
    apart = []
    for r in np.flatnonzero(~rows.complete):
        mean, covariance = conditional(rows.values[r], rows.observed[r])
        apart += list((guess[r, ~rows.observed[r]] - mean) / np.sqrt(np.diag(covariance)))
    # 512 states, worth half as many at least: an error of 0.063 deviations, and none of it common to all rows.
    assert np.sqrt(np.mean(np.square(apart))) < 0.063
    assert abs(np.mean(apart)) < 0.03
    drawn = complete.draws(gaussian, rows[:1], 2000, 0, walker)[:, ~rows.observed[0]]
    mean, covariance = conditional(rows.values[0], rows.observed[0])
    np.testing.assert_allclose(drawn.mean(axis=0), mean, atol=5 * np.sqrt(covariance.max() / 2000))
    np.testing.assert_allclose(
        np.cov(drawn.T), np.squeeze(covariance), atol=5 * covariance.max() * np.sqrt(2 / 2000)
    )


def test_a_number_is_predicted_with_what_else_is_missing_averaged_out(gaussian):
    table = pa.table(
        dict(zip("abcd", np.random.default_rng(1).multivariate_normal(MEAN, COVARIANCE, 400).T, strict=True))
    )
    schema = Schema.infer(Dataset(table, "four"))
    stretched = jnp.asarray([c.std for c in schema.columns], jnp.float32)
    middle = jnp.asarray([c.mean for c in schema.columns], jnp.float32)
    F = FunctionEnergy(lambda y: gaussian(y * stretched + middle), schema.space)
    rows = schema.encode(table.slice(0, 6).set_column(1, "b", pa.nulls(6, pa.float64())), partial=True)
    answer = predict.predict(
        F, rows, 0, schema, 0, 0, schema.candidates, chains.Walker(F, schema.encode(table))
    )
    cells = table.slice(0, 6).to_pandas().to_numpy()
    for r in range(6):
        mean, covariance = conditional(cells[r], np.array([False, False, True, True]))
        assert answer.mean[r] == pytest.approx(mean[0], abs=0.15)
        assert answer.std[r] == pytest.approx(np.sqrt(covariance[0, 0]), rel=0.12)
        assert answer.value[r].as_py() == pytest.approx(mean[0], abs=0.3)
        low, high = answer.quantiles[0.05][r].as_py(), answer.quantiles[0.95][r].as_py()
        assert high - low == pytest.approx(2 * 1.645 * np.sqrt(covariance[0, 0]), rel=0.15)


def test_numbers_and_categories_together_are_drawn_by_both_moves():
    """p(kind) = softmax(-bias), number | kind ~ N(centre[kind], 0.5²): so p(kind | number) by Bayes."""
    bias, centre = np.array([0.0, 0.5, 1.0]), np.array([-1.0, 0.0, 1.5])
    space = Record((Column("number", "real", lower=-9.0, upper=9.0), Column("kind", "categorical", size=3)))

    def energy(y):
        kind = y[1].astype(jnp.int32)
        return 2 * (y[0] - jnp.asarray(centre, jnp.float32)[kind]) ** 2 + jnp.asarray(bias, jnp.float32)[kind]

    F = FunctionEnergy(energy, space)
    generator = np.random.default_rng(2)
    walker = chains.Walker(
        F, coded(np.stack([generator.normal(size=50), generator.integers(0, 3, 50)], axis=1))
    )
    p = np.exp(-bias) / np.exp(-bias).sum()
    drawn = sample.draw(F, 2000, None, 0, walker)
    shares = np.bincount(drawn[:, 1].astype(int)) / 2000
    np.testing.assert_allclose(shares, p, atol=5 * np.sqrt(0.25 / 2000))
    for kind in range(3):
        part = drawn[drawn[:, 1] == kind, 0]
        assert part.mean() == pytest.approx(centre[kind], abs=2.5 / np.sqrt(len(part)))
        assert part.std() == pytest.approx(0.5, abs=2.5 / np.sqrt(2 * len(part)))
    at = np.float32(0.6)
    posterior = p * np.exp(-2 * (at - centre) ** 2)
    held = coded([[at, 0]], [[True, False]])
    shares = np.bincount(sample.draw(F, 2000, held, 0, walker)[:, 1].astype(int), minlength=3) / 2000
    np.testing.assert_allclose(shares, posterior / posterior.sum(), atol=5 * np.sqrt(0.25 / 2000))


# --- a fitted model --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    generator = np.random.default_rng(0)
    hidden = generator.random((300, 2)) < 0.5
    noisy = hidden.repeat(2, axis=1) ^ (generator.random((300, 4)) < 0.1)
    data = {name: np.where(bits, "yes", "no") for name, bits in zip("abcd", noisy.T, strict=True)}
    quiet = {"progress": False, "log": lambda line: None}
    return thalweg.fit(
        data | {"size": 2.0 * hidden[:, 0] + generator.normal(size=300)}, "rbm", hidden=4, steps=600, **quiet
    )


def test_a_rows_answer_does_not_depend_on_the_others_and_comes_again(model):
    table = pa.table(
        {
            "a": ["yes", None, "no", None, "yes"] * 20,
            "b": [None, "no", "no", None, "yes"] * 20,
            "c": ["yes", "no", None, None, None] * 20,
            "d": ["yes"] * 100,
            "size": [None, 0.3, 1.1, None, 2.0] * 20,
        }
    )
    whole, few = model.complete(table), model.complete(table.slice(3, 4))
    assert few.to_pydict() == whole.slice(3, 4).to_pydict()
    assert whole.slice(0, 5).to_pydict() == whole.slice(5, 5).to_pydict()
    predicted, again = model.predict(table, "b"), model.predict(table.slice(3, 4), "b")
    np.testing.assert_array_equal(predicted.probabilities[3:7], again.probabilities)
    drawn = model.complete(table.slice(0, 3), n=4, seed=5)
    assert drawn.to_pydict() == model.complete(table.slice(0, 3), n=4, seed=5).to_pydict()
    assert drawn.to_pydict() != model.complete(table.slice(0, 3), n=4, seed=6).to_pydict()
    assert model.sample(9, seed=2).slice(0, 3).to_pydict() == model.sample(3, seed=2).to_pydict()


def test_observed_cells_stay_and_given_cells_are_held(model):
    rows = pa.table(
        {"a": ["yes", None], "b": [None, "no"], "c": ["no", "no"], "d": ["no", None], "size": [3.5, None]}
    )
    for filled in (model.complete(rows), model.complete(rows, n=2).take([0, 2])):
        assert filled["a"][0].as_py() == "yes"
        assert filled["size"][0].as_py() == 3.5
        assert filled.to_pandas().notna().all(axis=None)
    drawn = model.sample(200, given={"a": "yes", "size": 2.5})
    assert set(drawn["a"].to_pylist()) == {"yes"}
    np.testing.assert_allclose(drawn["size"].to_numpy(), 2.5, rtol=1e-6)
    points = np.array([[1, b, c, d, 0] for b in (0, 1) for c in (0, 1) for d in (0, 1)], np.float32)
    points[:, 4] = model.schema.encode(drawn.slice(0, 1)).values[0, 4]
    weights = np.exp(-np.asarray(jax.vmap(model.F)(points), np.float64))
    due = weights[4:].sum() / weights.sum()
    assert np.mean(np.array(drawn["b"].to_pylist()) == "yes") == pytest.approx(
        due, abs=4 * 0.5 / np.sqrt(200)
    )


def test_steps_are_checked(model):
    with pytest.raises(SettingsError, match="a chain takes at least 256 steps, not 5"):
        model.sample(2, steps=5)
    assert model.sample(2, steps=256).num_rows == 2


# --- what is said when chains cannot be trusted ----------------------------------------------------------------------


def test_modes_that_chains_do_not_leave_are_told_with_the_remedy():
    F = FunctionEnergy(
        lambda y: 60 * (1 - y[0] ** 2) ** 2, Record((Column("x", "real", lower=-3.0, upper=3.0),))
    )
    walker = chains.Walker(F, coded([[-1.0], [1.0], [0.9], [-1.1]]))
    with pytest.warns(
        ChainWarning, match=r"do not agree yet \(R-hat is .* for 'x'.*steps=2400, --steps 2400"
    ):
        chains.states(walker, coded([[0.0]], [[False]]), None)


@pytest.mark.slow
def test_one_row_among_many_whose_chains_are_stuck_is_told():
    """Two wells where `at` is 1, one where it is 0."""

    def energy(y):
        return jnp.where(y[1] > 0.5, 60 * (1 - y[0] ** 2) ** 2, 2 * y[0] ** 2)

    F = FunctionEnergy(
        energy, Record((Column("x", "real", lower=-3.0, upper=3.0), Column("at", "categorical", size=2)))
    )
    rows = coded([[0, 0]] * 400 + [[0, 1]] * 2, [[False, True]] * 402)
    walker = chains.Walker(F, coded([[-1.0, 0], [1.0, 0], [0.9, 0], [-1.1, 0]]))
    with pytest.warns(ChainWarning, match="in 2 of 402 rows the chains stayed in different places"):
        chains.states(walker, rows, None)


def test_chains_of_a_picture_start_at_the_rows_that_are_nearest_by_its_known_pixels():
    space = Record(tuple(Column(f"p{i}", "real", pixel=True, place=(0, i)) for i in range(3)))
    pool = jnp.array([[0.0, 5.0, 50.0], [1.0, 6.0, 60.0], [4.0, 7.0, 70.0]])
    y, known = jnp.array([3.0, 0.0, 0.0]), jnp.array([True, False, False])
    for number, row in enumerate((2, 1, 0, 2)):
        found = chains._first(space, pool, y, known, jnp.uint32(number), jax.random.key(number))
        np.testing.assert_array_equal(found, pool[row])
    starts = [
        chains._first(space, pool, y, jnp.zeros(3, bool), jnp.uint32(0), jax.random.key(i)) for i in range(20)
    ]
    assert len({tuple(start.tolist()) for start in starts}) > 3


def test_a_given_that_the_energy_forbids_is_told():
    space = Record((Column("x", "real", lower=-3.0, upper=3.0), Column("at", "categorical", size=2)))
    F = FunctionEnergy(lambda y: jnp.where(y[1] > 0.5, jnp.inf, y[0] ** 2), space)
    walker = chains.Walker(F, coded([[-1.0, 0], [1.0, 0]]))
    with pytest.warns(ChainWarning, match="4 of 4 chains ended where the energy is no finite number"):
        chains.draws(walker, coded([[0, 1]], [[False, True]]), 4, 0, None)


def test_a_distance_has_no_draws():
    model = thalweg.fit("wine", "kmeans", clusters=2, progress=False)
    for ask in (
        lambda: model.sample(2),
        lambda: model.complete(thalweg.data.load("wine").table.slice(0, 2), n=2),
    ):
        with pytest.raises(NotAnswered, match=r"KMeans is a distance.*fit gmm, pca or orderless"):
            ask()
    assert methods(type(model.F))["sample"] is None


@pytest.mark.parametrize("kind", [RBM, Ising, BoltzmannMachine, FunctionEnergy])
def test_methods_say_how(kind):
    said = methods(kind)
    assert said["sample"].startswith("chains: ")
    assert said["complete"].startswith("chains: ")
    assert "clamped chains where other cells are missing" in said["predict"]


def test_energies_over_bits_and_reals_have_a_kernel():
    """What is no row of a table can be drawn too."""
    for space in (Binary((3,)), Real((2,), -1.0, 1.0)):
        F = FunctionEnergy(lambda y: jnp.sum(y), space)
        assert chains.Walker(F, coded(np.zeros((2, space.shape[0])))).kernel is not None
