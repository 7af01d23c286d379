"""Folders of Parquet files: answered file by file, each whole or not at all, and never twice."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import thalweg
from thalweg.cli.main import main
from thalweg.errors import DataError, OutputError, SettingsError
from thalweg.folders import RECORD, answer_folder

NAMES = ("a.parquet", "b.pq", "deep/a.parquet", "deep/er/c.parquet")


def rows(n, seed, *, spread=1.0):
    rng = np.random.default_rng(seed)
    return pa.table({name: rng.uniform(-spread, spread, n) for name in "xyz"})


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A directory with a model of three columns of numbers, over a wider range than those asked about."""
    place = tmp_path_factory.mktemp("folders") / "m"
    thalweg.fit(rows(400, 0, spread=2.0), "pca", components=2, progress=False).save(place)
    return str(place)


@pytest.fixture
def data(tmp_path):
    """Four files, two of them in folders, among what engines leave behind."""
    place = tmp_path / "data"
    for seed, name in enumerate(NAMES):
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows(30 + seed, seed + 1), path)
    for other in ("_SUCCESS", ".hidden.parquet", "_temporary/x.parquet", "readme.txt"):
        (place / other).parent.mkdir(exist_ok=True)
        (place / other).write_text("not data")
    return place


def found(out):
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())


def times(out):
    return {name: (out / name).stat().st_mtime_ns for name in found(out)}


def test_each_file_has_its_answers_under_its_name(model, data, tmp_path):
    out = tmp_path / "out"
    done = answer_folder(model, "score", data, out, alpha=0.1)
    assert (done.files, done.finished, done.rows) == (4, 0, 30 + 31 + 32 + 33)
    assert found(out) == sorted([*NAMES, RECORD])
    loaded = thalweg.load(model)
    for name in NAMES:
        assert pq.read_table(out / name).equals(
            loaded.score(data / name, alpha=0.1).to_table().replace_schema_metadata(None)
        )


def test_what_is_finished_is_skipped_and_what_changed_is_done_again(model, data, tmp_path):
    out = tmp_path / "out"
    answer_folder(model, "energy", data, out)
    before = times(out)
    assert answer_folder(model, "energy", data, out).files == 0
    assert times(out) == before
    pq.write_table(rows(12, 99), data / "b.pq")
    os.utime(data / "a.parquet", ns=(1, 1))
    (out / "deep" / "a.parquet").unlink()
    done = answer_folder(model, "energy", data, out)
    assert (done.files, done.finished) == (3, 1)
    assert times(out)["deep/er/c.parquet"] == before["deep/er/c.parquet"]
    assert pq.read_metadata(out / "b.pq").num_rows == 12
    assert answer_folder(model, "energy", data, out).files == 0


def test_answers_to_different_questions_are_never_mixed(model, data, tmp_path):
    out = tmp_path / "out"
    answer_folder(model, "score", data, out, alpha=0.1)
    before = times(out)
    with pytest.raises(OutputError, match=r"with other options \(alpha 0.1, not 0.2\): give another --out"):
        answer_folder(model, "score", data, out, alpha=0.2)
    with pytest.raises(OutputError, match=r"to another question \(score, not energy\)"):
        answer_folder(model, "energy", data, out)
    thalweg.fit(rows(400, 1, spread=2.0), "pca", components=2, progress=False).save(tmp_path / "other")
    with pytest.raises(OutputError, match="of another model"):
        answer_folder(tmp_path / "other", "score", data, out, alpha=0.1)
    assert times(out) == before
    assert answer_folder(model, "score", data, out, alpha=0.1).files == 0
    assert answer_folder(model, "score", data, out, alpha=0.2, force=True, shard=(0, 2)).files == 2
    # Killed here, the folder would hold answers at both rates: those at the old one do not count as finished.
    with pytest.raises(OutputError, match=r"b\.pq exists and is not an answer to this question"):
        answer_folder(model, "score", data, out, alpha=0.2)
    done = answer_folder(model, "score", data, out, alpha=0.2, force=True)
    assert (done.files, done.finished) == (2, 2)


def test_a_file_of_somebody_else_is_not_replaced(model, data, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "b.pq").write_text("mine")
    with pytest.raises(OutputError, match=r"b\.pq exists and is not an answer to this question"):
        answer_folder(model, "energy", data, out)
    assert (out / "b.pq").read_text() == "mine"


def test_shards_are_parts_that_make_the_whole(model, data, tmp_path):
    one, many = tmp_path / "one", tmp_path / "many"
    answer_folder(model, "complete", data, one, n=2, seed=5)
    shards = [answer_folder(model, "complete", data, many, n=2, seed=5, shard=(i, 3)) for i in range(3)]
    assert [shard.files for shard in shards] == [2, 1, 1]
    for name in NAMES:
        assert pq.read_table(many / name).equals(pq.read_table(one / name))


def test_no_two_files_share_their_draws(model, data, tmp_path):
    holes = pa.table({"x": pa.nulls(5, pa.float64()), "y": np.zeros(5), "z": np.zeros(5)})
    for name in NAMES:
        pq.write_table(holes, data / name)
    answer_folder(model, "complete", data, tmp_path / "out", n=2)
    draws = [value for name in NAMES for value in pq.read_table(tmp_path / "out" / name)["x"].to_pylist()]
    assert len(set(draws)) == len(draws) == 40


@pytest.mark.parametrize("shard", [(4, 4), (-1, 4), (0, 0)])
def test_a_shard_that_is_none(shard, model, data, tmp_path):
    with pytest.raises(SettingsError, match="they count from 0"):
        answer_folder(model, "energy", data, tmp_path / "out", shard=shard)
    assert not (tmp_path / "out").exists()


def test_a_file_without_rows_has_an_answer_without_rows(model, data, tmp_path):
    pq.write_table(rows(0, 0), data / "b.pq")
    answer_folder(model, "score", data, tmp_path / "out", alpha=0.1)
    assert pq.read_schema(tmp_path / "out" / "b.pq").names == ["energy", "surprise", "p_value", "flag"]
    assert pq.read_metadata(tmp_path / "out" / "b.pq").num_rows == 0


def test_a_damaged_file_is_named_and_costs_no_other(model, data, tmp_path):
    (data / "b.pq").write_bytes((data / "b.pq").read_bytes()[:100])
    with pytest.raises(DataError, match=r"b\.pq"):
        answer_folder(model, "energy", data, tmp_path / "out")
    assert found(tmp_path / "out") == sorted(["a.parquet", RECORD])


def test_folders_that_would_mix_are_refused(model, data, tmp_path):
    for out in (data, data / "answers", tmp_path):
        with pytest.raises(OutputError, match=r"one of it and .* is inside the other"):
            answer_folder(model, "energy", data, out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no Parquet files"):
        answer_folder(model, "energy", tmp_path / "empty", tmp_path / "out")


def test_on_the_command_line(model, data, tmp_path, capsys):
    words = ["score", model, str(data), "--alpha", "0.1", "--out", str(tmp_path / "out"), "--json"]
    assert main([*words, "--shard", "0/2"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["files"], answer["finished"], answer["shard"]) == (2, 0, [0, 2])
    assert main(words) == 0
    out, err = capsys.readouterr()
    answer = json.loads(out)
    assert (answer["files"], answer["finished"], answer["rows"]) == (2, 2, 31 + 33)
    assert "2 of 4 files were finished and are skipped" in err
    assert "2 files answered, 64 rows" in err
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["files"] == 0


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--shard", "4/4"], 2, "there is no shard 4/4: they count from 0, so here from 0/4 to 3/4"),
        (["--shard", "first"], 2, "--shard needs I/N, such as 0/4, not 'first'"),
        ([], 1, "is a folder of files: name a folder for their answers with --out"),
    ],
)
def test_mistakes_on_the_command_line(words, status, said, model, data, capsys):
    assert main(["energy", model, str(data), *words]) == status
    assert said in capsys.readouterr().err


def test_a_single_file_is_not_divided(model, data, capsys):
    assert main(["energy", model, str(data / "a.parquet"), "--shard", "0/2"]) == 1
    assert "--shard divides the files of a folder" in capsys.readouterr().err


def run(*words):
    command = [sys.executable, "-m", "thalweg", *map(str, words), "--quiet"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_killed_in_the_middle_nothing_is_lost_and_nothing_done_twice(model, tmp_path):
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    for i in range(40):
        pq.write_table(rows(60_000, i), data / f"{i:02}.parquet")
    process = run("energy", model, data, "--out", out)
    deadline = time.monotonic() + 120
    while len(list(out.glob("[0-9]*.parquet"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = {name: time for name, time in times(out).items() if not name.startswith(".")}
    assert 3 <= len(before) - 1 < 40, "the run was over before it could be killed"
    done = answer_folder(model, "energy", data, out)
    assert (done.files, done.finished) == (41 - len(before), len(before) - 1)
    after = times(out)
    assert set(after) == {RECORD, *(f"{i:02}.parquet" for i in range(40))}, "something was left behind"
    assert {name: after[name] for name in before} == before
    loaded = thalweg.load(model)
    for path in sorted(data.iterdir()):
        np.testing.assert_allclose(pq.read_table(out / path.name)["energy"], loaded.energy(path), rtol=1e-5)


#: Not getrusage, whose peak begins with that of the process that started this one.
PEAK = """
import sys
from pathlib import Path
from thalweg.cli.main import main
assert main(["energy", *sys.argv[1:], "--quiet"]) == 0
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of a process from /proc")
def test_memory_does_not_grow_with_the_file(model, tmp_path):
    """A file of one row group is the worst case: held whole, five million rows of three numbers are 120 MB."""
    peaks = []
    for millions in (1, 6):
        path = tmp_path / f"{millions}.parquet"
        pq.write_table(rows(millions * 1_000_000, 0), path, row_group_size=millions * 1_000_000)
        command = [sys.executable, "-c", PEAK, model, str(path), "--out", f"{path}.arrow"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout.splitlines()[-1]) / 1024)
    assert peaks[1] - peaks[0] < 40, f"{peaks} MB"
