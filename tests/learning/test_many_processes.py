"""Two real processes that train one energy together, over `jax.distributed` on this host."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import thalweg

SCRIPT = Path(__file__).parent / "small_run.py"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals"),
]
FIT = ["fit", "wine", "--recipe", "kmeans", "--set", "solver=gradient", "--set", "clusters=3"]


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    """One thread and one cache of compiled programs for all processes."""
    folder = str(tmp_path_factory.mktemp("compiled"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NPROC", "1")
        patch.setenv("JAX_COMPILATION_CACHE_DIR", folder)
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        yield


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def start(*words):
    command = [sys.executable, *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(*processes):
    ends = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), ends
    return [out for out, _ in ends]


@pytest.mark.parametrize("batch", [32, 31])
def test_two_processes_end_alike_and_as_one(batch, tmp_path):
    port = free_port()
    options = ["short", f"batch={batch}"]
    together = [
        start(SCRIPT, "-", tmp_path / "two.npz", *options, f"join={port},2,{process}") for process in (0, 1)
    ]
    digests = [re.findall(r"^[0-9a-f]{64}$", out, re.M) for out in finish(*together)]
    assert len(digests[0]) == 1
    assert digests[0] == digests[1]
    finish(start(SCRIPT, "-", tmp_path / "one.npz", *options))
    one, two = np.load(tmp_path / "one.npz"), np.load(tmp_path / "two.npz")
    assert (one["devices"], two["devices"]) == (1, 2)
    np.testing.assert_allclose(two["losses"], one["losses"], rtol=1e-4)
    np.testing.assert_allclose(two["weights"], one["weights"], atol=1e-4)


def members(out, *more, iterations=2500):
    port = free_port()
    group = ["--coordinator", f"127.0.0.1:{port}", "--num-processes", 2, "--process-id"]
    return [
        start(
            "-m", "thalweg", *FIT, "--set", f"iterations={iterations}", "--out", out, *more, *group, process
        )
        for process in (0, 1)
    ]


def wait_for_checkpoint(out, processes):
    deadline = time.monotonic() + 200
    while not (out / "checkpoint.safetensors").exists() and time.monotonic() < deadline:
        assert all(process.poll() is None for process in processes), processes[0].communicate()
        time.sleep(0.05)
    assert (out / "checkpoint.safetensors").exists()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "m"
    finish(*members(out))
    return thalweg.load(out)


@pytest.mark.parametrize("lost", [0, 1])
def test_one_is_killed_the_other_says_so_and_all_resume(lost, uninterrupted, tmp_path):
    out = tmp_path / "killed"
    processes = members(out)
    wait_for_checkpoint(out, processes)
    processes[lost].send_signal(signal.SIGKILL)
    left = processes[1 - lost]
    _, errors = left.communicate(timeout=60)
    processes[lost].communicate()
    assert left.returncode == 1
    assert re.search(rf"^error: process {1 - lost} of 2 .*again with --resume$", errors, re.M), errors
    finish(*members(out, "--resume"))
    resumed = thalweg.load(out)
    np.testing.assert_array_equal(resumed.F.centroids, uninterrupted.F.centroids)
    assert [r["step"] for r in resumed.history] == [r["step"] for r in uninterrupted.history]
    assert not (out / "checkpoint.safetensors").exists()


@pytest.mark.parametrize("asked", [(0, 1), (0,), (1,)])
def test_an_interrupt_of_one_ends_all(asked, tmp_path):
    out = tmp_path / "interrupted"
    processes = members(out, iterations=10_000_000)
    wait_for_checkpoint(out, processes)
    for i in asked:
        processes[i].send_signal(signal.SIGINT)
    ends = [process.communicate(timeout=60)[1] for process in processes]
    # Of two that are asked the second may find that the first has gone.
    assert {process.returncode for process in processes} <= {130, 1}
    assert 130 in {processes[i].returncode for i in asked}
    for process, errors in zip(processes, ends, strict=True):
        said = "interrupted: stopped at step" if process.returncode == 130 else "error: process . of 2"
        assert re.search(rf"^{said} .*--resume|^{said} .*process 0$", errors, re.M), errors
    assert (out / "checkpoint.safetensors").exists()


def test_other_data_in_one_process_is_refused(tmp_path):
    port = free_port()
    group = ["--coordinator", f"127.0.0.1:{port}", "--num-processes", "2", "--process-id"]
    words = ["--recipe", "kmeans", "--set", "solver=gradient", "--out", tmp_path / "m"]
    both = [
        start("-m", "thalweg", "fit", data, *words, *group, i) for i, data in enumerate(["wine", "diabetes"])
    ]
    ends = [process.communicate(timeout=120) for process in both]
    assert all(process.returncode == 1 for process in both)
    assert any("than process 0: give all of them the same" in errors for _, errors in ends), ends
