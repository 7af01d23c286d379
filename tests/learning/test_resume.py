"""Interrupted, finished and damaged runs: what is resumed, and what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learning.densities import Centre, Normal
from thalweg.errors import Interrupted, ModelDirectoryError
from thalweg.learning.checkpoint import checkpoints
from thalweg.learning.fit import fit
from thalweg.learning.objective import AbstractObjective, EnergyLoss
from thalweg.learning.run import Run

DATA = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)


def small(run, *, steps=30, key=0, rate=0.1, data=DATA, **settings):
    return fit(
        Normal(),
        data,
        EnergyLoss(),
        optimiser=optax.sgd(rate, momentum=0.5),
        steps=steps,
        batch=8,
        measure_every=10,
        key=jax.random.key(key),
        run=run,
        **settings,
    )


def interrupt(monkeypatch, run, *, dispatch, **settings):
    """Ctrl-C as the given dispatch of the run ends."""
    from thalweg.learning import fit as module

    calls, original = [], module.next_pace

    def pace(*arguments):
        calls.append(arguments)
        if len(calls) == dispatch:
            raise KeyboardInterrupt
        return min(original(*arguments), 4)

    with monkeypatch.context() as patch:
        patch.setattr(module, "next_pace", pace)
        with pytest.raises(Interrupted, match="stopped at step"):
            small(run, **settings)


def test_interrupted_after_any_dispatch_it_resumes_exactly(tmp_path, monkeypatch):
    settings = {"held_out": DATA[:9], "averaging": 0.9}
    whole = small(Run(), **settings)
    for dispatch in (1, 2, 5):
        directory, log = tmp_path / str(dispatch), []
        interrupt(monkeypatch, Run(directory), dispatch=dispatch, **settings)
        again = small(Run(directory, resume=True, log=log.append), **settings)
        assert eqx.tree_equal(again.energy, whole.energy)
        assert [drop(r) for r in again.history] == [drop(r) for r in whole.history]
        lines = (directory / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines] == again.history
        assert log == []


def test_each_stage_of_a_run_has_a_checkpoint_of_its_own(tmp_path, monkeypatch):
    first, last = Run(tmp_path, stage="first"), Run(tmp_path)
    done = small(first, key=1)
    interrupt(monkeypatch, last, dispatch=2)
    assert [path.name for path in checkpoints(tmp_path)] == [
        "first-checkpoint.safetensors",
        "checkpoint.safetensors",
    ]
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert len(lines) < len(done.history), "the curve is that of the stage that runs"
    assert eqx.tree_equal(small(replace(last, resume=True)).energy, small(Run()).energy)
    monkeypatch.setattr("thalweg.learning.fit._Training._mark", None)
    assert eqx.tree_equal(small(replace(first, resume=True), key=1).energy, done.energy)


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory):
    directory = tmp_path_factory.mktemp("finished")
    small(Run(directory))
    return directory


@pytest.fixture
def finished(trained_once, tmp_path):
    """A directory of its own with the checkpoint of a finished run."""
    return Path(shutil.copytree(trained_once, tmp_path / "run"))


def drop(record):
    return {name: value for name, value in record.items() if name != "seconds"}


def test_an_interrupted_run_without_a_directory_says_that_nothing_was_kept(monkeypatch):
    from thalweg.learning import fit as module

    def pace(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "next_pace", pace)
    with pytest.raises(Interrupted, match=r"stopped at step 0 of 30; nothing was kept \(give a directory"):
        small(Run())


def test_resuming_a_finished_run_returns_its_result_without_training(finished, monkeypatch):
    whole = small(Run())
    monkeypatch.setattr("thalweg.learning.fit._Training._mark", None)
    again = small(Run(finished, resume=True))
    assert eqx.tree_equal(again.energy, whole.energy)
    assert [drop(r) for r in again.history] == [drop(r) for r in whole.history]
    assert again.status == "ran all steps"


def test_resuming_a_run_that_stopped_early_does_not_train_on(tmp_path):
    """The rows held out are far from the others: every step away from the start is a step too many."""
    settings = {"held_out": DATA[:9] - 20, "patience": 2, "data": DATA + 5, "steps": 500}
    whole = small(Run(tmp_path), **settings)
    assert whole.status == "stopped early"
    assert whole.steps < 100
    again = small(Run(tmp_path, resume=True), **settings)
    assert again.status == "stopped early"
    assert (again.steps, again.history) == (whole.steps, whole.history)
    assert eqx.tree_equal(again.energy, whole.energy)


def test_resume_without_a_checkpoint_starts_anew_and_without_resume_so_does_every_run(tmp_path):
    first = small(Run(tmp_path / "new" / "folder", resume=True))
    second = small(Run(tmp_path / "new" / "folder"), key=1)
    assert len((tmp_path / "new" / "folder" / "metrics.jsonl").read_text().splitlines()) == len(
        second.history
    )
    assert not eqx.tree_equal(first.energy, second.energy)


@pytest.mark.parametrize(
    "settings", [{"key": 1}, {"steps": 40}, {"data": DATA + 1}, {"held_out": DATA}, {"averaging": 0.5}]
)
def test_the_checkpoint_of_another_run_is_refused(finished, settings):
    tmp_path = finished
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    with pytest.raises(ModelDirectoryError, match=r"checkpoint.safetensors belongs to a run with other data"):
        small(Run(tmp_path, resume=True), **settings)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before


def test_another_learning_rate_goes_on_and_says_so(finished):
    log = []
    small(Run(finished, resume=True, log=log.append), rate=0.05)
    assert len(log) == 1
    assert "was written with another optimiser" in log[0]


@pytest.mark.parametrize("where", [0, 40, 200, -1])
def test_one_flipped_bit_is_noticed(finished, where):
    path = finished / "checkpoint.safetensors"
    data = bytearray(path.read_bytes())
    data[where] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(
        ModelDirectoryError, match=r"checkpoint.safetensors is damaged: delete it, and fit again"
    ):
        small(Run(finished, resume=True))


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04" + bytes(100), bytes(5)])
def test_something_else_in_its_place_is_noticed(tmp_path, data):
    (tmp_path / "checkpoint.safetensors").write_bytes(data)
    with pytest.raises(ModelDirectoryError, match="is damaged"):
        small(Run(tmp_path, resume=True), steps=10)


def test_a_sound_file_that_is_no_checkpoint_is_noticed(tmp_path):
    import hashlib

    from safetensors.numpy import save

    for blob in (b"not tensors at all", save({"a": np.zeros(3)})):
        (tmp_path / "checkpoint.safetensors").write_bytes(hashlib.sha256(blob).digest() + blob)
        with pytest.raises(ModelDirectoryError, match="is not a checkpoint"):
            small(Run(tmp_path, resume=True), steps=10)


def test_memories_of_every_kind_survive(tmp_path, monkeypatch):
    """Keys, integers, booleans, empty arrays and half precision come back as they were."""

    class Odd(AbstractObjective):
        def init(self, energy, data, *, key):
            half = jnp.zeros(2, jnp.bfloat16)
            return {"key": key, "count": 0, "flag": jnp.array([True, False]), "none": None, "half": half}

        def __call__(self, energy, batch, memory, *, key):
            following, use = jax.random.split(memory["key"])
            noise = 0.1 * jax.random.normal(use, batch.shape)
            memory = memory | {"key": following, "count": memory["count"] + 1, "flag": ~memory["flag"]}
            memory["half"] = memory["half"] + jnp.bfloat16(0.5)
            return jnp.mean(jax.vmap(energy)(batch + noise)), (memory, {})

    def odd(run):
        settings = {"optimiser": optax.sgd(0.1), "steps": 12, "measure_every": 5, "key": jax.random.key(3)}
        return fit(Centre(2), DATA, Odd(), batch=8, run=run, **settings)

    whole = odd(Run())
    from thalweg.learning import fit as module

    with monkeypatch.context() as patch:
        patch.setattr(module, "next_pace", lambda pace, done, seconds: 1)
        shows = []

        def show(step, words):
            shows.append(step)
            if len(shows) == 7:
                raise KeyboardInterrupt

        patch.setattr(module, "progress_bar", lambda *a: _Yielding(show))
        with pytest.raises(Interrupted, match="stopped at step 7 of 12"):
            odd(Run(tmp_path))
    again = odd(Run(tmp_path, resume=True))
    assert eqx.tree_equal(again.energy, whole.energy)


class _Yielding:
    def __init__(self, value):
        self.value = value

    def __enter__(self):
        return self.value

    def __exit__(self, *error):
        return False
