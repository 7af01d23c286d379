"""Older formats: made-up ones, through the loader itself."""

import json
import shutil
from pathlib import Path

import pytest

import thalweg
from thalweg.errors import ModelDirectoryError
from thalweg.persist import FORMAT, migrations
from thalweg.persist.directory import Entry, Snapshot, _manifest_bytes
from thalweg.persist.layout import CONTENTS, MANIFEST_FILE, MODEL_FILE

MODEL = sorted((Path(__file__).parent / "fixtures" / "models").glob("*-kmeans"))[0]


def older(directory: Path, version: int, change) -> Path:
    """The model as a made-up older version would have written it."""
    from hashlib import sha256

    shutil.copytree(MODEL, directory)
    record = json.loads((directory / MODEL_FILE).read_bytes()) | {"format": version}
    change(record)
    (directory / MODEL_FILE).write_bytes(json.dumps(record).encode())
    blobs = {name: (directory / name).read_bytes() for name in CONTENTS}
    entries = {name: Entry(len(blob), sha256(blob).hexdigest()) for name, blob in blobs.items()}
    (directory / MANIFEST_FILE).write_bytes(_manifest_bytes(entries, version))
    return directory


def rename(old: str, new: str):
    def step(record):
        record[new] = record.pop(old)
        return record

    return step


@pytest.fixture
def steps(monkeypatch):
    """Format -1 called the card `about`; format 0 called it `notes`."""
    found = {-1: rename("about", "notes"), 0: rename("notes", "card")}
    monkeypatch.setattr(migrations, "STEPS", found)


@pytest.mark.parametrize(("version", "name"), [(-1, "about"), (0, "notes"), (1, "card")])
def test_an_older_model_goes_through_every_step_in_order(tmp_path, steps, version, name):
    directory = older(tmp_path / "m", version, rename("card", name))
    assert Snapshot(directory).format == version
    model, known = thalweg.load(directory), thalweg.load(MODEL)
    assert model.card == known.card
    assert (model.F.centroids == known.F.centroids).all()
    again = model.save(tmp_path / "again")
    assert json.loads((again / MODEL_FILE).read_bytes())["format"] == FORMAT
    assert thalweg.load(again).card == known.card


def test_an_older_model_that_is_not_what_its_format_says(tmp_path, steps):
    directory = older(tmp_path / "m", -1, lambda record: None)
    with pytest.raises(
        ModelDirectoryError, match=r"model\.json is not what format -1 has: KeyError\('about'\)"
    ):
        thalweg.load(directory)


@pytest.mark.parametrize(("version", "remedy"), [(-2, "fit the model again"), (2, "upgrade Thalweg")])
def test_formats_beyond_those_known(tmp_path, steps, version, remedy):
    directory = older(tmp_path / "m", version, lambda record: None)
    message = (
        rf"is in format {version}, and this Thalweg \({thalweg.__version__}\) reads formats -1 to 1: {remedy}"
    )
    with pytest.raises(ModelDirectoryError, match=message):
        thalweg.load(directory)


def test_manifest_and_description_must_be_of_one_format(tmp_path, steps):
    directory = older(tmp_path / "m", 0, lambda record: record.update(format=1))
    with pytest.raises(ModelDirectoryError, match=r"'format' of model\.json is 1, and the manifest says 0"):
        thalweg.load(directory)


def test_there_is_a_step_for_every_format_since_the_first():
    assert sorted(migrations.STEPS) == list(range(1, FORMAT))
