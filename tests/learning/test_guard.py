"""Runs that go wrong: what is rolled back, what is recovered, and what ends with the cause and the remedy."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learning.densities import Centre, Network, Normal, curve
from thalweg.errors import Diverged
from thalweg.learning.fit import fit
from thalweg.learning.guard import Guard
from thalweg.learning.objective import AbstractObjective, EnergyLoss, MaximumLikelihood
from thalweg.learning.run import Run

KEY = jax.random.key(0)
DATA = np.random.default_rng(0).normal(3.0, 1.0, (64, 1)).astype(np.float32)


def mean_loss(energy, data=DATA):
    return float(jnp.mean(jax.vmap(energy)(jnp.asarray(data))))


class Poisoned(AbstractObjective):
    """The loss of `Centre`, not a number from the step on at which the memory's clock says so."""

    at: int

    def init(self, energy, data, *, key):
        return jnp.int32(0)

    def __call__(self, energy, batch, memory, *, key):
        loss = jnp.mean(jax.vmap(energy)(batch))
        return jnp.where(memory >= self.at, jnp.nan, 1.0) * loss, (memory + 1, {})


def test_a_loss_that_stays_not_finite_ends_with_cause_and_remedy(tmp_path):
    log = []
    message = (
        r"training diverged: the loss, its gradient or a parameter is not finite at step 13, and again after 3 "
        r"smaller step sizes. Lower the learning rate \(--set learning_rate=…\), or look for extreme values"
    )
    with pytest.raises(Diverged, match=message):
        fit(
            Centre(),
            DATA,
            Poisoned(12),
            optimiser=optax.sgd(0.1),
            steps=40,
            measure_every=5,
            batch=8,
            retries=3,
            key=KEY,
            run=Run(tmp_path, log=log.append),
        )
    assert len(log) == 3
    assert log[0].endswith("back to step 10 with the step size times 0.3")
    assert log[2].endswith("times 0.027")
    lines = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in lines
    assert len(lines.splitlines()) == 3


def test_a_single_hiccup_is_recovered_from():
    """A host that fails once, at the 30th call: the run goes back, goes on, and ends at the optimum."""
    calls = []

    def host(loss):
        calls.append(1)
        return np.float32(np.nan if len(calls) == 30 else 1.0)

    class Hiccup(AbstractObjective):
        def __call__(self, energy, batch, memory, *, key):
            loss = jnp.mean(jax.vmap(energy)(batch))
            shape = jax.ShapeDtypeStruct((), jnp.float32)
            factor = jax.pure_callback(host, shape, jax.lax.stop_gradient(loss))
            return loss * jax.lax.stop_gradient(factor), (memory, {})

    log = []
    settings = {"optimiser": optax.sgd(0.3), "steps": 100, "measure_every": 10, "batch": 64, "key": KEY}
    result = fit(Centre(), DATA, Hiccup(), run=Run(log=log.append), **settings)
    assert len(log) == 1
    assert re.search(r"not finite at step \d+: back to step \d+ with the step size times 0.3", log[0])
    np.testing.assert_allclose(result.energy.w, [DATA.mean()], rtol=1e-4)
    assert result.steps == 100
    assert [record["rate"] for record in result.history][-1] == pytest.approx(0.3)
    assert [record["step"] for record in result.history] == [1, *range(10, 101, 10)]


def test_a_step_size_that_overshoots_into_nan_is_made_smaller():
    """F = log w + y / w, the exponential density: not a number as soon as a step makes w negative."""

    class Exponential(Centre):
        def __call__(self, y, x=None):
            w = self.w[0]
            return jnp.log(w) + y[0] / w

    energy = eqx.tree_at(lambda e: e.w, Exponential(), jnp.array([1.0]))
    data, log = np.abs(DATA), []
    result = fit(
        energy,
        data,
        EnergyLoss(),
        optimiser=optax.sgd(20.0),
        steps=400,
        batch=64,
        key=KEY,
        run=Run(log=log.append),
    )
    assert 1 <= len(log) <= 5
    np.testing.assert_allclose(result.energy.w, [data.mean()], rtol=1e-3)


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("optimiser", ["sgd", "adam", "warm"])
def test_a_learning_rate_a_thousand_times_too_large(optimiser, held_out):
    """Either it ends trained, and says what it did, or it raises: never worse than it began, never not a number."""
    rate = {"sgd": 100.0, "adam": 3.0, "warm": 3.0}[optimiser]
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, 30, 300)
    chosen = {"sgd": optax.sgd(rate), "adam": optax.adam(rate), "warm": optax.adam(schedule)}[optimiser]
    data, log = curve(), []
    energy = Network(key=jax.random.key(1))
    settings = {"held_out": data[192:], "patience": 8} if held_out else {}
    try:
        result = fit(
            energy,
            data[:192],
            EnergyLoss(),
            optimiser=chosen,
            steps=300,
            measure_every=15,
            batch=32,
            key=KEY,
            run=Run(log=log.append),
            **settings,
        )
    except Diverged as error:
        assert len(log) == 5, error  # noqa: PT017
        return
    weights = jax.tree.leaves(eqx.filter(result.energy, eqx.is_inexact_array))
    assert all(np.isfinite(leaf).all() for leaf in weights)
    assert mean_loss(result.energy, data[:192]) <= 1.1 * max(1.0, mean_loss(energy, data[:192]))
    assert [record["rate"] < 1 for record in result.history][-1] == bool(log)


def test_training_that_quietly_ends_worse_than_it_began_is_a_divergence():
    """Steps in random directions: finite, never flying apart, and away from a start at the optimum."""
    walk = optax.chain(optax.add_noise(1e4, 0.0, jax.random.key(0)), optax.sgd(1e-4))
    energy = eqx.tree_at(lambda e: e.w, Centre(20), jnp.full(20, 3.0))
    data = np.full((64, 20), 3.0, np.float32)
    with pytest.raises(Diverged, match=r"the loss is above where it began at step \d+: .* after 0"):
        fit(energy, data, EnergyLoss(), optimiser=walk, steps=200, batch=8, key=KEY, retries=1)


@pytest.mark.parametrize("seed", range(3))
def test_starting_at_the_optimum_is_no_divergence(seed):
    """The noise of small batches around the best energy must not be taken for a failure."""
    data = np.random.default_rng(seed).normal(size=(400, 2)).astype(np.float32)
    log = []
    fit(
        Normal(),
        data,
        MaximumLikelihood(),
        optimiser=optax.adam(0.03),
        steps=100,
        batch=4,
        measure_every=1 + 4 * seed,
        key=jax.random.key(seed),
        run=Run(log=log.append),
    )
    assert log == []


def test_a_loss_that_is_no_measure_of_progress_is_not_judged():
    class Difference(AbstractObjective):
        measures_progress = False

        def __call__(self, energy, batch, memory, *, key):
            return jnp.sum(energy.w) + 50.0, (memory, {})

    result = fit(Centre(), DATA, Difference(), optimiser=optax.sgd(-10.0), steps=60, batch=8, key=KEY)
    assert result.history[-1]["loss"] > 10 * result.history[0]["loss"]
    assert "probe" not in result.history[0]


def test_held_out_rows_that_are_not_finite_are_a_divergence_with_its_own_cause():
    with pytest.raises(Diverged, match="the measured loss is not finite at step 1, and again after 0"):
        fit(
            Centre(),
            DATA,
            EnergyLoss(),
            optimiser=optax.sgd(0.1),
            steps=5,
            held_out=np.full((2, 1), np.nan, np.float32),
            retries=0,
            key=KEY,
        )


def test_parameters_that_overflow_in_the_last_step_are_never_returned():
    """The loss and its gradient are finite, and only the update is not."""
    with pytest.raises(Diverged, match="a parameter is not finite at step 1"):
        fit(Centre(), DATA * 1e3, EnergyLoss(), optimiser=optax.sgd(1e38), steps=1, key=KEY, retries=1)


@pytest.mark.parametrize(
    ("losses", "complaint"),
    [
        ([5.0, 4.0, 3.0], None),
        ([5.0, 1.0, 4.9], None),
        ([5.0, 1.0, 52.0], "the loss ran away at step 3: 52 after 1"),
        ([0.0, 0.01, 0.5], None),
        ([-3.0, -5.0, 26.0], "the loss ran away at step 3: 26 after -5"),
    ],
)
def test_what_flies_apart(losses, complaint):
    history = [{"step": i + 1, "loss": loss, "probe": 0.0} for i, loss in enumerate(losses)]
    found = Guard(baseline=0.0).complaint(history, sound=True, last=False)
    assert (found and found.words) == complaint


@pytest.mark.parametrize(
    ("probes", "last", "wrong"),
    [
        ([2.5] * 9, False, False),
        ([2.5] * 10, False, True),
        ([2.5] * 5 + [2.0] + [2.5] * 5, False, False),
        ([1.0, 2.5], True, True),
        ([2.5, 2.1], True, False),
    ],
)
def test_what_stays_above_where_it_began(probes, last, wrong):
    history = [{"step": i + 1, "loss": 2.0, "probe": probe} for i, probe in enumerate(probes)]
    complaint = Guard(baseline=2.0).complaint(history, sound=True, last=last)
    assert (complaint is not None) == wrong
    if wrong:
        assert complaint.words == f"the loss is above where it began at step {len(probes)}: 2.5 after 2"
