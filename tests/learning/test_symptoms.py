"""What the guard reads out of the metrics: made-up curves for each symptom, and runs that have it."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learning.contrastive import lattice, moons, network
from learning.densities import Centre
from thalweg.energy import Binary
from thalweg.errors import Diverged
from thalweg.learning.fit import fit
from thalweg.learning.guard import Guard
from thalweg.learning.run import Run
from thalweg.learning.samples import ContrastiveDivergence
from thalweg.models.ising import ising
from thalweg.sampling import MALA, ULA, Gibbs

KEY = jax.random.key(0)
#: What a run looks like where nothing is wrong, at a unit of energies of 2.
WELL = {
    "gap": 0.3, "data_energy": -3.0, "spread": 2.5, "told_apart": 0.55, "leap": 0.1, "acceptance": 0.6,
    "flown": 0.0, "moved": 0.9, "varied": 1.0, "reach": 1.1, "gradient_norm": 1.0,
}  # fmt: skip


def history(now, *, measurements=20, every=20, since=3, **before):
    """A curve that was well, or as `before` says, and has been as `now` says `since` measurements ago."""
    well = measurements - since
    return [
        {"step": every * (i + 1), "loss": 0.0} | WELL | (before if i < well else now)
        for i in range(measurements)
    ]


def complaint(records, last=False):
    return Guard(unit=2.0).complaint(records, sound=True, last=last)


@pytest.mark.parametrize(
    ("now", "cause", "words"),
    [
        ({}, None, ""),
        ({"leap": 3.9}, "leaping", "one step has changed energies by 3.9 nats"),
        ({"leap": 3.7}, None, ""),
        ({"flown": 0.06}, "flown", "6% of the chain's steps fly apart"),
        ({"flown": 0.04}, None, ""),
        ({"reach": 11.0}, "flown", "the chains have left the data: they lie 11 times as wide"),
        ({"reach": 9.0}, None, ""),
        ({"moved": 0.01}, "frozen", "the chains are frozen: 1.0% of them moved"),
        ({"moved": 0.01, "varied": 0.4}, None, ""),
        ({"acceptance": 0.004}, "frozen", "the chains are frozen: 0.40% of their moves are accepted"),
        ({"acceptance": 0.02}, None, ""),
        ({"gap": -51.0}, "runaway", "the energies run away: a gap of -51 and a spread of 2.5 nats"),
        ({"spread": 51.0}, "runaway", "the energies run away: a gap of 0.3 and a spread of 51 nats"),
        ({"spread": None}, "runaway", "the energies run away: a gap of 0.3 and a spread of inf nats"),
        ({"gap": 49.0, "spread": 49.0}, None, ""),
        ({"data_energy": 2e6}, "runaway", r"the energies run away: 2e\+06 nats on the data"),
        ({"data_energy": -2e5}, None, ""),
        ({"gradient_norm": 31.0}, "exploding", "the gradient explodes: a norm of 31 after 1"),
        ({"gradient_norm": 29.0}, None, ""),
    ],
)
def test_each_symptom_and_what_is_none(now, cause, words):
    """The spread at the start, 2.5, is the unit here: it is above the objective's, 2."""
    found = complaint(history(now, since=3))
    assert (found and found.cause) == cause
    if found:
        assert found.words == words.replace("\\", "") + " at step 400"
        assert found.advice


@pytest.mark.parametrize(
    ("now", "cause", "since"),
    [
        ({"moved": 0.0}, "frozen", 2),
        ({"told_apart": 0.995}, "told apart", 16),
        ({"spread": 1e-3}, "flat", 6),
        ({"leap": 1.3}, "leaping", 6),
    ],
)
def test_some_symptoms_must_last_and_all_count_at_the_end(now, cause, since):
    assert complaint(history(now, since=since - 1)) is None
    assert complaint(history(now, since=since)).cause == cause
    assert complaint(history(now, since=1), last=True).cause == cause


def test_steps_that_are_large_but_not_too_large_may_go_on():
    assert complaint(history({"leap": 1.2}, since=20), last=True) is None


def test_a_flat_energy_at_the_start_is_none_that_became_flat():
    flat = history({"spread": 0.0, "told_apart": 0.0}, since=20)
    assert complaint(flat) is None
    assert (
        complaint(flat, last=True).words
        == "the energy is flat: data and negatives differ by 0 nats at step 400"
    )


def test_single_steps_are_judged_by_the_mean_of_ten():
    """A measurement a step: one that is far out says nothing, ten of which the mean is out do."""
    assert complaint(history({"flown": 0.4}, every=1, since=1)) is None
    assert complaint(history({"flown": 0.4}, every=1, since=2)).cause == "flown"
    few = history({"flown": 0.4}, every=1, measurements=9, since=9)
    assert complaint(few) is None
    assert complaint([*few, few[-1] | {"step": 10}]).cause == "flown"


def test_a_state_to_go_back_to_is_well_within_health():
    guard = Guard(unit=2.0)
    assert guard.no_worse(history({}))
    assert not guard.no_worse(history({"spread": 21.0}))
    assert complaint(history({"spread": 21.0})) is None
    assert not guard.no_worse(history({"moved": 0.0}, since=1))
    assert not guard.no_worse(history({}, measurements=2, since=0, every=4)), "too early to tell"


def test_a_gradient_after_none_is_no_explosion():
    """A loss that most rows are done with has gradients of 0 between those of a few."""
    assert complaint(history({"gradient_norm": 31.0}, since=1, gradient_norm=0.0)) is None
    assert complaint(history({"gradient_norm": 31.0}, since=1, gradient_norm=1e-3)).cause == "exploding"


def test_an_objective_with_other_metrics_is_judged_by_those_it_has():
    bare = [{"step": 20 * i, "loss": 0.0, "gradient_norm": 1.0, "mine": 1e9} for i in range(1, 20)]
    assert complaint(bare, last=True) is None
    assert complaint([*bare, bare[-1] | {"step": 400, "gradient_norm": 99.0}]).cause == "exploding"


def short(energy, data, objective, *, rate=2e-3, steps=300, log=None, **settings):
    return fit(
        energy,
        data,
        objective,
        optimiser=optax.adam(rate),
        steps=steps,
        batch=64,
        key=KEY,
        run=Run(log=(log if log is not None else []).append),
        **settings,
    )


class Steep(Centre):
    """F = 500 |y|² + 0 w, so narrow that chains with long steps fly."""

    def __call__(self, y, x=None):
        return 500 * jnp.sum(y**2) + 0.0 * self.w[0]


class Tilted(Centre):
    """F = w · y, which has no bottom."""

    def __call__(self, y, x=None):
        return jnp.sum(self.w * y)


NARROW = 0.03 * np.random.default_rng(0).normal(size=(256, 1)).astype(np.float32)
BITS, ROWS = Binary((9,)), lattice()[0]
# Rows in a corner of the box, which chains from anywhere do not reach; the penalty keeps energies from running away.
CORNER = 0.002 * moons(512) + 3.98
NOISE = ContrastiveDivergence(ULA(1e-3), 1, "noise", penalty=0.1)


def stuck():
    """A model of one point, which chains never leave again."""
    return eqx.tree_at(lambda e: e.bias, ising(BITS), jnp.full(9, 50.0))


RUNS = {
    "leaping": (
        lambda: ising(BITS),
        ROWS,
        ContrastiveDivergence(Gibbs()),
        2.0,
        "one step has changed energies by",
    ),
    "flown": (Steep, NARROW, ContrastiveDivergence(MALA(0.3), 3), 1e-3, "of the chain's steps fly apart"),
    "drifting": (
        Tilted,
        NARROW + 1,
        ContrastiveDivergence(ULA(0.1), 5),
        0.05,
        "the chains have left the data",
    ),
    "frozen": (stuck, ROWS, ContrastiveDivergence(Gibbs(), 1, "persistent"), 1e-3, "the chains are frozen"),
    "runaway": (network, CORNER, ContrastiveDivergence(ULA(1e-3), 1, "noise"), 1e-3, "the energies run away"),
    "overflow": (
        Steep,
        NARROW,
        ContrastiveDivergence(ULA(0.1), 20),
        1e-3,
        "not finite at step 1: .* fly apart",
    ),
    "flat": (lambda: ising(BITS), ROWS, ContrastiveDivergence(Gibbs()), 1e-9, "the energy is flat"),
    "told apart": (network, CORNER, NOISE, 1e-3, "told apart from the data .* of the time"),
}


FAST = ("leaping", "overflow", "runaway")


@pytest.mark.parametrize(
    "cause", [pytest.param(cause, marks=() if cause in FAST else pytest.mark.slow) for cause in RUNS]
)
def test_a_run_that_has_it_is_told_so(cause):
    make, data, objective, rate, words = RUNS[cause]
    with pytest.raises(Diverged, match=f"training diverged: .*{words}.* after 0 remedies. [A-Z]"):
        short(make(), data, objective, rate=rate, retries=0, steps=400)
