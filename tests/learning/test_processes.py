"""Runs in processes of their own: killed, interrupted from outside, and spread over several devices."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parent / "small_run.py"


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    """One cache of compiled programs for all processes: most of their time is compilation."""
    folder = str(tmp_path_factory.mktemp("compiled"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", folder)
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
        yield


def start(*arguments, **environment):
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | environment)


def finish(*arguments, **environment):
    process = start(*arguments, **environment)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors


def saved_step(directory):
    path = directory / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


def wait_for(directory, process, *, step):
    """Until the run has written a checkpoint after its measurement at `step`."""
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if (directory / "checkpoint.safetensors").exists() and saved_step(directory) >= step:
            return
        time.sleep(0.005)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """In the conditions of the subprocesses, which have none of this suite's settings of JAX."""
    directory = tmp_path_factory.mktemp("whole")
    finish(directory, directory / "weights.npz")
    return np.load(directory / "weights.npz")


@pytest.mark.parametrize("options", [(), pytest.param(("chains",), marks=pytest.mark.slow)])
def test_killed_at_any_moment_and_resumed_it_ends_bitwise_equal(options, tmp_path, uninterrupted):
    """Killed soon after the first checkpoint, and later, at a random moment of an interval."""
    if options:
        finish(tmp_path / "whole", tmp_path / "whole.npz", *options)
        uninterrupted = np.load(tmp_path / "whole.npz")
    random = np.random.default_rng(int(time.time()))
    kills = 0
    for step in (1, 1000):
        process = start(tmp_path, tmp_path / "weights.npz", "resume", *options)
        wait_for(tmp_path, process, step=step)
        time.sleep(random.uniform(0, 0.05))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.communicate()
    assert kills, "the run was over before it could be killed"
    finish(tmp_path, tmp_path / "weights.npz", "resume", *options)
    again = np.load(tmp_path / "weights.npz")
    np.testing.assert_array_equal(again["weights"], uninterrupted["weights"])
    np.testing.assert_array_equal(again["losses"], uninterrupted["losses"])
    assert saved_step(tmp_path) == 3000


def test_ctrl_c_leaves_a_run_that_resumes_and_says_so(tmp_path, uninterrupted):
    process = start(tmp_path, tmp_path / "weights.npz")
    wait_for(tmp_path, process, step=500)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0, "the run was over before it could be interrupted"
    assert "Interrupted: stopped at step" in errors
    assert f"of 3000; continue with --resume (directory {tmp_path})" in errors
    finish(tmp_path, tmp_path / "weights.npz", "resume")
    np.testing.assert_array_equal(np.load(tmp_path / "weights.npz")["weights"], uninterrupted["weights"])


@pytest.mark.parametrize(
    "batch", [30, pytest.param(32, marks=pytest.mark.slow), pytest.param(31, marks=pytest.mark.slow)]
)
def test_a_mesh_of_four_devices_gives_the_result_of_one(batch, tmp_path):
    """A batch in four parts, in two, and in one."""
    options = ["short", f"batch={batch}"]
    finish("-", tmp_path / "one.npz", *options)
    flags = "--xla_force_host_platform_device_count=4"
    finish("-", tmp_path / "four.npz", *options, "devices", XLA_FLAGS=flags)
    one, four = np.load(tmp_path / "one.npz"), np.load(tmp_path / "four.npz")
    assert (one["devices"], four["devices"]) == (1, 4)
    np.testing.assert_allclose(four["losses"], one["losses"], rtol=1e-4)
    np.testing.assert_allclose(four["weights"], one["weights"], atol=1e-4)


MESH = """
import jax, numpy as np
from thalweg.learning.parallel import everywhere, home, mesh_of, over_rows
mesh = mesh_of(4)
for batch, held in ((32, 8), (30, 15), (31, 31)):
    rows = jax.device_put(np.arange(batch), over_rows(mesh, batch))
    assert {shard.data.shape for shard in rows.addressable_shards} == {(held,)}
copied = everywhere({"a": np.arange(3.0, dtype=np.float32)}, mesh)["a"]
assert copied.is_fully_replicated and len(copied.sharding.device_set) == 4
assert everywhere(copied, mesh) is copied
assert len(home(copied, mesh).sharding.device_set) == 1
"""


def test_rows_are_divided_and_parameters_copied():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    done = subprocess.run(
        [sys.executable, "-c", MESH], capture_output=True, text=True, env=os.environ | flags
    )
    assert done.returncode == 0, done.stderr
