"""Losses that a flat energy minimises: the tutorial's Y = X² collapses and is cured, and what only looks like it is let
be."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

import thalweg
from thalweg.energy import AbstractEnergy, Categorical, Real
from thalweg.energy.capabilities import AbstractFewAnswers
from thalweg.errors import Diverged
from thalweg.inference import Gradient
from thalweg.learning.answers import NegativeLogLikelihood, PerceptronLoss, answer_loss
from thalweg.learning.fit import fit
from thalweg.learning.guard import Guard
from thalweg.learning.objective import EnergyLoss
from thalweg.learning.penalty import Ridge
from thalweg.learning.rows import Pairs
from thalweg.learning.run import Run
from thalweg.learning.search import AnswerSearch

KEY = jax.random.key(0)
GRID = jnp.linspace(-1.0, 1.0, 101)
SEARCH = AnswerSearch(starts=4, radius=0.3, solver=Gradient(optax.adam(0.1), steps=10))


class Branch(eqx.Module):
    """A network of one hidden layer, small at first."""

    inner: jax.Array
    bias: jax.Array
    outer: jax.Array
    shift: jax.Array

    def __init__(self, hidden: int, out: int, rng: np.random.Generator):
        self.inner = jnp.asarray(rng.normal(size=hidden), jnp.float32)
        self.bias = jnp.asarray(0.5 * rng.normal(size=hidden), jnp.float32)
        self.outer = jnp.asarray(0.3 / np.sqrt(hidden) * rng.normal(size=(out, hidden)), jnp.float32)
        self.shift = jnp.zeros(out)

    def __call__(self, t):
        return self.outer @ jnp.tanh(self.inner * t[0] + self.bias) + self.shift


class One(AbstractEnergy):
    r"""\(\|G(x) - y\|_1\), which cannot be flat."""

    net: Branch
    space: Real = Real((1,), -1.0, 1.0)

    def __call__(self, y, x=None):
        return jnp.sum(jnp.abs(self.net(x) - y))


class Two(AbstractEnergy):
    r"""\(\|G_1(x) - G_2(y)\|_1\), which is flat where both are constant."""

    left: Branch
    right: Branch
    space: Real = Real((1,), -1.0, 1.0)

    def __call__(self, y, x=None):
        return jnp.sum(jnp.abs(self.left(x) - self.right(y)))


def parabola(energy, loss, *, epochs=40, log=None):
    """200 samples of Y = X², in batches of four."""
    x = np.random.default_rng(0).uniform(-1, 1, (200, 1)).astype(np.float32)
    return fit(
        energy,
        Pairs(x, x**2),
        loss,
        optimiser=optax.adam(optax.cosine_decay_schedule(0.02, 50 * epochs)),
        steps=50 * epochs,
        batch=4,
        measure_every=50,
        key=KEY,
        run=Run(log=(log if log is not None else []).append),
    )


def two() -> Two:
    rng = np.random.default_rng(0)
    return Two(Branch(10, 10, rng), Branch(10, 10, rng))


def off(energy) -> float:
    """The mean distance of the answer of least energy from x²."""
    heights = jax.vmap(lambda x: jax.vmap(lambda y: energy(y[None], x[None]))(GRID))(GRID)
    return float(jnp.mean(jnp.abs(GRID[jnp.argmin(heights, axis=1)] - GRID**2)))


def test_two_branches_collapse_under_the_energy_loss():
    message = (
        r"training collapsed: every answer has the same energy: they differ by \S+ after \S+ at step \d+. "
        r"The loss pushes down on the right answers and nowhere up.* Take one that pushes up on wrong answers: "
        r"hinge, nll or square-square"
    )
    with pytest.raises(Diverged, match=message):
        parabola(two(), EnergyLoss())


def test_one_branch_does_not():
    log = []
    found = parabola(One(Branch(20, 1, np.random.default_rng(0))), EnergyLoss(), log=log)
    assert log == []
    assert off(found.energy) < 0.05


@pytest.mark.parametrize("name", ["square-square", "hinge", "nll"])
def test_losses_that_push_up_cure_it(name):
    log = []
    found = parabola(two(), answer_loss(name, search=SEARCH), log=log)
    assert log == []
    assert off(found.energy) < 0.06
    spreads = [record["answer_spread"] for record in found.history]
    assert spreads[-1] > spreads[0]


class Linear(AbstractFewAnswers):
    """Three answers, each with an energy that is linear in the input; flat at first, or not."""

    weights: jax.Array
    space: Categorical = Categorical((), 3)

    def answer_energies(self, x=None):
        return self.weights @ x

    def __call__(self, y, x=None):
        return self.answer_energies(x)[y.astype(int)]


def corners(n=300):
    """Three clouds that a line tells apart."""
    rng = np.random.default_rng(1)
    y = rng.integers(0, 3, n)
    x = np.array([[3, 0], [-2, 2], [-2, -2]])[y] + 0.5 * rng.normal(size=(n, 2))
    return Pairs(x.astype(np.float32), y.astype(np.float32))


def classified(weights, loss, log):
    return fit(
        Linear(weights),
        corners(),
        loss,
        optimiser=optax.adam(optax.cosine_decay_schedule(0.05, 600)),
        steps=600,
        batch=30,
        measure_every=20,
        key=KEY,
        run=Run(log=log.append),
    )


@pytest.mark.parametrize("name", ["perceptron", "lvq2"])
def test_a_flat_start_is_left_and_is_no_collapse(name):
    """Its loss is 0, the least there is, and most batches have no gradient at the end: neither is a complaint."""
    log = []
    found = classified(jnp.zeros((3, 2)), answer_loss(name), log)
    assert log == []
    pairs = corners()
    energies = jax.vmap(found.energy.answer_energies)(jnp.asarray(pairs.x))
    assert float(np.mean(np.asarray(energies).argmin(1) == pairs.y)) > 0.99


def test_a_penalty_that_flattens_the_perceptron_is_found_out():
    """The loss shrinks with the energy, so that with any penalty a flat one is the only minimum."""
    start = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2)), jnp.float32)
    with pytest.raises(Diverged, match="training collapsed: every answer has the same energy"):
        classified(start, Ridge(PerceptronLoss(), 30.0), [])


def test_the_same_penalty_beside_the_likelihood_is_not():
    log = []
    start = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2)), jnp.float32)
    found = classified(start, Ridge(NegativeLogLikelihood(), 30.0), log)
    assert found.status == "ran all steps"
    assert not any("step size" in line for line in log)


class Line(AbstractEnergy):
    r"""\((y - a x - b)^2\)."""

    ab: jax.Array
    space: Real = Real(())

    def __call__(self, y, x=None):
        return (y - self.ab[0] * x - self.ab[1]) ** 2


def test_answers_that_were_far_off_at_first_are_no_collapse():
    """The energies of two answers differ by 2000 before the line is found and by 1 after it, and are right."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=400).astype(np.float32)
    y = (1000 + x + 0.5 * rng.normal(size=400)).astype(np.float32)
    log = []
    found = fit(
        Line(jnp.zeros(2)),
        Pairs(x, y),
        EnergyLoss(),
        optimiser=optax.adam(optax.cosine_decay_schedule(10.0, 1500)),
        steps=1500,
        batch=100,
        key=KEY,
        run=Run(log=log.append),
    )
    spreads = [record["answer_spread"] for record in found.history]
    assert spreads[-1] < 0.01 * spreads[0]
    assert log == []
    np.testing.assert_allclose(found.energy.ab, np.polyfit(x, y, 1), atol=0.05)


def curve(spreads, energies=None):
    energies = [1.0] * len(spreads) if energies is None else energies
    return [
        {
            "step": 20 * (i + 1),
            "loss": 0.0,
            "probe": 0.0,
            "gradient_norm": 1.0,
            "data_energy": energy,
            "answer_spread": spread,
        }
        for i, (spread, energy) in enumerate(zip(spreads, energies, strict=True))
    ]


@pytest.mark.parametrize(
    ("spreads", "energies", "last", "seen"),
    [
        ([1.0, 0.5] + [0.009] * 6, None, False, True),
        ([1.0, 0.5] + [0.009] * 5, None, False, False),
        ([1.0, 0.5] + [0.011] * 9, None, False, False),
        ([0.1, 0.5, 0.004], None, True, True),
        ([0.0] * 9, None, True, False),
        ([1.0, None] + [0.009] * 6, None, False, True),
        ([1.0] + [0.009] * 7, [100.0] + [0.02] * 7, False, False),
        ([1.0] + [0.009] * 7, [100.0] + [0.2] * 7, False, True),
    ],
)
def test_when_energies_count_as_flat(spreads, energies, last, seen):
    """A hundredth of the widest spread, for a hundred steps or at the end; unless right answers fell much further."""
    history = curve(spreads, energies)
    for baseline in (0.0, None):
        guard = Guard(baseline=baseline, collapses=True)
        found = guard.complaint(history, sound=True, last=last)
        assert (found is not None and found.cause == "collapsed") == seen
    assert Guard(baseline=0.0).complaint(history, sound=True, last=last) is None


@pytest.mark.parametrize(
    ("energies", "ahead", "seen"),
    [
        ([0.0] + [-60.0] * 7, 0.5, True),
        ([0.0] + [-60.0] * 7, 0.7, False),
        ([0.0] + [-40.0] * 7, 0.5, False),
        ([0.0] + [-60.0] * 4, 0.5, False),
        ([1000.0] + [60.0] * 7, 0.5, False),
    ],
)
def test_when_energies_count_as_sunk(energies, ahead, seen):
    """Five times as far below 0 as answers differ, for a hundred steps, and right ones no lower than others."""
    history = [record | {"ahead": ahead} for record in curve([10.0] * len(energies), energies)]
    found = Guard(baseline=0.0, collapses=True).complaint(history, sound=True, last=False)
    assert (found is not None and found.cause == "collapsed") == seen
    assert Guard(baseline=0.0).complaint(history, sound=True, last=False) is None


def test_a_classifier_whose_energies_sink_together_is_stopped():
    digits = load_digits()
    rows = {f"p{i}": column for i, column in enumerate(digits.data.T)} | {"digit": digits.target.astype(str)}
    chosen = {"target": "digit", "network": "mlp", "width": 64, "steps": 400, "progress": False}
    with pytest.raises(
        Diverged, match=r"collapsed: the energies of all answers fall together, .* Take one that pushes"
    ):
        thalweg.fit(rows, "classifier", loss="energy", **chosen)


def test_a_loss_that_pushes_up_is_only_told_of_a_flat_energy():
    """It may be the truth: inputs that say nothing about the answers."""
    words = Guard(baseline=0.0).warning(curve([1.0] * 5 + [0.001] * 5))
    assert words.startswith(
        "every answer has the same energy: they differ by 0.001 after 1. Either the inputs say"
    )
    assert Guard(baseline=0.0).warning(curve([1.0] * 10)) is None
