"""How a command ends when it does not go well: a status, one or two lines, and never a traceback."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
import warnings
from types import SimpleNamespace

import pyarrow as pa
import pytest

from thalweg.cli import arguments, cache, rows, stream
from thalweg.cli.main import main
from thalweg.cli.output import plain
from thalweg.energy.base import FunctionEnergy
from thalweg.energy.spaces import Real
from thalweg.errors import DataError, DataWarning, Interrupted


class Stub:
    """A model whose energy does what the test wants."""

    schema = SimpleNamespace(sequence=None)
    F = FunctionEnergy(lambda y: 0.0, Real((2,)))

    def __init__(self, energy):
        self.energy = energy


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("a,b\n" + "".join(f"{i},{i % 3}\n" for i in range(20)))
    return str(path)


@pytest.fixture
def ask(monkeypatch, table):
    """Run `thalweg energy` with a stand-in for the model's `energy`."""

    def run(energy, *options):
        monkeypatch.setattr(stream, "load_model", lambda path: Stub(energy))
        monkeypatch.setattr(rows, "check_model", lambda path: None)
        return main(["energy", "model", table, *options])

    return run


def raising(error):
    def energy(piece):
        raise error

    return energy


def fine(piece):
    return [float(i) for i in range(len(piece))]


def test_an_error_is_one_line_and_1(ask, capsys):
    assert ask(raising(DataError("rows.csv: column 'a', row 3: no number"))) == 1
    assert capsys.readouterr() == ("", "error: rows.csv: column 'a', row 3: no number\n")


def test_a_bug_is_one_line_that_says_so(ask, capsys, monkeypatch):
    monkeypatch.delenv("THALWEG_TRACEBACK", raising=False)
    assert ask(raising(KeyError("a\nb"))) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("bug: KeyError: 'a\\nb' (test_ends.py:")
    assert "THALWEG_TRACEBACK=1" in line


def test_the_traceback_is_there_on_request(ask, capsys, monkeypatch):
    monkeypatch.setenv("THALWEG_TRACEBACK", "1")
    assert ask(raising(KeyError("a"))) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_with_json_an_error_is_an_object_too(ask, capsys):
    assert ask(raising(DataError("no \x1b[2J such row")), "--json") == 1
    out, err = capsys.readouterr()
    assert json.loads(out) == {"error": {"kind": "DataError", "message": "no \x1b[2J such row"}, "status": 1}
    assert "\x1b" not in err


def test_warnings_are_single_lines_said_once(ask, capsys):
    def energy(piece):
        for _ in range(3):
            warnings.warn("column 'a':\nodd", DataWarning, stacklevel=1)
            warnings.warn("somebody else's", DeprecationWarning, stacklevel=1)
        return fine(piece)

    assert ask(energy, "--json") == 0
    out, err = capsys.readouterr()
    assert err.splitlines()[0] == "warning: column 'a': odd"
    assert err.count("warning:") == 1
    assert json.loads(out)["rows"] == 20


def test_a_later_piece_says_where_it_begins(ask, capsys, monkeypatch):
    import thalweg.data

    pieces = [pa.table({"a": [1.0, 2.0]}), pa.table({"a": [3.0]})]
    monkeypatch.setattr(thalweg.data, "batches", lambda source: iter(pieces))
    calls = iter([fine, raising(DataError("row 0: no number"))])
    assert ask(lambda piece: next(calls)(piece)) == 1
    assert "row 0: no number (in the piece of the data that begins at row 2)" in capsys.readouterr().err


def test_an_output_in_the_way_is_refused_before_any_work(ask, capsys, tmp_path):
    path = tmp_path / "out.csv"
    path.write_text("mine")
    assert ask(raising(AssertionError("work was done")), "--out", str(path)) == 1
    assert "exists" in capsys.readouterr().err
    assert path.read_text() == "mine"
    assert ask(fine, "--out", str(path), "--force") == 0
    assert path.read_text().splitlines()[1] == "0"


def test_a_failed_answer_leaves_no_file(ask, tmp_path, table):
    path = tmp_path / "out.csv"
    assert ask(raising(DataError("no")), "--out", str(path)) == 1
    assert sorted(os.listdir(tmp_path)) == ["rows.csv"]


def test_a_format_that_is_none_is_refused_before_any_work(ask, capsys, tmp_path):
    assert ask(raising(AssertionError("work was done")), "--out", str(tmp_path / "out.xyz")) == 1
    assert ".parquet" in capsys.readouterr().err


def test_ctrl_c_ends_with_130(ask, capsys):
    assert ask(raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "interrupted: nothing was written\n"


def test_an_interrupted_fit_says_how_to_go_on(capsys, monkeypatch, tmp_path):
    import thalweg

    def fit(*args, **kwargs):
        raise Interrupted("stopped at step 120 of 3,000")

    monkeypatch.setitem(thalweg.__dict__, "fit", fit)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my wine.csv").touch()
    words = ["fit", "my wine.csv", "--recipe", "gmm", "--force", "--out", "m"]
    assert main(words) == 130
    assert capsys.readouterr().err.splitlines() == [
        "interrupted: stopped at step 120 of 3,000",
        "resume: thalweg fit 'my wine.csv' --recipe gmm --out m --resume",
    ]


def interrupted(folder):
    """Fit in a process of its own and interrupt it once it runs: the finished process and how to resume."""
    command = [sys.executable, "-m", "thalweg", "fit", "wine", "--out", "m", "--quiet"]
    for setting in ("steps=6000", "patience=6000", "width=8", "layers=1", "batch=16", "components=2"):
        command += ["--set", setting]
    run = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 100
    started = folder / "m" / "metrics.jsonl"
    while not started.exists() and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=60)
    assert (run.returncode, out) == (130, ""), err
    [resume] = [line for line in err.splitlines() if line.startswith("resume: ")]
    return err, shlex.split(resume)[2:]


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_a_real_ctrl_c_says_how_to_go_on(tmp_path):
    err, words = interrupted(tmp_path)
    assert len(err.splitlines()) == 2
    assert words[:4] == ["fit", "wine", "--out", "m"]
    assert words[-1] == "--resume"
    assert list((tmp_path / "m").glob("checkpoint*"))


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_the_line_that_is_printed_resumes_the_run(tmp_path):
    _, words = interrupted(tmp_path)
    command = [sys.executable, "-m", "thalweg", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "mean" in done.stdout
    assert (tmp_path / "m" / "report.html").exists()


@pytest.mark.parametrize("extra", ["", " --json"])
def test_a_closed_pipe_is_silent(extra, tmp_path):
    code = f"{sys.executable} -m thalweg fit --help{extra} | true"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {code}"], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert done.returncode == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_standard_output_is_an_error():
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m thalweg --version > /dev/full"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_cache_is_private(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    directory = cache.cache_directory()
    directory.mkdir(parents=True)
    directory.chmod(0o777)
    assert cache._private(directory)
    assert directory.stat().st_mode & 0o777 == 0o700
    assert cache.cache_size() == (0, 0)


def test_no_cache_where_none_can_be_had(tmp_path, monkeypatch):
    (tmp_path / "thalweg").write_text("a file is in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.delenv("JAX_ENABLE_COMPILATION_CACHE", raising=False)
    assert cache.keep_compiled() is False


def test_a_link_to_somebody_s_directory_is_no_cache(tmp_path):
    (tmp_path / "theirs").mkdir()
    link = tmp_path / "jax"
    link.symlink_to(tmp_path / "theirs")
    assert cache._private(link) is False


@pytest.mark.parametrize(
    ("source", "name"),
    [("wine", "wine"), ("a/b/sales.csv.gz", "sales"), ("mnist.npz::x_train", "mnist-x_train"),
     ("faces/", "faces"), ("v1.2.parquet", "v1.2"), (".csv", ".csv")],
)  # fmt: skip
def test_data_names(source, name):
    assert arguments.data_name(source) == name


def test_plain_values():
    nan = float("nan")
    assert plain({"a": (nan, 2**60, pa.scalar(1.5).as_py()), 1: {True}}) == {
        "a": [None, 2**60, 1.5],
        "1": [True],
    }
