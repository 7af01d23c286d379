"""Model directories: what was saved comes back to the bit, and nothing else is believed."""

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import load as from_safetensors
from safetensors.numpy import save as to_safetensors

import thalweg
from thalweg.data.dataset import Dataset
from thalweg.data.schema import Schema
from thalweg.energy.base import AbstractEnergy
from thalweg.energy.spaces import Record
from thalweg.errors import DataError, ModelDirectoryError, OutputError
from thalweg.model import Calibration, Model
from thalweg.models import RECIPES
from thalweg.persist import check_destination, load, save
from thalweg.persist.arrays import kinds_of, named_arrays, outline
from thalweg.persist.directory import write_new
from thalweg.persist.document import calibration_kinds
from thalweg.persist.layout import CONTENTS, LARGEST_TEXT, LONGEST_HISTORY, MANIFEST_FILE, NEXT

FILES = (*CONTENTS, MANIFEST_FILE)
RUN = {
    "checkpoint.safetensors": b"\x00checkpoint",
    "metrics.jsonl": b'{"step": 1}\n',
    "report.html": b"<html>",
}


def table(n: int = 40) -> pa.Table:
    rng = np.random.default_rng(3)
    weight = rng.normal(70, 9, n)
    return pa.table(
        {
            "weight": pa.array(weight, mask=rng.random(n) < 0.1),
            "kind|of": pa.array(rng.choice(["ünder", "over", "level"], n)),
            "children": pa.array(rng.integers(0, 6, n)),
            "seen": pa.array(np.datetime64("2024-02-28") + rng.integers(0, 400, n)),
        }
    )


def _drawn(leaf: jax.ShapeDtypeStruct, rng: np.random.Generator) -> jax.Array:
    """Numbers near 1, or permutations in the rows."""
    if leaf.dtype == np.float32:
        return jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32))
    return jnp.asarray(
        rng.permuted(np.broadcast_to(np.arange(leaf.shape[1]), leaf.shape), axis=1), leaf.dtype
    )


def make(recipe: str = "gmm", seed: int = 0, **settings) -> Model:
    """A model of a small mixed table, its arrays drawn by `seed`."""
    dataset = Dataset(table(), "people")
    schema = Schema.infer(dataset)
    rows = schema.encode(dataset.table)
    chosen = RECIPES[recipe]
    configured = chosen.configure(settings)
    rng = np.random.default_rng(seed)
    # From the outline: building the skeleton itself compiles for seconds.
    skeleton = outline(lambda: chosen.skeleton(schema.space, configured))
    energy = jax.tree.map(
        lambda leaf: _drawn(leaf, rng) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf, skeleton
    )
    return Model(
        F=energy,
        recipe=recipe,
        settings=vars(configured),
        schema=schema,
        calibration=Calibration(
            rows[:10], np.linspace(-1, 1, 10) * np.pi, np.linspace(0, 2, 10) * np.e, np.eye(2) + 0.1
        ),
        card={"data": "people <of> `x`", "seed": seed, "sizes": (1, np.int64(2))},
        history=[{"step": i, "loss": 1 / (i + 1), "held_out": None} for i in range(5000)],
        evidence={"energies": {"train": np.arange(3.0), "noise": [1.5, np.inf]}},
    )


@pytest.fixture(scope="module")
def small() -> Model:
    return make(components=2)


@pytest.fixture(scope="module")
def deep() -> Model:
    return make("orderless", width=8, layers=3, components=2, orderings=2)


@pytest.fixture
def saved(small, tmp_path) -> Path:
    return save(small, tmp_path / "model")


@pytest.fixture
def saved_deep(deep, tmp_path) -> Path:
    return save(deep, tmp_path / "deep")


def contents(directory: Path) -> dict[str, bytes]:
    return {name: (directory / name).read_bytes() for name in CONTENTS}


def forge(directory: Path, **changed: bytes) -> None:
    """New bytes for some of the files (`model`, `weights`), with a manifest that vouches for them."""
    names = {"model": "model.json", "weights": "weights.safetensors", "card": "README.md"}
    write_new(directory, contents(directory) | {names[key]: blob for key, blob in changed.items()})


def edit(directory: Path, change) -> None:
    """`change(record)` on model.json, with a manifest that vouches for it."""
    record = json.loads((directory / "model.json").read_bytes())
    change(record)
    forge(directory, model=json.dumps(record).encode())


def same(a: Model, b: Model) -> bool:
    """Bitwise equal arrays, at the same places."""
    left, right = named_arrays(a.F), named_arrays(b.F)
    return left.keys() == right.keys() and all(
        np.asarray(left[k]).tobytes() == np.asarray(right[k]).tobytes() and left[k].dtype == right[k].dtype
        for k in left
    )


# --- round trips --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "settings"),
    [
        ("gmm", {"components": 2}),
        ("gmm", {"components": 3, "covariance": "diagonal"}),
        ("pca", {"components": 2}),
        ("pca", {}),
        ("kmeans", {"clusters": 3}),
        ("orderless", {"width": 4, "layers": 1}),
    ],
)
def test_what_was_saved_comes_back_to_the_bit(tmp_path, recipe, settings):
    model = make(recipe, seed=7, **settings)
    back = load(save(model, tmp_path / "model"))
    assert same(model, back)
    assert jax.tree.structure(back.F) == jax.tree.structure(model.F)
    assert all(isinstance(leaf, jax.Array) for leaf in named_arrays(back.F).values())
    assert back.schema == model.schema
    assert back.F.space == model.F.space
    assert (back.recipe, back.settings) == (model.recipe, model.settings)
    for field in ("values", "observed", "unseen"):
        before, after = getattr(model.calibration.rows, field), getattr(back.calibration.rows, field)
        np.testing.assert_array_equal(before, after)
    for name in ("energies", "surprises", "usual"):
        np.testing.assert_array_equal(getattr(model.calibration, name), getattr(back.calibration, name))
        assert getattr(back.calibration, name).dtype == np.float64


def test_answers_are_the_same(deep, saved_deep):
    back = thalweg.load(saved_deep)
    np.testing.assert_array_equal(deep.energy(table()), back.energy(table()))
    assert deep.sample(5, seed=1).equals(back.sample(5, seed=1))


def test_what_is_not_numbers_comes_back_as_json_has_it(deep, saved_deep):
    back = load(saved_deep)
    assert back.card == {"data": "people <of> `x`", "seed": 0, "sizes": [1, 2]}
    assert back.evidence == {"energies": {"train": [0.0, 1.0, 2.0], "noise": [1.5, None]}}
    assert len(back.history) <= LONGEST_HISTORY
    assert back.history[0] == deep.history[0]
    assert back.history[-1] == deep.history[-1]
    steps = [record["step"] for record in back.history]
    assert steps == sorted(set(steps))


def test_names_are_places_in_the_energy(saved_deep):
    arrays = from_safetensors((saved_deep / "weights.safetensors").read_bytes())
    assert {"trunk/weights/0", "trunk/weights/1", "orders", "calibration/observed"} <= arrays.keys()
    assert arrays["orders"].dtype == np.int32


def test_card_is_markdown_that_its_content_cannot_break(saved_deep):
    text = (saved_deep / "README.md").read_text()
    assert "# people \\<of\\> `x`: orderless" in text
    assert "| kind\\|of | categorical |" in text
    assert "thalweg.load(" in text
    assert RECIPES["orderless"].paper in text
    assert {path.name for path in saved_deep.iterdir()} == set(FILES)


def test_saving_what_was_loaded_writes_the_same_bytes(saved, tmp_path):
    again = save(load(saved), tmp_path / "again")
    assert contents(saved) == contents(again)


def test_no_calibration_rows(small, tmp_path):
    empty = small.calibration.rows[:0]
    model = replace(small, calibration=Calibration(empty, np.zeros(0), np.zeros(0), np.ones((2, 2))))
    assert len(load(save(model, tmp_path / "model")).calibration.rows) == 0


# --- a user's own energy ------------------------------------------------------------------------------------


class Own(AbstractEnergy):
    space: Record
    centre: jax.Array
    table: np.ndarray
    order: jax.Array
    gate: jax.Array
    strength: float = 1.0

    def __call__(self, y, x=None):
        return self.strength * jnp.sum((y - self.centre) ** 2 * self.gate.astype(jnp.float32))


def own(space: Record, value: float, strength: float = 1.0) -> Own:
    d = len(space.columns)
    return Own(
        space,
        jnp.full(d, value),
        np.full(2, value, np.float64),
        jnp.arange(d)[::-1] + int(value),
        jnp.arange(d) % 2 == int(value) % 2,
        strength,
    )


@pytest.fixture
def custom(small, tmp_path) -> Path:
    settings = {"steps": 2000, "batch": 256, "learning_rate": 0.01, "patience": 10}
    energy = own(small.schema.space, 3.0)
    model = replace(small, F=energy, recipe="custom", settings=settings)
    return save(model, tmp_path / "own")


def test_own_energy_takes_the_saved_arrays(small, custom):
    space = small.schema.space
    back = load(custom, energy=own(space, 0.0)).F
    expected = own(space, 3.0)
    np.testing.assert_array_equal(back.centre, expected.centre)
    np.testing.assert_array_equal(back.order, expected.order)
    np.testing.assert_array_equal(back.gate, expected.gate)
    assert isinstance(back.table, np.ndarray)
    assert back.table.tolist() == [3.0, 3.0]
    y = jnp.arange(float(len(space.columns)))
    assert back(y) == expected(y)


def test_own_energy_from_the_function_that_built_it(small, custom):
    back = load(custom, energy=lambda space, key: own(space, 1.0)).F
    np.testing.assert_array_equal(back.centre, own(small.schema.space, 3.0).centre)


def test_own_energy_needs_the_energy(custom):
    with pytest.raises(ModelDirectoryError, match=r"Own.*energy=…"):
        load(custom)


def test_own_energy_of_another_shape_or_number(small, custom):
    space = small.schema.space
    wider = eqx.tree_at(lambda f: f.order, own(space, 0.0), jnp.arange(9))
    with pytest.raises(ModelDirectoryError, match=r"'order' is I32 \[4\], and the model needs I32 \[9\]"):
        load(custom, energy=wider)
    with pytest.raises(ModelDirectoryError, match=r"strength = 2\.0.*strength = 1\.0"):
        load(custom, energy=own(space, 0.0, strength=2.0))


def test_energy_given_to_a_recipe(small, saved):
    with pytest.raises(ModelDirectoryError, match="needs no energy="):
        load(saved, energy=own(small.schema.space, 0.0))


# --- where a model may be written ---------------------------------------------------------------------------


def test_existing_model_needs_force(small, saved):
    with pytest.raises(OutputError, match=r"holds a model.*--force"):
        save(small, saved)
    other = make(seed=5, components=3)
    assert save(other, saved, force=True) == saved
    assert same(load(saved), other)
    assert {path.name for path in saved.iterdir()} == set(FILES)


def test_run_directory_receives_the_model_and_keeps_its_files(small, tmp_path):
    for name, blob in RUN.items():
        (tmp_path / name).write_bytes(blob)
    save(small, tmp_path)
    save(small, tmp_path, force=True)
    assert same(load(tmp_path), small)
    assert {name: (tmp_path / name).read_bytes() for name in RUN} == RUN


def test_others_files_are_not_overwritten(small, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(OutputError, match=r"README\.md would be overwritten"):
        save(small, tmp_path, force=True)
    assert (tmp_path / "README.md").read_text() == "mine"
    (tmp_path / "README.md").rename(tmp_path / "notes.txt")
    with pytest.raises(OutputError, match=r"holds notes\.txt.*--force"):
        check_destination(tmp_path)
    save(small, tmp_path, force=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_file_and_missing_folder(small, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="is a file"):
        save(small, tmp_path / "file", force=True)
    with pytest.raises(OutputError, match="no folder"):
        save(small, tmp_path / "no" / "model")


def test_model_that_could_not_be_loaded_is_not_saved(small, tmp_path):
    broken = eqx.tree_at(lambda f: f.means, small.F, small.F.means.at[0, 0].set(jnp.nan))
    with pytest.raises(ModelDirectoryError, match="'means' holds NaN"):
        save(replace(small, F=broken), tmp_path / "model")
    wider = eqx.tree_at(lambda f: f.means, small.F, jnp.zeros((3, 7)))
    with pytest.raises(ModelDirectoryError, match="array 'means' is F32"):
        save(replace(small, F=wider), tmp_path / "model")
    with pytest.raises(ModelDirectoryError, match="card/when holds a object"):
        save(replace(small, card={"when": object()}), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_schema_that_a_directory_cannot_keep_is_refused_before_the_training(small, tmp_path, monkeypatch):
    monkeypatch.setitem(LARGEST_TEXT, "model.json", 1000)
    message = (
        r"the description of 2 columns takes \d,\d+ bytes, more than the 750 that a model directory keeps"
    )
    with pytest.raises(DataError, match=message):
        thalweg.fit(np.arange(60.0).reshape(30, 2), "pca", out=tmp_path / "m", progress=False)
    assert not (tmp_path / "m").exists()


# --- kills and full disks -----------------------------------------------------------------------------------

KILLER = """
import os, shutil, signal, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
from thalweg.files import atomic_directory
from thalweg.persist.directory import write_ahead, write_new
from thalweg.persist.layout import CONTENTS

base = Path(sys.argv[1])
contents = {name: (base / "new" / name).read_bytes() for name in CONTENTS}


def dying(call, step, half):
    count = 0
    def wrapped(*args, **keywords):
        nonlocal count
        state["calls"] += 1
        if state["calls"] == step:
            if half:
                half(*args)
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **keywords)
    return wrapped


write_bytes = Path.write_bytes
kinds = iter(("over", "fresh"))
kind, step = next(kinds), 0
while kind:
    step += 1
    target = base / f"{kind}-{step}"
    if kind == "over":
        shutil.copytree(base / "old", target)
    state = {"calls": 0}
    pid = os.fork()
    if pid == 0:
        for name in ("replace", "rename", "fsync", "rmdir"):
            setattr(os, name, dying(getattr(os, name), step, None))
        Path.write_bytes = dying(write_bytes, step, lambda path, blob: write_bytes(path, blob[:200]))
        if kind == "over":
            write_ahead(target, contents)
        else:
            with atomic_directory(target) as temporary:
                write_new(temporary, contents)
        os._exit(0)
    if os.waitpid(pid, 0)[1] == 0:
        kind, step = next(kinds, None), 0
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory, small):
    """Directories of saves that were killed before each of their steps in turn."""
    base = tmp_path_factory.mktemp("killed")
    save(small, base / "old")
    for name, blob in RUN.items():
        (base / "old" / name).write_bytes(blob)
    save(make(seed=5, components=3), base / "new")
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(base)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return base


def steps(base: Path, kind: str) -> list[Path]:
    return sorted(base.glob(f"{kind}-*"), key=lambda path: int(path.name.split("-")[1]))


def test_kill_at_any_step_leaves_the_old_model_or_the_new_one(killed):
    states = steps(killed, "over")
    components = [load(state).settings["components"] for state in states]
    assert len(states) > 12
    assert components == sorted(components)
    assert (components[0], components[-1]) == (2, 3)
    waiting = [(state / NEXT).exists() for state in states]
    # Some were killed between the moment of change and the last rename, where files lie in both places.
    assert sum(waiting) >= 4


def test_save_after_a_kill_tidies_up(killed, small):
    for state in steps(killed, "over"):
        save(small, state, force=True)
        assert same(load(state), small)
        assert {path.name for path in state.iterdir()} == {*FILES, *RUN}
        assert (state / "metrics.jsonl").read_bytes() == RUN["metrics.jsonl"]


def test_kill_of_a_first_save_leaves_nothing_or_the_model(killed):
    found = [int(state.name.split("-")[1]) for state in steps(killed, "fresh")]
    assert found
    assert all(load(killed / f"fresh-{step}").settings["components"] == 3 for step in found)
    with pytest.raises(ModelDirectoryError, match="no such directory"):
        load(killed / "fresh-1")


def test_reader_beside_a_writer_always_finds_a_whole_model(small, saved):
    other = make(seed=5, components=3)
    done = threading.Event()

    def alternate():
        for i in range(12):
            save((other, small)[i % 2], saved, force=True)
        done.set()

    writer = threading.Thread(target=alternate)
    writer.start()
    try:
        while not done.is_set():
            model = load(saved)
            assert same(model, small if model.settings["components"] == 2 else other)
    finally:
        writer.join()


@pytest.mark.parametrize("call", range(4))
@pytest.mark.parametrize("fresh", [True, False])
def test_full_disk_loses_nothing(monkeypatch, small, saved, tmp_path, call, fresh):
    other = make(seed=5, components=3)
    write, calls = Path.write_bytes, iter(range(100))

    def full(path, blob):
        if next(calls) == call:
            write(path, blob[: len(blob) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, blob)

    target = tmp_path / "fresh" if fresh else saved
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="disk is full"):
        save(other, target, force=not fresh)
    monkeypatch.undo()
    assert same(load(saved), small)
    assert {path.name for path in saved.iterdir()} == set(FILES)
    assert {path.name for path in tmp_path.iterdir()} == {"model"}


# --- damage -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_byte_is_noticed(saved, name):
    path = saved / name
    blob = path.read_bytes()
    rng = np.random.default_rng(list(name.encode()))
    for place in rng.choice(len(blob), min(60, len(blob)), replace=False):
        flipped = bytearray(blob)
        flipped[place] ^= 1 << rng.integers(8)
        path.write_bytes(flipped)
        with pytest.raises(ModelDirectoryError, match="model: "):
            load(saved)
    path.write_bytes(blob)
    load(saved)


@pytest.mark.parametrize("name", FILES)
def test_cut_off_empty_and_missing_files(saved, name):
    path = saved / name
    blob = path.read_bytes()
    for end in (0, 1, 7, len(blob) // 2, len(blob) - 1):
        path.write_bytes(blob[:end])
        with pytest.raises(ModelDirectoryError, match=name if name != MANIFEST_FILE else r"manifest\.json"):
            load(saved)
    path.write_bytes(blob + b"\n")
    with pytest.raises(ModelDirectoryError, match=r"bytes|manifest\.json"):
        load(saved)
    path.unlink()
    with pytest.raises(ModelDirectoryError, match=f"{name} is missing: the model directory is not whole"):
        load(saved)


def test_not_a_model_directory(saved, tmp_path):
    with pytest.raises(
        ModelDirectoryError, match=r"modle: there is no such directory: did you mean .*model\?"
    ):
        load(tmp_path / "modle")
    with pytest.raises(ModelDirectoryError, match="thalweg fit DATA --out"):
        load(tmp_path / "zzz")
    with pytest.raises(ModelDirectoryError, match="this is a file"):
        load(saved / "model.json")
    (tmp_path / "run").mkdir()
    with pytest.raises(ModelDirectoryError, match="not a model directory"):
        load(tmp_path / "run")
    (tmp_path / "run" / "checkpoint.safetensors").write_bytes(b"")
    with pytest.raises(ModelDirectoryError, match=r"unfinished run.*--resume"):
        load(tmp_path / "run")


# --- forgery: the manifest vouches for everything -----------------------------------------------------------


def test_other_formats_are_refused_with_the_versions_named(saved):
    manifest = json.loads((saved / MANIFEST_FILE).read_bytes())
    for written, remedy in ((2, "upgrade Thalweg"), (0, "fit the model again")):
        (saved / MANIFEST_FILE).write_text(json.dumps(manifest | {"format": written}))
        message = rf"format {written}, and this Thalweg \({thalweg.__version__}\) reads format 1: {remedy}"
        with pytest.raises(ModelDirectoryError, match=message):
            load(saved)


@pytest.mark.parametrize("name", ["../../../etc/passwd", "/etc/passwd", "sub/model.json", "code.pkl"])
def test_manifest_names_nothing_else(saved, name):
    manifest = json.loads((saved / MANIFEST_FILE).read_bytes())
    manifest["files"][name] = manifest["files"].pop("README.md")
    (saved / MANIFEST_FILE).write_text(json.dumps(manifest))
    with pytest.raises(ModelDirectoryError, match="must list"):
        load(saved)


@pytest.mark.parametrize("name", FILES)
def test_links_are_not_followed(saved, tmp_path, name):
    shutil.copy(saved / name, tmp_path / "elsewhere")
    (saved / name).unlink()
    (saved / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelDirectoryError, match=f"{name} is a symbolic link"):
        load(saved)


def test_links_and_pipes(small, saved, tmp_path):
    copy = Path(shutil.copytree(saved, tmp_path / "copy"))
    (saved / NEXT).symlink_to(copy)
    with pytest.raises(ModelDirectoryError, match=r"\.next is a symbolic link"):
        load(saved)
    with pytest.raises(OutputError, match="symbolic link"):
        save(small, saved, force=True)
    (copy / "README.md").unlink()
    os.mkfifo(copy / "README.md")
    with pytest.raises(ModelDirectoryError, match="not a regular file"):
        load(copy)


def _set(*path, to):
    def change(record):
        for part in path[:-1]:
            record = record[part]
        if to is None:
            del record[path[-1]]
        else:
            record[path[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("recipe", to="flow"), "recipe 'flow', which this Thalweg does not have"),
        (_set("recipe", to=["gmm"]), "'recipe' of model.json must be of type str"),
        (_set("recipe", to=None), "missing or unknown fields: recipe"),
        (_set("pickle", to="gASV"), "missing or unknown fields: pickle"),
        (_set("settings", "components", to=3), r"'log_weights' is F32 \[2\], and the model needs F32 \[3\]"),
        (_set("settings", "components", to=10**9), "the model needs F32"),
        (_set("settings", "components", to=10**30), "the model needs F32"),
        (_set("settings", "components", to=-1), "settings|no energy can be built"),
        (_set("settings", "components", to="2"), "'components'.* wrong type"),
        (_set("settings", "scale", to="__import__"), "scale"),
        (_set("settings", "depth", to=2), "no setting 'depth'"),
        (_set("schema", "columns", to=[]), "field 'schema'"),
        (_set("schema", "rows", to="many"), "field 'schema'"),
        (_set("calibration", "rows", to=-1), "how many rows"),
        (
            _set("calibration", "rows", to=10**12),
            r"calibration/values.* the model needs F32 \[1000000000000, 4\]",
        ),
        (_set("history", to=[1]), "'history'"),
        (_set("history", to=[{"loss": 1.0}]), "'history' of model.json must hold .* with their step"),
        (_set("history", to=[{"step": 1, "loss": "low"}]), "'history'"),
        (_set("card", "rows", to="many"), "'card' of model.json must hold numbers for rows"),
        (_set("card", "seconds", to=10**400), "'card'"),
        (_set("card", "title", to=[]), "'card' of model.json must hold text for data, title"),
        (_set("evidence", "energies", to=[1.0]), "'evidence' of model.json must hold lists of numbers"),
        (_set("evidence", "energies", to={"train": ["x"]}), "'evidence'"),
        (_set("evidence", "surprises", to={"train": [[1.0], 2.0]}), "'evidence'"),
        (_set("format", to=True), "'format'"),
        (_set("format", to=7), "format"),
        (_set("arrays", "means", to=None), "lacks the array 'means'"),
        (_set("arrays", "means", "dtype", to="O"), "no type and shape"),
        (_set("arrays", "means", "shape", to=[2.0, 6]), "no type and shape"),
        (
            _set("arrays", "more", to={"dtype": "F32", "shape": [0]}),
            "an array 'more' that the model has no place",
        ),
    ],
)
def test_forged_model_json(saved, change, message):
    edit(saved, change)
    with pytest.raises(ModelDirectoryError, match=message):
        load(saved)


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"[]",
        b'{"a": NaN}',
        b'{"a": 1e999}',
        b'{"a": 1, "a": 2}',
        b"\xff\xfe",
        b"[" * 100_000,
        b"9" * 5000,
        rb'{"a": "\ud800"}',
    ],
    ids=["empty", "list", "nan", "inf", "twice", "binary", "deep", "long", "half a character"],
)
def test_json_that_is_none(saved, blob):
    forge(saved, model=blob)
    with pytest.raises(
        ModelDirectoryError, match=r"model\.json (is not valid JSON|must hold one JSON object)"
    ):
        load(saved)


def test_json_of_very_many_values_is_refused_before_they_are_built(saved):
    forge(saved, model=b'{"a": [' + b"[]," * 9_000_000 + b"[]]}")
    tracemalloc.start()
    try:
        with pytest.raises(
            ModelDirectoryError, match=r"model\.json holds 18,000,003 values, more than the 8,388,608"
        ):
            load(saved)
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()


def _without(arrays, name):
    return {key: array for key, array in arrays.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: _without(a, "means"), "lacks the array 'means'"),
        (lambda a: _without(a, "means") | {"Means": a["means"]}, "lacks the array 'means'"),
        (
            lambda a: a | {"extra": np.zeros(3, np.float32)},
            "an array 'extra' that the model has no place for",
        ),
        (lambda a: a | {"means": a["means"].T.copy()}, "'means' is F32"),
        (lambda a: a | {"means": a["means"].astype(np.float64)}, "'means' is F64"),
        (lambda a: a | {"means": a["means"].view(np.int32)}, "'means' is I32"),
        (lambda a: a | {"means": np.full_like(a["means"], np.nan)}, "'means' holds NaN or infinities"),
        (lambda a: a | {"factors": np.full_like(a["factors"], np.inf)}, "'factors' holds NaN or infinities"),
        (lambda a: a | {"calibration/energies": np.full(10, np.nan)}, "calibration rows hold NaN"),
        (lambda a: a | {"calibration/surprises": np.full(10, np.nan)}, "calibration rows hold NaN"),
        (lambda a: a | {"calibration/usual": np.full((2, 2), np.nan)}, "calibration rows hold NaN"),
        (lambda a: a | {"calibration/values": a["calibration/values"][1:]}, "calibration/values"),
    ],
)
def test_forged_arrays(saved, change, message):
    arrays = from_safetensors((saved / "weights.safetensors").read_bytes())
    forge(saved, weights=to_safetensors(change(arrays)))
    with pytest.raises(ModelDirectoryError, match=message):
        load(saved)


def split_weights(directory: Path) -> tuple[dict, bytes]:
    blob = (directory / "weights.safetensors").read_bytes()
    length = int.from_bytes(blob[:8], "little")
    return json.loads(blob[8 : 8 + length]), blob[8 + length :]


def joined(header, body: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


EMPTY = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}


def _shift(header):
    header["means"]["data_offsets"][0] += 4
    return header


def _overlap(header):
    header["means"]["data_offsets"] = header["factors"]["data_offsets"]
    return header


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_shift, "does not lie where its shape says"),
        (_overlap, "does not lie where its shape says"),
        (lambda h: h | {"means": [1]}, "damaged at array 'means'"),
        (lambda h: h | {"__metadata__": {"a": "b"}}, "damaged at array '__metadata__'"),
        (lambda h: h | {"means": h["means"] | {"shape": [-2, 6]}}, "no type and shape"),
        (lambda h: h | {"means": h["means"] | {"shape": [10**18]}}, "does not lie where its shape says"),
        (lambda h: h | dict.fromkeys(map(str, range(20_000)), EMPTY), r"lists 20,009 arrays: more than"),
        (lambda h: h | dict.fromkeys(map(str, range(200_000)), EMPTY), r"has 1\d,\d+,\d+ bytes: more than"),
    ],
    ids=["gap", "overlap", "list", "metadata", "negative", "huge", "20,000 empty", "200,000 empty"],
)  # fmt: skip
def test_forged_header(saved, change, message):
    header, body = split_weights(saved)
    forge(saved, weights=joined(change(header), body))
    with pytest.raises(ModelDirectoryError, match=message):
        load(saved)


def test_header_longer_than_the_file(saved):
    blob = (saved / "weights.safetensors").read_bytes()
    forge(saved, weights=(1 << 62).to_bytes(8, "little") + blob[8:])
    with pytest.raises(ModelDirectoryError, match="cut off"):
        load(saved)


def test_absurd_width_is_refused_before_anything_is_allocated(deep, saved_deep):
    """All of model.json and of the header agree on arrays of 10^18 numbers; only the file is too small."""
    settings = deep.settings | {"width": 10**9}
    recipe, space = RECIPES["orderless"], deep.schema.space
    skeleton = outline(lambda: recipe.skeleton(space, recipe.configure(settings)))
    kinds = {**kinds_of(named_arrays(skeleton)), **calibration_kinds(10, deep.schema)}
    assert max(kind.size for kind in kinds.values()) == 4 * 10**18

    def grow(record):
        record["settings"] = settings
        record["arrays"] = {name: {"dtype": k.dtype, "shape": list(k.shape)} for name, k in kinds.items()}

    edit(saved_deep, grow)
    header, end = {}, 0
    for name, kind in kinds.items():
        header[name] = {
            "dtype": kind.dtype,
            "shape": list(kind.shape),
            "data_offsets": [end, end + kind.size],
        }
        end += kind.size
    forge(saved_deep, weights=joined(header, split_weights(saved_deep)[1]))
    tracemalloc.start()
    try:
        with pytest.raises(ModelDirectoryError, match=r"bytes of numbers, and its arrays need 8,000,0"):
            load(saved_deep)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 50e6


def test_absurd_number_of_layers_is_refused_at_once(saved_deep):
    edit(saved_deep, _set("settings", "layers", to=10**9))
    started = time.monotonic()
    with pytest.raises(
        ModelDirectoryError, match=r"'layers' is 1,000,000,000, and the model has only \d+ arrays"
    ):
        load(saved_deep)
    assert time.monotonic() - started < 10


def test_many_steps_are_not_many_layers(deep, tmp_path):
    model = replace(deep, settings=deep.settings | {"steps": 10**6})
    assert load(save(model, tmp_path / "model")).settings["steps"] == 10**6


def test_error_names_the_path(saved):
    (saved / "README.md").write_text("changed")
    with pytest.raises(ModelDirectoryError, match=f"^{saved}: README.md has 7 bytes"):
        load(saved)
