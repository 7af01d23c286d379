"""Losses of conditional energies over every kind of search: values and gradients against closed forms in float64."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learning.chain import Chain
from thalweg.energy import AbstractEnergy, Categorical, Column, Real, Record, energy_of
from thalweg.energy.capabilities import AbstractFewAnswers
from thalweg.energy.chain import Chain as Markov
from thalweg.errors import SettingsError
from thalweg.inference import Gradient
from thalweg.learning.answers import LOSSES, HingeLoss, NegativeLogLikelihood, PerceptronLoss, answer_loss
from thalweg.learning.objective import EnergyLoss
from thalweg.learning.penalty import Ridge
from thalweg.learning.rows import Pairs
from thalweg.learning.search import AnswerSearch

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
BETA = 0.7
FEATURES = RNG.normal(size=(5, 4))
SEARCH = AnswerSearch(starts=6, nodes=64, shifted=False, solver=Gradient(optax.adam(0.05), steps=150))


class Listed(AbstractFewAnswers):
    """An energy for each of nine answers, linear in the input, all in one pass."""

    weights: jax.Array
    space: Categorical = Categorical((2,), 3)

    def answer_energies(self, x=None):
        return self.weights @ x

    def __call__(self, y, x=None):
        return self.answer_energies(x)[(3 * y[0] + y[1]).astype(int)]


class Unlisted(AbstractEnergy):
    """The same energy, an answer at a time."""

    weights: jax.Array
    space: Categorical = Categorical((2,), 3)

    def __call__(self, y, x=None):
        return self.weights[(3 * y[0] + y[1]).astype(int)] @ x


class Wells(AbstractEnergy):
    r"""\(a (y^2 - x)^2 + b y + c\): two answers to every input, one of them better."""

    abc: jax.Array
    space: Real = Real((), -2.0, 2.0)

    def __call__(self, y, x=None):
        a, b, c = self.abc
        return a * (y**2 - x) ** 2 + b * y + c


def of_answers(energies, slopes, right, free=None):
    """(value, gradient) of each energy that a loss may want, of all answers of one input in float64."""
    others = np.where(np.arange(len(energies)) == right, np.inf, energies)
    shares = np.exp(-BETA * (energies - energies.min()))
    log_sum = np.log(shares.sum()) - BETA * energies.min()
    at = {"right": right, "wrong": others.argmin(), "least": energies.argmin()}
    found = {name: (energies[i], slopes[i]) for name, i in at.items()}
    free = (-log_sum / BETA, shares @ slopes / shares.sum())
    return found | {"free": free, "right and wrong": free}


def listed(kind):
    weights, x = RNG.normal(size=(9, 4)), FEATURES
    y = np.array([[0, 0], [2, 1], [1, 2], [0, 1], [2, 2]])
    rows = []
    for features, answer in zip(x, y, strict=True):
        slopes = np.einsum("nm,f->nmf", np.eye(9), features).reshape(9, -1)
        rows.append(of_answers(weights @ features, slopes, 3 * answer[0] + answer[1]))
    return kind(jnp.asarray(weights, jnp.float32)), Pairs(x, y), rows


def chain():
    """Sequences of up to three labels of three; what lies beyond their ends is masked, and 0."""
    unary, pair = RNG.normal(size=(3, 3, 2)), RNG.normal(size=(3, 3))
    x, lengths = RNG.normal(size=(5, 3, 2)), np.array([3, 2, 1, 3, 2])
    kept = np.arange(3) < lengths[:, None]
    y = np.where(kept, RNG.integers(0, 3, (5, 3)), 0)
    rows = []
    for features, length, answer in zip(x, lengths, y, strict=True):
        answers = np.stack(np.meshgrid(*[np.arange(3)] * length, indexing="ij"), -1).reshape(-1, length)
        slopes = []
        for labels in answers:
            by_unary, by_pair = np.zeros_like(unary), np.zeros_like(pair)
            for i, label in enumerate(labels):
                by_unary[i, label] += features[i]
            for a, b in itertools.pairwise(labels):
                by_pair[a, b] += 1
            slopes.append(np.concatenate([by_unary.reshape(-1), by_pair.reshape(-1)]))
        theta = np.concatenate([unary.reshape(-1), pair.reshape(-1)])
        right = int(np.flatnonzero((answers == answer[:length]).all(1))[0])
        rows.append(of_answers(np.array(slopes) @ theta, np.array(slopes), right))
    return Chain(unary, pair), Pairs((x, kept), y), rows


def wells():
    """A grid of 40,001 answers for the minima, and a sum over it for the integral."""
    abc, x = np.array([0.8, 0.3, 1.0]), np.array([0.3, 0.9, 1.4, 1.0, 0.6])
    y = np.array([0.5, -0.9, 1.2, 1.5, -0.8])
    grid = np.linspace(-2, 2, 40001)
    rows = []
    for at, answer in zip(x, y, strict=True):
        slopes = np.stack([(grid**2 - at) ** 2, grid, np.ones_like(grid)], 1)
        energies = slopes @ abc
        shares = np.exp(-BETA * energies)
        integral = shares.sum() * (grid[1] - grid[0])
        away = np.where(np.abs(grid - answer) < SEARCH.radius, np.inf, energies)
        places = {"right": np.abs(grid - answer).argmin(), "wrong": away.argmin(), "least": energies.argmin()}
        row = {name: (energies[i], slopes[i]) for name, i in places.items()}
        row["free"] = (-math.log(integral) / BETA, shares @ slopes / shares.sum())
        nodes = -2 + 4 * (np.arange(SEARCH.nodes) + 0.5) / SEARCH.nodes
        some = np.append(nodes[np.abs(nodes - answer) >= SEARCH.radius], answer)
        slopes = np.stack([(some**2 - at) ** 2, some, np.ones_like(some)], 1)
        shares = np.exp(-BETA * slopes @ abc)
        row["right and wrong"] = (-math.log(shares.sum()) / BETA, shares @ slopes / shares.sum())
        rows.append(row)
    return Wells(jnp.asarray(abc, jnp.float32)), Pairs(x, y), rows


#: Each kind of search: a problem, and to what it is solved.
KINDS = {
    "few answers": (lambda: listed(Listed), 1e-5),
    "enumeration": (lambda: listed(Unlisted), 1e-5),
    "structured": (chain, 1e-5),
    "descent": (wells, 3e-3),
}


def sigmoid(t):
    return 1 / (1 + math.exp(-t))


#: Each loss: which energy it sets against that of the right answer, its value, and its two partial derivatives.
TABLE = {
    "energy": ("right", lambda c, o: c, lambda c, o: (1, 0)),
    "perceptron": ("least", lambda c, o: c - o, lambda c, o: (1, -1)),
    "hinge": ("wrong", lambda c, o: max(0, 2 + c - o), lambda c, o: (float(2 + c > o), -float(2 + c > o))),
    "log": (
        "wrong",
        lambda c, o: math.log1p(math.exp(c - o)),
        lambda c, o: (sigmoid(c - o), -sigmoid(c - o)),
    ),
    "lvq2": (
        "wrong",
        lambda c, o: min(1, max(0, c - o)),
        lambda c, o: (float(0 < c - o < 1), -float(0 < c - o < 1)),
    ),
    "mce": (
        "wrong",
        lambda c, o: sigmoid(c - o),
        lambda c, o: (sigmoid(c - o) * sigmoid(o - c), -sigmoid(c - o) * sigmoid(o - c)),
    ),
    "square-square": (
        "wrong",
        lambda c, o: c**2 + max(0, 2 - o) ** 2,
        lambda c, o: (2 * c, -2 * max(0, 2 - o)),
    ),
    "square-exp": ("wrong", lambda c, o: c**2 + math.exp(-o), lambda c, o: (2 * c, -math.exp(-o))),
    "nll": ("free", lambda c, o: c - o, lambda c, o: (1, -1)),
    "mee": (
        "right and wrong",
        lambda c, o: 1 - math.exp(-BETA * (c - o)),
        lambda c, o: (BETA * math.exp(-BETA * (c - o)), -BETA * math.exp(-BETA * (c - o))),
    ),
}


@functools.cache
def problem(kind):
    energy, pairs, rows = KINDS[kind][0]()
    return (
        energy,
        jax.tree.map(lambda a: jnp.asarray(a, None if a.dtype == bool else jnp.float32), pairs),
        rows,
    )


@functools.cache
def found(kind):
    """Loss, metrics and gradient of every loss, in one program."""
    energy, pairs, _ = problem(kind)

    @jax.jit
    def all_of_them(energy, pairs):
        def of(name):
            loss = answer_loss(name, margin=2.0, beta=BETA, search=SEARCH)
            return jax.value_and_grad(lambda e: loss(e, pairs, None, key=KEY), has_aux=True)(energy)

        return {name: of(name) for name in LOSSES}

    return jax.tree.map(np.asarray, all_of_them(energy, pairs))


def test_the_table_of_names_is_whole():
    assert set(TABLE) == set(LOSSES)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TABLE)
def test_values_and_gradients(name, kind):
    (loss, (_, metrics)), gradient = found(kind)[name]
    _, _, rows = problem(kind)
    other, value, partials = TABLE[name]
    pairs = [(row["right"], row[other]) for row in rows]
    tolerance = KINDS[kind][1]
    expected = np.mean([value(c, o) for (c, _), (o, _) in pairs])
    np.testing.assert_allclose(loss, expected, rtol=tolerance, atol=tolerance)
    slopes = [
        by_right * slope_c + by_other * slope_o
        for (c, slope_c), (o, slope_o) in pairs
        for by_right, by_other in [partials(c, o)]
    ]
    flat = np.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(gradient)])
    flat = flat[: len(slopes[0])]  # the costs of a chain come last
    np.testing.assert_allclose(flat, np.mean(slopes, axis=0), rtol=20 * tolerance, atol=2 * tolerance)
    np.testing.assert_allclose(metrics["data_energy"], np.mean([c for (c, _), _ in pairs]), rtol=tolerance)
    if name not in ("energy", "nll", "mee"):
        margin = np.mean([o - c for (c, _), (o, _) in pairs])
        np.testing.assert_allclose(metrics["margin"], margin, atol=2 * tolerance, rtol=tolerance)


@pytest.mark.parametrize("kind", ["few answers", "structured"])
def test_the_margin_of_the_likelihood_is_that_to_the_free_energy_of_wrong_answers(kind):
    (_, (_, metrics)), _ = found(kind)["nll"]
    odds = []
    for row in problem(kind)[2]:
        share = math.exp(-BETA * (row["right"][0] - row["free"][0]))
        odds.append(math.log(share / (1 - share)) / BETA)
    np.testing.assert_allclose(metrics["margin"], np.mean(odds), rtol=1e-4)


def test_the_spread_is_over_the_answers_of_other_rows():
    energy, pairs, _ = problem("few answers")
    weights, x, y = np.asarray(energy.weights), np.asarray(pairs.x), np.asarray(pairs.y).astype(int)
    table = x @ weights.T
    ranks = 3 * y[:, 0] + y[:, 1]
    rows = np.arange(5)
    ahead = table[rows, np.roll(ranks, 1)] - table[rows, ranks]
    square = ahead**2
    for name in LOSSES:
        (_, (_, metrics)), _ = found("few answers")[name]
        np.testing.assert_allclose(metrics["answer_spread"], np.sqrt(square.mean()), rtol=1e-5)
        np.testing.assert_allclose(metrics["ahead"], np.mean((ahead > 0)[ahead != 0]))


def measured(loss, kind="few answers"):
    energy, pairs, _ = problem(kind)
    return jax.jit(lambda e: loss(e, pairs, None, key=KEY)[0])(energy)


@pytest.mark.parametrize("kind", ["few answers", "structured"])
def test_the_likelihood_of_a_cold_energy_is_the_perceptron(kind):
    cold = measured(NegativeLogLikelihood(beta=1e4), kind)
    np.testing.assert_allclose(cold, measured(PerceptronLoss(), kind), rtol=1e-3)


def test_the_likelihood_of_two_answers_is_the_log_loss():
    two = energy_of(lambda y, x: x @ jnp.array([1.0, -2.0]) * y, Categorical((), 2))
    pairs = Pairs(jnp.asarray(FEATURES[:, :2], jnp.float32), jnp.array([0.0, 1.0, 1.0, 0.0, 1.0]))

    def losses(pairs):
        return [answer_loss(name)(two, pairs, None, key=KEY)[0] for name in ("nll", "log")]

    np.testing.assert_allclose(*jax.jit(losses)(pairs), rtol=1e-6)


@pytest.mark.parametrize("kind", ["few answers", "enumeration", "structured"])
def test_an_augmented_hinge_asks_a_margin_for_each_wrong_coordinate(kind):
    """max over all answers of m H(y, y_i) + E(y_i) − E(y), by brute force."""
    energy, pairs, _ = problem(kind)
    all_of = jax.jit(lambda points, x: jax.vmap(lambda y: energy(y, x))(points))
    every, expected = np.asarray(energy.space.points()), []
    for i in range(5):
        y, x = pairs.y[i], jax.tree.map(lambda leaf, i=i: leaf[i], pairs.x)
        heights, wrong = np.asarray(all_of(every, x)), (every != np.asarray(y)).sum(1)
        if kind == "structured":
            heights = np.where(((every != 0) & ~np.asarray(x[1])).any(1), np.inf, heights)
        expected.append((1.5 * wrong + heights[wrong == 0] - heights).max())
    np.testing.assert_allclose(
        measured(HingeLoss(margin=1.5, augmented=True), kind), np.mean(expected), rtol=1e-5
    )


def test_the_chains_of_the_library_are_searched_by_their_own_recursions():
    """Two labels of three, then a place that is masked: nine labellings by hand."""
    places, after, end = RNG.normal(size=(3, 3)), RNG.normal(size=(4, 3)), RNG.normal(size=3)
    tables = [jnp.asarray(table, jnp.float32) for table in (places, after, end)]
    energy = Markov(*tables, jnp.array([True, True, False]), jnp.array([True, False, False]), 1)
    heights = (places[0] + after[3])[:, None] + after[:3] + (places[1] + end)[None]
    labels = [(0, 0), (2, 1), (1, 2)]
    pairs = Pairs(None, jnp.array([[a, b, 0] for a, b in labels], jnp.float32))

    def of(name):
        return answer_loss(name, margin=2.0, beta=BETA)(energy, pairs, None, key=KEY)[0]

    found = jax.jit(lambda: {name: of(name) for name in LOSSES})()
    for name, (other, value, _) in TABLE.items():
        rows = [of_answers(heights.reshape(-1), np.zeros((9, 1)), 3 * a + b) for a, b in labels]
        expected = np.mean([value(row["right"][0], row[other][0]) for row in rows])
        np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=1e-5, err_msg=name)


def test_an_input_with_one_answer_only_teaches_nothing_and_breaks_nothing():
    """A sequence of length 0: all is masked."""
    energy, pairs, _ = problem("structured")
    empty = Pairs((pairs.x[0][:2], jnp.zeros((2, 3), bool)), jnp.zeros((2, 3)))

    def of(name, energy):
        loss = answer_loss(name)
        return jax.value_and_grad(lambda e: loss(e, empty, None, key=KEY), has_aux=True)(energy)

    found = jax.jit(lambda energy: {name: of(name, energy) for name in LOSSES})(energy)
    for name, ((value, (_, metrics)), gradient) in found.items():
        assert value == pytest.approx(0.0, abs=1e-6), name
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((gradient, metrics))), name


def test_a_shifted_grid_is_right_on_average():
    """A valley narrower than the gaps between nodes: any one shift may miss it, their mean does not."""
    space = Real((1,), -1.0, 1.0)
    narrow = energy_of(lambda y, x: ((y[0] - x) / 0.01) ** 2 / 2, space)
    search = AnswerSearch(nodes=10)

    def integral(key):
        answers = search.answers(narrow, jnp.zeros(1), jnp.array(0.3), jnp.zeros((1, 1)), key=key)
        return jnp.exp(-answers.free_energy(1.0))

    found = jax.vmap(integral)(jax.random.split(KEY, 20000))
    error = float(jnp.std(found)) / math.sqrt(20000)
    assert abs(float(jnp.mean(found)) - 0.01 * math.sqrt(2 * math.pi)) < 4 * error


def test_a_narrow_valley_has_no_error_below_zero():
    """A density has no largest value: the narrower the valley, the lower its loss would be."""
    narrow = energy_of(lambda y, x: ((y[0] - x) / 1e-4) ** 2 / 2, Real((1,), -1.0, 1.0))
    loss = answer_loss("mee")
    right = Pairs(jnp.array([0.3, -0.2]), jnp.array([[0.3], [-0.2]]))
    value, _ = jax.jit(lambda: loss(narrow, right, None, key=KEY))()
    assert float(value) == pytest.approx(0.0, abs=1e-6)
    value, _ = jax.jit(lambda: loss(narrow, Pairs(right.x, right.y + 0.5), None, key=KEY))()
    assert 0.9 < float(value) <= 1.0


def test_an_integral_over_a_plane():
    plane = energy_of(lambda y, x: jnp.sum((y - x) ** 2), Real((2,), -1.0, 1.0))
    search = AnswerSearch(nodes=40, shifted=False)

    def free_energy(x):
        return search.answers(plane, jnp.zeros(2), x, jnp.zeros((1, 2)), key=KEY).free_energy(1.0)

    sides = [(math.erf(1 - m) + math.erf(1 + m)) * math.sqrt(math.pi) / 2 for m in (0.2, -0.1)]
    assert float(jax.jit(free_energy)(jnp.array([0.2, -0.1]))) == pytest.approx(
        -math.log(sides[0] * sides[1]), abs=1e-3
    )


def test_a_right_answer_in_a_corner_still_has_a_wrong_one():
    """The ball leaves the box on both sides of the corner; what is pushed out of it comes back into it."""
    corner = energy_of(lambda y, x: jnp.sum((y - 1) ** 2), Real((2,), -1.0, 1.0))
    search = AnswerSearch(starts=16, radius=0.5)

    def wrong(y):
        return search.answers(corner, y, jnp.zeros(()), jnp.zeros((1, 2)), key=KEY).wrong()[0]

    assert 0.24 <= float(jax.jit(wrong)(jnp.ones(2))) <= 0.3


def test_a_ridge_is_the_regulariser():
    energy, pairs, _ = problem("few answers")
    plain, held = HingeLoss(), Ridge(HingeLoss(), 0.3)
    squares = float(jnp.sum(energy.weights**2))
    assert float(held(energy, pairs, None, key=KEY)[0]) == pytest.approx(
        float(plain(energy, pairs, None, key=KEY)[0]) + 0.15 * squares, rel=1e-6
    )
    assert [Ridge(loss, 0.1).collapses for loss in (plain, PerceptronLoss(), EnergyLoss())] == [
        False,
        True,
        True,
    ]


@pytest.mark.parametrize("name", LOSSES)
def test_a_builder_passes_what_a_loss_has(name):
    loss = answer_loss(name, margin=3.0, beta=0.5, augmented=True)
    assert type(loss) is LOSSES[name]
    assert getattr(loss, "margin", 3.0) == 3.0
    assert getattr(loss, "beta", 0.5) == 0.5


MIXED = Record((Column("a", "real"), Column("b", "categorical", 3)))
ONE = Pairs(jnp.zeros((2, 1)), jnp.zeros((2, 40)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: answer_loss("hing"), "there is no loss 'hing': did you mean 'hinge'"),
        (lambda: answer_loss("nll", beta=0.0), "an inverse temperature is above 0, not 0.0"),
        (lambda: AnswerSearch(starts=0), "a search has at least one answer, one start"),
        (
            lambda: HingeLoss()(energy_of(lambda y, x: 0.0, Categorical((40,), 2)), ONE, None, key=KEY),
            "1,099,511,627,776 answers to an input are more than the 4,096 that are enumerated: give the energy an "
            "inference of its own",
        ),
        (
            lambda: HingeLoss()(
                energy_of(lambda y, x: 0.0, MIXED), Pairs(ONE.x, ONE.y[:, :2]), None, key=KEY
            ),
            "answers that are finite in part and real in part are not searched",
        ),
        (
            lambda: answer_loss("nll")(
                energy_of(lambda y, x: jnp.sum(y**2), Real((40,), 0.0, 1.0)), ONE, None, key=KEY
            ),
            "an integral over one to three dimensions of a bounded box, not over .*: bound the space",
        ),
        (
            lambda: HingeLoss(augmented=True)(
                energy_of(lambda y, x: jnp.sum(y**2), Real((40,))), ONE, None, key=KEY
            ),
            "only finite coordinates can be counted as wrong",
        ),
        (
            lambda: HingeLoss()(energy_of(lambda y: 0.0, Real((40,))), ONE.y, None, key=KEY),
            r"HingeLoss learns answers to inputs: give the rows as Pairs\(x, y\)",
        ),
    ],
)
def test_what_cannot_be_done_says_what_to_do(make, message):
    with pytest.raises(SettingsError, match=message):
        make()


def test_energies_are_searched_without_a_derivative_and_differentiated_where_they_were_found():
    """The offending answer moves with the energy; its energy's derivative is that at a fixed answer (Danskin)."""
    energy, pairs, _ = problem("descent")

    @jax.jit
    def wrong(energy):
        answers = SEARCH.answers(energy, pairs.y[0], pairs.x[0], pairs.y, key=KEY)
        return answers.wrong()[0]

    step = 0.05
    value, slope = jax.value_and_grad(wrong)(energy)
    moved = [wrong(Wells(energy.abc + sign * step * jnp.array([1.0, 0.0, 0.0]))) for sign in (1, -1)]
    assert float(slope.abc[0]) == pytest.approx(float(moved[0] - moved[1]) / (2 * step), abs=1e-2)
    assert float(value) < 1.0
