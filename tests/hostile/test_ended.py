"""Fits that are killed, interrupted or run out of disk: what is there can be read, and they end the same to the bit."""

import json
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from thalweg.errors import ModelDirectoryError
from thalweg.persist import load

HERE = Path(__file__).parent / "fit_here.py"
SMALL = {"steps": 400, "patience": 400, "width": 6, "layers": 1, "components": 2, "orderings": 2}
NOT_YET = r"unfinished run|not a model directory|no such directory"

pytestmark = pytest.mark.slow


@dataclass
class Workplace:
    """A data file, and what an uninterrupted fit of it gave."""

    folder: Path
    seconds: float = 0.0
    weights: bytes = b""
    done: int = 0

    def start(self, out: Path, *options: str) -> subprocess.Popen:
        """A fit into `out`, which goes on where there is something to go on with."""
        first = options if options[:1] == ("--die-at",) else ()
        command = [
            sys.executable,
            str(HERE),
            *first,
            "fit",
            str(self.folder / "data.npy"),
            "--out",
            str(out),
            "--quiet",
        ]
        command += [word for name, value in SMALL.items() for word in ("--set", f"{name}={value}")]
        command += ["--resume"] if out.exists() else []
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def finish(self, out: Path) -> str:
        """Let a run end, and check that it ends as the uninterrupted one did."""
        process = self.start(out)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        assert (out / "weights.safetensors").read_bytes() == self.weights
        names = {path.name for path in out.iterdir()}
        run = {"metrics.jsonl", "report.html"}
        assert names == {"README.md", "model.json", "weights.safetensors", "manifest.json", *run}
        assert load(out).card["steps"] == SMALL["steps"]
        return errors


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Workplace:
    """Fitted twice: what compiled programs cost is paid by the first run alone."""
    folder = tmp_path_factory.mktemp("whole")
    rng = np.random.default_rng(5)
    np.save(
        folder / "data.npy",
        (rng.integers(0, 3, (240, 1, 1)) + rng.integers(0, 3, (240, 3, 3))).astype(np.uint8),
    )
    place = Workplace(folder)
    for name in ("cold", "warm"):
        began = time.monotonic()
        process = place.start(folder / name, "--die-at", "1000000")
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        place.seconds = time.monotonic() - began
        place.done = int(errors.splitlines()[-1].split()[0])
        weights = (folder / name / "weights.safetensors").read_bytes()
        assert weights == (place.weights or weights)
        place.weights = weights
    return place


def check_readable(out: Path) -> None:
    """A model, or the word that there is none yet; a checkpoint is read when the run goes on."""
    if (out / "model.json").exists() or (out / ".next").exists():
        load(out)
        return
    with pytest.raises(ModelDirectoryError, match=NOT_YET):
        load(out)


def test_killed_at_25_random_moments(place, tmp_path):
    rng = np.random.default_rng(11)
    kills = run = 0
    while kills < 25:
        run += 1
        for _ in range(9):
            process = place.start(tmp_path / str(run))
            time.sleep(rng.uniform(0, place.seconds))
            over = process.poll() is not None
            process.kill()
            process.communicate()
            check_readable(tmp_path / str(run))
            if over:
                break
            kills += 1
        place.finish(tmp_path / str(run))


def test_killed_between_any_two_changes_of_its_files(place, tmp_path):
    """While checkpoints are written; and, from one state late in the training, at every third change to the end."""
    for share in (0.8, 0.6, 0.4, 0.2):  # how many changes there are depends on how fast the machine is
        late = tmp_path / f"late-{share}"
        for moment in (1, 3, 9, int(share * place.done)):
            place.start(late, "--die-at", str(moment)).communicate(timeout=300)
            check_readable(late)
        if (late / "checkpoint.safetensors").exists():
            break
    waiting = 0
    for change in range(2, 300, 3):
        out = Path(shutil.copytree(late, tmp_path / str(change)))
        process = place.start(out, "--die-at", str(change))
        process.communicate(timeout=300)
        check_readable(out)
        waiting += (out / ".next").exists()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
    assert change > 20, "the run has more changes of files to be killed at"
    assert waiting, "none was killed while a whole model waited to be moved into its place"
    for out in (tmp_path / "2", tmp_path / str(change - 3), tmp_path / str(change - 9)):
        place.finish(out)


def test_interrupted_at_random_moments(place, tmp_path):
    """Each run as soon as it trains, which is a small part of it, then anywhere."""
    rng = np.random.default_rng(13)
    said = []
    for run in range(2):
        out = tmp_path / str(run)
        for awaited in ("checkpoint.safetensors", *4 * [".lock"]):
            process = place.start(out)
            while not (out / awaited).exists() and process.poll() is None:
                time.sleep(0.01)
            if awaited == ".lock":
                time.sleep(rng.uniform(0, 0.8 * place.seconds))
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=300)
            if process.returncode == 0:
                break
            assert process.returncode == 130, errors
            said += [line for line in errors.splitlines() if line.startswith(("interrupted: ", "resume: "))]
            assert "Traceback" not in errors
            check_readable(out)
        place.finish(out)
    assert any("stopped at step" in line for line in said)
    assert any(line.startswith("resume: thalweg fit") and line.endswith("--resume") for line in said)


# --- full disks ---------------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """A disk of its own, of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a file system of its own may not be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(path: Path) -> None:
    """Take every byte that is left."""
    with path.open("ab", buffering=0) as file:
        for size in (65_536, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def test_a_disk_that_fills_up(place, disk):
    out = disk / "m"
    for step in (1, 150):
        process = place.start(out)
        deadline = time.monotonic() + 200
        while process.poll() is None and time.monotonic() < deadline:
            if (out / "checkpoint.safetensors").exists() and saved_step(out) >= step:
                fill(disk / "filler")
            time.sleep(0.01)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 1, errors
        assert "the disk is full: free some space" in errors
        assert "the last checkpoint is whole, continue with --resume" in errors
        check_readable(out)
        (disk / "filler").unlink()
    place.finish(out)


def saved_step(out: Path) -> int:
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return json.loads(lines[-1])["step"] if lines else 0


def test_files_that_may_not_grow(place, tmp_path):
    """The limit on the size of a file, as a quota: first no checkpoint fits, then all but the report does."""
    out = tmp_path / "m"
    for limit in (4096, 100_000):
        process = place.start(out)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, limit))
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 1, errors
        assert "the disk is full" in errors
        check_readable(out)
    place.finish(out)
