"""Whatever hypothesis thinks of: text as CSV, headers of arrays, JSON in place of any part of a model's description."""

import contextlib
import json
import math
import shutil
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hostile.data_cases import attempt
from hostile.model_cases import FIXTURES, FORMATS, vouch
from thalweg.errors import ModelDirectoryError, ThalwegError
from thalweg.persist import load
from thalweg.persist.layout import MODEL_FILE
from thalweg.persist.plain import from_json, to_json

quickly = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
#: As people write tables, and as they don't.
cells = st.one_of(
    st.sampled_from(
        ["", "1", "-2.5", "1e3", "NA", "2024-02-29", "true", "a", '"', '""', "\0", "é", "1,5", "007"]
    ),
    st.text(max_size=6),
)
tables = st.lists(st.lists(cells, min_size=1, max_size=4), min_size=1, max_size=12)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)
shapes = st.lists(st.integers(-3, 2**64) | st.integers(0, 40), max_size=5).map(tuple)
sizes = st.lists(st.integers(0, 2**32 - 1) | st.integers(0, 9), max_size=6)
types = st.sampled_from(
    ["<f8", ">f4", "<i8", "|u1", "|b1", "<U4", "|S3", "<M8[D]", "<m8[s]", "|O", "<c8", "|V9", "<f2"]
)


@quickly
@given(st.one_of(st.text(max_size=200), tables.map(lambda rows: "\n".join(map(",".join, rows)))))
def test_any_text_as_csv(tmp_path, text):
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with contextlib.suppress(ThalwegError):
        attempt(path)


@quickly
@given(
    st.binary(max_size=300),
    st.sampled_from(["a.csv", "a.tsv", "a.parquet", "a.arrow", "a.npy", "a.npz", "a.idx"]),
)
def test_any_bytes(tmp_path, blob, name):
    (tmp_path / name).write_bytes(blob)
    with contextlib.suppress(ThalwegError):
        attempt(tmp_path / name)


@quickly
@given(shapes, types, st.booleans(), st.binary(max_size=640))
def test_any_header_of_an_array(tmp_path, shape, type_, fortran, body):
    header = repr({"descr": type_, "fortran_order": fortran, "shape": shape}).encode() + b"\n"
    blob = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body
    (tmp_path / "a.npy").write_bytes(blob)
    with contextlib.suppress(ThalwegError):
        attempt(tmp_path / "a.npy")


@quickly
@given(
    st.lists(st.integers(0, 2**32 - 1) | st.integers(0, 9), max_size=6),
    st.integers(0, 255),
    st.binary(max_size=200),
)
def test_any_idx(tmp_path, shape, code, body):
    blob = struct.pack(f">HBB{len(shape)}I", 0, code, len(shape), *shape) + body
    (tmp_path / "a.idx").write_bytes(blob)
    with contextlib.suppress(ThalwegError):
        attempt(tmp_path / "a.idx")


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    """A model directory to write over."""
    name = next(name for name in FORMATS if name.endswith("kmeans"))
    return Path(shutil.copytree(FIXTURES / name, tmp_path_factory.mktemp("model") / "model"))


RECORD = json.loads((FIXTURES / next(n for n in FORMATS if n.endswith("kmeans")) / MODEL_FILE).read_bytes())
#: Each part of model.json down to the third level.
PLACES = [
    *((name,) for name in RECORD),
    *((name, inner) for name, part in RECORD.items() if isinstance(part, dict) for inner in part),
    *(("schema", "columns", 0, name) for name in RECORD["schema"]["columns"][0]),
]


@quickly
@given(st.sampled_from(PLACES), plain)
def test_any_json_in_any_place(directory, path, value):
    record = json.loads(json.dumps(RECORD))
    part = record
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    vouch(directory, **{MODEL_FILE: json.dumps(record).encode()})
    try:
        model = load(directory)
    except ModelDirectoryError:
        return
    assert repr(model)


def finite(value) -> bool:
    if isinstance(value, dict | list):
        return all(map(finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


@quickly
@given(st.dictionaries(st.text(), plain.filter(finite)))
def test_json_comes_back_as_it_was(value):
    assert from_json(to_json(value), "it") == value


@quickly
@given(st.binary(max_size=100) | plain.map(lambda value: json.dumps(value).encode()))
def test_json_from_anybody(blob):
    with contextlib.suppress(ModelDirectoryError):
        assert from_json(to_json(from_json(blob, "it")), "it") == from_json(blob, "it")
