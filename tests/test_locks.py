"""Two who write into one directory: the second fit is refused, and two saves leave one model whole."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import thalweg
from thalweg import locks
from thalweg.errors import OutputError, SettingsError
from thalweg.locks import LOCK, alone_in, in_turn

HOLDER = """
import sys, time
from pathlib import Path
from thalweg.locks import alone_in
with alone_in(Path(sys.argv[1])):
    print("in", flush=True)
    time.sleep(100)
"""


def holder(directory: Path) -> subprocess.Popen:
    """A process that is alone in the directory."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(directory)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "in\n"
    return process


def test_the_second_fit_is_refused_and_names_the_first(tmp_path):
    out = tmp_path / "m"
    first = holder(out)
    try:
        for options in ({}, {"resume": True}, {"force": True}):
            message = (
                rf"m is being fitted into by process {first.pid} on \S+, since 20\d\d-.*: wait until it ends"
            )
            with pytest.raises(OutputError, match=message):
                thalweg.fit("wine", "pca", out=out, progress=False, **options)
        assert [path.name for path in out.iterdir()] == [LOCK]
    finally:
        first.kill()
        first.communicate()


def test_the_lock_of_a_killed_process_is_no_hindrance(tmp_path):
    out = tmp_path / "m"
    first = holder(out)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert (out / LOCK).exists()
    with alone_in(out):
        assert str(os.getpid()) in (out / LOCK).read_text()
    assert list(out.iterdir()) == []


def test_two_threads_are_two(tmp_path):
    with (
        alone_in(tmp_path),
        pytest.raises(OutputError, match=f"by process {os.getpid()}"),
        alone_in(tmp_path),
    ):
        pass
    with alone_in(tmp_path):
        pass


def test_a_directory_that_received_nothing_is_not_left(tmp_path):
    with pytest.raises(SettingsError, match="kept"), alone_in(tmp_path / "m"):
        raise SettingsError("kept")
    assert not (tmp_path / "m").exists()
    with alone_in(tmp_path / "m"):
        (tmp_path / "m" / "model.json").write_text("{}")
    assert [path.name for path in (tmp_path / "m").iterdir()] == ["model.json"]


def test_a_lock_that_goes_as_it_is_taken(tmp_path, monkeypatch):
    """The first one ends between the second's opening of the file and its lock: the file it has is no longer there."""
    original, calls = locks._flock, []

    def flock(descriptor, kind):
        calls.append(kind)
        if len(calls) == 1:
            (tmp_path / LOCK).unlink()
        original(descriptor, kind)

    monkeypatch.setattr(locks, "_flock", flock)
    with alone_in(tmp_path):
        assert len(calls) == 2
        with pytest.raises(OutputError, match="is being fitted into"), alone_in(tmp_path):
            pass


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("mine")
    out = tmp_path / "m"
    out.mkdir()
    (out / LOCK).symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic links"), alone_in(out):
        pass
    assert (tmp_path / "precious").read_text() == "mine"


def test_without_locks_in_the_file_system_nothing_is_locked(tmp_path, monkeypatch):
    def flock(descriptor, kind):
        raise OSError(locks.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    with alone_in(tmp_path), in_turn(tmp_path):
        pass


def test_who_comes_second_to_a_save_waits(tmp_path):
    code = HOLDER.replace("alone_in", "in_turn").replace("100", "0.5")
    first = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    assert first.stdout.readline() == "in\n"
    began = time.monotonic()
    with in_turn(tmp_path):
        assert time.monotonic() - began > 0.2
    first.communicate()


SAVER = """
import sys
from thalweg.persist import load, save
model = load(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for _ in range(int(sys.argv[3])):
    save(model, sys.argv[2], force=True)
"""
FILES = {"README.md", "model.json", "weights.safetensors", "manifest.json"}


@pytest.fixture(scope="module")
def sources() -> list[Path]:
    """Two models of different recipes, so that a mixture of them would not load."""
    models = Path(__file__).parent / "fixtures" / "models"
    return [sorted(models.glob(f"*-{recipe}"))[0] for recipe in ("kmeans", "pca")]


@pytest.mark.parametrize("there", [False, True])
def test_two_saves_at_once_leave_one_model_whole(tmp_path, sources, there):
    models = [thalweg.load(source) for source in sources]
    for trial in range(8):
        out = tmp_path / str(trial)
        if there:
            models[0].save(out)
        with ThreadPoolExecutor(2) as pool:
            saves = [pool.submit(model.save, out, force=True) for model in models]
        assert [save.result() for save in saves] == [out, out]
        assert thalweg.load(out).recipe in ("kmeans", "pca")
        assert {path.name for path in out.iterdir()} == FILES
    assert len(list(tmp_path.iterdir())) == 8


@pytest.mark.slow
def test_two_processes_that_save_again_and_again_and_one_that_reads(tmp_path, sources):
    out = tmp_path / "m"
    command = [sys.executable, "-c", SAVER]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    savers = [subprocess.Popen([*command, str(source), str(out), "30"], **pipes) for source in sources]
    for saver in savers:
        assert saver.stdout.readline() == "ready\n"
    for saver in savers:
        saver.stdin.write("go\n")
        saver.stdin.flush()
    while any(saver.poll() is None for saver in savers):
        if out.exists():
            assert thalweg.load(out).recipe in ("kmeans", "pca")
    for saver in savers:
        _, errors = saver.communicate()
        assert saver.returncode == 0, errors
    assert {path.name for path in out.iterdir()} == FILES
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_what_a_killed_write_left_is_removed_and_nothing_else(tmp_path):
    ours = [
        ".checkpoint-0123456789ab.safetensors",
        ".metrics-ba9876543210.jsonl",
        ".report-000000000000.html",
    ]
    others = [
        ".checkpoint-mine.safetensors",
        "checkpoint-0123456789ab.safetensors",
        ".metrics-ba9876543210.txt",
    ]
    for name in (*ours, *others):
        (tmp_path / name).write_text("x")
    with pytest.raises(thalweg.errors.DataError, match="no file"):
        thalweg.fit(tmp_path / "nothing.csv", "pca", out=tmp_path, force=True, progress=False)
    assert {path.name for path in tmp_path.iterdir()} == set(others)
