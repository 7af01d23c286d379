"""Tables and files that appear whole or not at all."""

# ruff: noqa: PT012 (a context manager fails in its block)

import errno
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from thalweg.data import Writer, load
from thalweg.errors import OutputError
from thalweg.files import atomic_directory, atomic_file

TABLE = pa.table(
    {
        "x": pa.array([1.5, None, 2.25]),
        "n": pa.array([1, 2, None]),
        "t": pa.array(["a", 'say "b", twice\nthen go', None]),
        "d": pa.array([0, 1, None], pa.int32()).cast(pa.date32()),
        "c": pa.array(["u", "v", "u"]).dictionary_encode(),
    }
)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".pq", ".arrow", ".feather", ".ipc"])
def test_pieces_make_one_file(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    with Writer(path) as writer:
        writer.write(TABLE.slice(0, 1))
        assert not path.exists()
        writer.write(TABLE.slice(1))
    found = load(path).table
    assert found.to_pydict() == TABLE.to_pydict()
    assert os.listdir(tmp_path) == [path.name]


def test_plain_text_is_not_quoted(tmp_path):
    path = tmp_path / "a.csv"
    with Writer(path) as writer:
        writer.write(pa.table({"x": [1.5, None], "word": ["a", "b"]}))
    assert path.read_text() == "x,word\n1.5,a\n,b\n"


def test_dictionaries_may_grow(tmp_path):
    path = tmp_path / "a.arrow"
    with Writer(path) as writer:
        for words in (["u", "v"], ["w", "u"], ["z", None]):
            writer.write(pa.table({"c": pa.array(words).dictionary_encode()}))
    assert load(path).table["c"].to_pylist() == ["u", "v", "w", "u", "z", None]


def test_npy(tmp_path):
    path = tmp_path / "a.npy"
    with Writer(path) as writer:
        writer.write(pa.table({"x": [1.5, 2.5], "n": [1, 2]}))
        writer.write(pa.table({"x": [3.5], "n": [3]}))
    np.testing.assert_array_equal(np.load(path), [[1.5, 1], [2.5, 2], [3.5, 3]])
    with (
        pytest.raises(OutputError, match=r"column 't' holds string, and \.npy holds numbers only"),
        Writer(tmp_path / "b.npy") as writer,
    ):
        writer.write(TABLE.select(["t"]))
    assert os.listdir(tmp_path) == ["a.npy"]


def test_refusals(tmp_path):
    with pytest.raises(OutputError, match=r"no table format is called '\.xlsx': use one of \.csv, \.tsv"):
        Writer(tmp_path / "a.xlsx")
    (tmp_path / "a.csv").write_text("old")
    with pytest.raises(OutputError, match=r"a\.csv exists already: give another path, or --force"):
        Writer(tmp_path / "a.csv")
    with pytest.raises(OutputError, match=r"there is no folder .*nowhere"):
        Writer(tmp_path / "nowhere" / "a.csv")
    with Writer(tmp_path / "a.csv", force=True) as writer:
        writer.write(pa.table({"x": [1]}))
    assert (tmp_path / "a.csv").read_text() == "x\n1\n"
    with (
        pytest.raises(OutputError, match="do not have the same columns"),
        Writer(tmp_path / "b.csv") as writer,
    ):
        writer.write(pa.table({"x": [1]}))
        writer.write(pa.table({"y": [1]}))
    assert os.listdir(tmp_path) == ["a.csv"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".arrow", ".npy"])
def test_a_failure_leaves_the_old_file(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), Writer(path, force=True) as writer:
        writer.write(pa.table({"x": [1]}))
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == [path.name]


def _full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".arrow", ".npy"])
def test_a_full_disk(tmp_path, suffix, monkeypatch):
    path = tmp_path / f"a{suffix}"
    monkeypatch.setattr(os, "fsync", _full)
    with (
        pytest.raises(OutputError, match=r"could not be written, the disk is full: free some space"),
        Writer(path) as writer,
    ):
        writer.write(pa.table({"x": [1]}))
    assert os.listdir(tmp_path) == []


_LIMITED = """
import os, resource, sys
import numpy as np, pyarrow as pa
from thalweg.data import Writer
from thalweg.errors import OutputError
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
for suffix in (".csv", ".parquet", ".arrow", ".npy"):
    try:
        with Writer(os.path.join(sys.argv[1], "a" + suffix)) as writer:
            for i in range(20):
                writer.write(pa.table({"x": np.random.default_rng(i).normal(size=10_000)}))
    except OutputError as error:
        print(suffix, "the disk is full" in str(error), os.listdir(sys.argv[1]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_write_that_really_fails(tmp_path):
    """The system itself refuses to write more, wherever in the writing that happens."""
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED, tmp_path], capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n") == [f"{s} True []" for s in (".csv", ".parquet", ".arrow", ".npy")] + [""]


def test_a_full_disk_while_writing_a_directory(tmp_path, monkeypatch):
    with atomic_directory(tmp_path / "model") as folder:
        (folder / "weights").write_text("old")
    monkeypatch.setattr(os, "fsync", _full)
    with (
        pytest.raises(OutputError, match="disk is full"),
        atomic_directory(tmp_path / "model", force=True) as folder,
    ):
        (folder / "weights").write_text("new")
    assert os.listdir(tmp_path) == ["model"]
    assert (tmp_path / "model" / "weights").read_text() == "old"


def test_atomic_files(tmp_path):
    path = tmp_path / "a.svg"
    with atomic_file(path) as temporary:
        assert temporary.suffix == ".svg"
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    with pytest.raises(OutputError, match=r"a\.svg exists already.*--force"), atomic_file(path):
        pass
    with pytest.raises(RuntimeError, match="stop"), atomic_file(path, force=True) as temporary:
        temporary.write_text("half")
        raise RuntimeError("stop")
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.svg"]


def test_what_appears_meanwhile_is_not_replaced(tmp_path):
    path = tmp_path / "a.txt"
    with pytest.raises(OutputError, match="exists already"), atomic_file(path) as temporary:
        temporary.write_text("mine")
        path.write_text("theirs")
    assert path.read_text() == "theirs"


def test_atomic_directories(tmp_path):
    path = tmp_path / "model"
    with atomic_directory(path) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "a").write_text("1")
        assert not path.exists()
    assert (path / "inner" / "a").read_text() == "1"
    with pytest.raises(OutputError, match="exists already"), atomic_directory(path):
        pass
    with atomic_directory(path, force=True) as folder:
        (folder / "b").write_text("2")
    assert os.listdir(path) == ["b"]
    with pytest.raises(RuntimeError, match="stop"), atomic_directory(path, force=True) as folder:
        raise RuntimeError("stop")
    assert os.listdir(path) == ["b"]
    assert os.listdir(tmp_path) == ["model"]
