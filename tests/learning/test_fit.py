"""The training loop against closed forms, and against its own arithmetic done again in NumPy."""

import json
from dataclasses import replace
from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learning.densities import Centre, Network, Normal, curve
from thalweg.energy import Real, energy_of
from thalweg.errors import DataError, SettingsError
from thalweg.learning.fit import fit
from thalweg.learning.objective import AbstractObjective, EnergyLoss, MaximumLikelihood
from thalweg.learning.run import Run
from thalweg.learning.samples import ContrastiveDivergence
from thalweg.learning.trainer import CHUNK, Trainer, at_once
from thalweg.sampling import ULA

KEY = jax.random.key(0)
DATA = np.random.default_rng(0).normal([1.0, -2.0], [0.5, 3.0], (300, 2)).astype(np.float32)


class Seen(AbstractObjective):
    """A loss of zero gradient whose memory counts how often each row was seen, and in which step last."""

    def init(self, energy, data, *, key):
        return jnp.zeros((2, len(data)), jnp.int32)

    def __call__(self, energy, batch, memory, *, key):
        rows = batch[:, 0].astype(jnp.int32)
        step = jnp.max(memory[1]) + 1
        memory = jnp.stack([memory[0].at[rows].add(1), memory[1].at[rows].set(step)])
        return 0.0 * jnp.sum(energy.w), (memory, {})


def numbered(n):
    return np.arange(n, dtype=np.float32)[:, None]


def seen(n, batch, key=KEY):
    """Counts and last steps, and the order of the rows, after each number of steps."""
    trainer = Trainer(Centre(), numbered(n), Seen(), optimiser=optax.sgd(0.1), key=key, batch=batch)

    def after(steps):
        state = trainer.advance(trainer.initial, jnp.int32(steps), trainer.data)
        return np.asarray(state.memory), np.asarray(state.order)

    return after


def test_maximum_likelihood_of_a_gaussian_is_reached():
    result = fit(
        Normal(), DATA, MaximumLikelihood(), optimiser=optax.adam(0.05), steps=800, batch=300, key=KEY
    )
    mean, deviation = DATA.mean(0), DATA.std(0)
    np.testing.assert_allclose(result.energy.mean, mean, atol=1e-3)
    np.testing.assert_allclose(np.exp(result.energy.log_deviation), deviation, rtol=1e-3)
    least = np.sum(np.log(deviation) + 0.5 * np.log(2 * np.pi) + 0.5)
    assert result.history[-1]["loss"] == pytest.approx(least, abs=1e-3)
    assert result.status == "ran all steps"
    assert result.steps == 800


def test_mini_batches_reach_it_within_the_noise_of_their_means():
    # Decay to 0 averages the noise away; 9 batches of 32 an epoch leave 12 rows out each time.
    schedule = optax.cosine_decay_schedule(0.05, 800)
    result = fit(
        Normal(), DATA, MaximumLikelihood(), optimiser=optax.adam(schedule), steps=800, batch=32, key=KEY
    )
    np.testing.assert_allclose(result.energy.mean, DATA.mean(0), atol=0.05 * DATA.std(0).max())
    np.testing.assert_allclose(np.exp(result.energy.log_deviation), DATA.std(0), rtol=0.05)


def test_the_trained_loss_is_the_one_that_plain_gradient_descent_has():
    """F = |w - y|²/2 with w ← w - a (w - mean of the batch), redone in NumPy from the batches' own rows."""
    data = np.random.default_rng(1).normal(size=(10, 1)).astype(np.float32)
    result = fit(
        Centre(), data, EnergyLoss(), optimiser=optax.sgd(0.3), steps=7, batch=4, measure_every=1, key=KEY
    )
    trainer = Trainer(Centre(), data, EnergyLoss(), optimiser=optax.sgd(0.3), key=KEY, batch=4)
    w, losses = 0.0, []
    for step in range(7):
        order = np.asarray(trainer._order(jnp.int32(step // 2)))
        rows = data[order[4 * (step % 2) : 4 * (step % 2) + 4], 0]
        losses.append(0.5 * np.mean((w - rows) ** 2))
        w = w - 0.3 * (w - rows.mean())
    np.testing.assert_allclose([record["loss"] for record in result.history], losses, rtol=1e-5)
    np.testing.assert_allclose(result.energy.w, [w], rtol=1e-5)
    assert [record["step"] for record in result.history] == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(("n", "batch"), [(12, 4), (10, 3), (5, 64), (9, 1)])
def test_every_epoch_is_a_permutation_whose_incomplete_end_is_dropped(n, batch):
    size = min(batch, n)
    epoch = n // size
    after = seen(n, batch)
    (counts, last), order = after(epoch)
    assert counts.max() == 1
    assert counts.sum() == epoch * size
    assert sorted(last[last > 0]) == sorted(np.repeat(np.arange(1, epoch + 1), size))
    assert sorted(order) == list(range(n))
    again = after(2 * epoch)[0][0]
    assert again.max() <= 2
    assert again.sum() == 2 * epoch * size


def test_batches_depend_on_the_key_and_on_nothing_else():
    after = seen(64, 8)
    first, order = after(5)
    np.testing.assert_array_equal(seen(64, 8)(5)[0], first)
    assert not np.array_equal(seen(64, 8, jax.random.key(1))(5)[0], first)
    assert not np.array_equal(after(9)[1], order), "the second epoch has the order of the first"


def test_steps_taken_one_by_one_are_those_taken_at_once():
    trainer = Trainer(
        Normal(), DATA, EnergyLoss(), optimiser=optax.adam(1e-2), key=KEY, batch=32, averaging=0.9
    )
    at_once = trainer.advance(trainer.initial, jnp.int32(13), trainer.data)
    state = trainer.initial
    for step in range(1, 14):
        state = trainer.advance(state, jnp.int32(step), trainer.data)
    assert eqx.tree_equal(state, at_once)


def test_the_step_is_traced_once_however_many_dispatches_there_are():
    traces = []

    class Counting(AbstractObjective):
        def __call__(self, energy, batch, memory, *, key):
            traces.append(batch.shape)
            return jnp.mean(jax.vmap(energy)(batch)), (memory, {})

    fit(
        Normal(),
        DATA,
        Counting(),
        optimiser=optax.adam(1e-2),
        steps=300,
        batch=32,
        key=KEY,
        measure_every=10,
        averaging=0.9,
        held_out=DATA[:50],
    )
    assert traces.count((32, 2)) == 1, traces
    assert traces.count((50, 2)) == 1, traces
    assert traces.count((CHUNK, 2)) == 1, traces


def test_history_and_metrics_say_the_same(tmp_path):
    result = fit(
        Normal(),
        DATA,
        MaximumLikelihood(),
        optimiser=optax.adam(1e-2),
        steps=95,
        batch=30,
        measure_every=20,
        held_out=DATA[:40],
        key=KEY,
        run=Run(tmp_path),
    )
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == result.history
    assert [record["step"] for record in lines] == [1, 20, 40, 60, 80, 95]
    assert [record["epoch"] for record in lines] == [0.1, 2.0, 4.0, 6.0, 8.0, 9.5]
    assert set(lines[0]) == {"step", "epoch", "loss", "gradient_norm", "rate", "probe", "held_out", "seconds"}
    first = float(-jnp.mean(jax.vmap(Normal().log_prob)(jnp.asarray(DATA))))
    assert lines[0]["loss"] == pytest.approx(first, rel=0.3)
    assert lines[-1]["loss"] < lines[0]["loss"]
    probe = DATA[np.arange(at_once(30)) * len(DATA) // at_once(30)]
    last = float(-jnp.mean(jax.vmap(result.energy.log_prob)(jnp.asarray(probe))))
    assert lines[-1]["probe"] == pytest.approx(last, rel=1e-3)
    assert all(a["seconds"] <= b["seconds"] for a, b in pairwise(lines))
    assert not list(tmp_path.glob(".*")), "temporary files were left behind"


def test_the_metrics_of_an_objective_are_averaged_between_measurements():
    class Clock(AbstractObjective):
        """The step, and one that is no number at step 7."""

        def init(self, energy, data, *, key):
            return jnp.int32(1)

        def __call__(self, energy, batch, memory, *, key):
            metrics = {
                "clock": memory,
                "pair": memory + jnp.arange(2),
                "odd": jnp.where(memory == 7, jnp.nan, 1.0),
            }
            return jnp.mean(jax.vmap(energy)(batch)), (memory + 1, metrics)

    result = fit(
        Centre(), numbered(8), Clock(), optimiser=optax.sgd(0.1), steps=9, batch=4, measure_every=4, key=KEY
    )
    assert [record["clock"] for record in result.history] == [1, 3, 6.5, 9]
    assert [record["pair"] for record in result.history] == [1.5, 3.5, 7, 9.5]
    assert [record["odd"] for record in result.history] == [1, 1, None, 1]


def test_the_best_held_out_parameters_are_returned_and_patience_stops():
    """Training pulls towards 3, held-out rows sit at 1: the best is passed on the way and must come back."""
    train, held_out = np.full((8, 1), 3.0, np.float32), np.full((4, 1), 1.0, np.float32)
    settings = {"optimiser": optax.sgd(0.05), "steps": 200, "batch": 8, "measure_every": 1, "key": KEY}
    result = fit(Centre(), train, EnergyLoss(), held_out=held_out, patience=6, **settings)
    w = 3 * (1 - 0.95 ** np.arange(1, 201))
    best = int(np.argmin((w - 1) ** 2))
    np.testing.assert_allclose(result.energy.w, [w[best]], rtol=1e-4)
    assert result.status == "stopped early"
    assert result.steps == best + 1 + 6
    np.testing.assert_allclose(
        [record["held_out"] for record in result.history], 0.5 * (w[: result.steps] - 1) ** 2, rtol=1e-3
    )
    patient = fit(Centre(), train, EnergyLoss(), held_out=held_out, **settings)
    np.testing.assert_allclose(patient.energy.w, [w[best]], rtol=1e-4)
    assert patient.status == "ran all steps"
    assert patient.steps == 200


def test_held_out_rows_beyond_one_chunk_are_all_measured(monkeypatch):
    monkeypatch.setattr("thalweg.learning.trainer.CHUNK", 16)
    rows = np.random.default_rng(2).normal(size=(53, 1)).astype(np.float32)
    result = fit(Centre(), rows, EnergyLoss(), optimiser=optax.sgd(0.0), steps=1, held_out=rows, key=KEY)
    assert result.history[0]["held_out"] == pytest.approx(0.5 * np.mean(rows**2), rel=1e-5)


def test_the_average_of_the_parameters_is_what_numpy_makes_of_them():
    data = np.full((4, 1), 2.0, np.float32)
    result = fit(
        Centre(), data, EnergyLoss(), optimiser=optax.sgd(0.2), steps=60, batch=4, averaging=0.8, key=KEY
    )
    w = average = 0.0
    for step in range(60):
        w = w - 0.2 * (w - 2.0)
        decay = min(0.8, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * w
    np.testing.assert_allclose(result.energy.w, [average], rtol=1e-5)
    assert abs(average - w) > 1e-6


def test_rate_scales_every_update():
    trainer = Trainer(
        Centre(), np.ones((4, 1), np.float32), EnergyLoss(), optimiser=optax.sgd(0.5), key=KEY, batch=4
    )
    state = eqx.tree_at(lambda s: s.rate, trainer.initial, jnp.float32(0.25))
    np.testing.assert_allclose(trainer.advance(state, jnp.int32(1), trainer.data).parameters.w, [0.125])


def test_dropout_acts_in_training_and_not_in_what_is_returned():
    result = fit(Network(key=KEY), curve(), EnergyLoss(), optimiser=optax.adam(1e-3), steps=2, key=KEY)
    assert result.energy.dropout.inference
    trainer = Trainer(result.energy, curve(), EnergyLoss(), optimiser=optax.sgd(0.1), key=KEY, batch=8)
    assert not trainer.energy(trainer.initial.parameters, training=True).dropout.inference


def test_a_pytree_of_arrays_is_cut_row_by_row():
    """Pairs (values, weights) stay together: the loss of a mismatch is far from 0."""

    class Paired(AbstractObjective):
        def __call__(self, energy, batch, memory, *, key):
            values, double = batch["values"], batch["double"]
            return jnp.mean((2 * values - double) ** 2) + 0.0 * energy.w[0], (memory, {})

    values = numbered(50)
    result = fit(
        Centre(),
        {"values": values, "double": 2 * values},
        Paired(),
        optimiser=optax.sgd(0.1),
        steps=9,
        batch=7,
        key=KEY,
    )
    assert all(record["loss"] == 0 for record in result.history)


def test_a_users_own_function_is_trained():
    parabola = energy_of(eqx.nn.MLP(2, "scalar", 8, 1, key=KEY), Real((2,)))

    class TowardsZero(AbstractObjective):
        def __call__(self, energy, batch, memory, *, key):
            return jnp.mean(jax.vmap(energy)(batch) ** 2), (memory, {})

    result = fit(parabola, DATA, TowardsZero(), optimiser=optax.adam(1e-2), steps=200, key=KEY)
    assert result.history[-1]["loss"] < 0.2 * result.history[0]["loss"]


def test_half_precision_parameters_are_trained():
    energy = eqx.tree_at(lambda e: e.w, Centre(), jnp.zeros(1, jnp.float16))
    data = np.ones((4, 1), np.float16)
    result = fit(energy, data, EnergyLoss(), optimiser=optax.sgd(0.5), steps=20, averaging=0.5, key=KEY)
    assert result.energy.w.dtype == jnp.float16
    np.testing.assert_allclose(result.energy.w, [1.0], atol=1e-2)


GOOD = {"energy": Centre(), "data": numbered(8), "objective": EnergyLoss(), "optimiser": optax.sgd(0.1)}


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"steps": 0}, SettingsError, "steps must be at least 1, not 0"),
        ({"batch": 0}, SettingsError, "batch must be at least 1, not 0"),
        ({"measure_every": -1}, SettingsError, "measure_every must be at least 1"),
        ({"patience": 0, "held_out": numbered(3)}, SettingsError, "patience must be at least 1"),
        ({"patience": 3}, SettingsError, "give held-out rows"),
        ({"averaging": 1.0}, SettingsError, "below 1, not 1.0"),
        ({"data": numbered(0)}, DataError, "training rows must be arrays of one length above 0"),
        ({"data": (numbered(3), numbered(4))}, DataError, r"not of lengths \[3, 4\]"),
        ({"held_out": numbered(0)}, DataError, "held-out rows must be"),
        ({"objective": MaximumLikelihood()}, SettingsError, "Centre is not normalised"),
        (
            {"objective": ContrastiveDivergence(ULA()), "held_out": numbered(3)},
            SettingsError,
            "the loss of ContrastiveDivergence does not say which energy is best",
        ),
    ],
)
def test_impossible_settings_are_named(settings, error, message):
    with pytest.raises(error, match=message):
        fit(**(GOOD | {"steps": 2, "key": KEY} | settings))


def test_an_energy_loss_on_masked_rows_needs_a_marginal():
    pair = (numbered(4), np.ones((4, 1), bool))
    with pytest.raises(SettingsError, match="Centre has no marginal"):
        fit(**(GOOD | {"data": pair}), steps=1, key=KEY)


def test_nothing_in_run_changes_the_result(tmp_path):
    lines = []
    runs = [Run(), Run(tmp_path, log=lines.append, checkpoint_every=0.0), replace(Run(), progress=False)]
    fits = [fit(**GOOD, steps=25, batch=3, key=KEY, run=run) for run in runs]
    assert all(eqx.tree_equal(f.energy, fits[0].energy) for f in fits)
    assert lines == []
