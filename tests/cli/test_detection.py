"""windows, fit and detect on the command line: a folder of pictures, a table of boxes, and what comes out."""

import json

import numpy as np
import pyarrow.csv
import pytest
from PIL import Image

import thalweg
from thalweg.cli.main import main

pytestmark = pytest.mark.usefixtures("compile_once")
SIDE = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures with a bright disc each, and where it is."""
    place = tmp_path_factory.mktemp("detection")
    (place / "photos").mkdir()
    rng = np.random.default_rng(0)
    across, down = np.meshgrid(*2 * [np.arange(SIDE) - (SIDE - 1) / 2])
    disc = np.hypot(across, down) < SIDE / 2
    lines = ["image,x,y,width,height,label"]
    for i in range(12):
        picture = rng.integers(0, 60, (30, 36))
        x, y = rng.integers(0, 36 - SIDE), rng.integers(0, 30 - SIDE)
        picture[y : y + SIDE, x : x + SIDE][disc] = 220
        Image.fromarray(picture.astype(np.uint8)).save(place / "photos" / f"{i:02d}.png")
        lines.append(f"{i:02d}.png,{x},{y},{SIDE},{SIDE},disc")
    (place / "boxes.csv").write_text("\n".join(lines) + "\n")
    return place


@pytest.fixture
def run(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "120")

    def call(line):
        capsys.readouterr()
        status = main(line.split())
        return status, *capsys.readouterr()

    return call


def test_from_pictures_with_boxes_to_boxes(folder, run):
    status, out, err = run("windows photos boxes.csv --size 12x12 --out windows.npz")
    assert status == 0, err
    assert "36 disc" in out
    assert "thalweg fit windows.npz --recipe detector --target label --set background=background" in out
    settings = "--set channels=2 --set units=8 --set halvings=1 --set steps=150"
    fit = f"fit windows.npz --recipe detector --target label {settings} --out m --quiet"
    assert run(fit)[0] == 0
    status, out, err = run("detect m photos --truth boxes.csv --out found.csv --pictures drawn --json")
    assert status == 0, err
    answer = json.loads(out)
    assert answer["count"] == 12
    assert answer["average precision"] > 0.8
    table = pyarrow.csv.read_csv(folder / "found.csv")
    assert table.num_rows == answer["found"] >= 10
    assert table.column_names == ["image", "x", "y", "width", "height", "label", "energy", "probability"]
    assert set(table["label"].to_pylist()) == {"disc"}
    drawn = sorted(path.name for path in (folder / "drawn").iterdir())
    assert drawn == [f"{i:02d}.png" for i in range(12)]
    plain, marked = (
        np.asarray(Image.open(folder / where / "00.png").convert("RGB")) for where in ("photos", "drawn")
    )
    assert (np.ptp(plain.astype(int), axis=2) == 0).all()
    assert (np.ptp(marked.astype(int), axis=2) > 100).any()
    # False alarms are background for a second round, and there are no others.
    status, out, err = run(
        "windows photos boxes.csv --size 12x12 --hard found.csv --negatives 0 --out more.npz"
    )
    assert status == 0, err
    labels = thalweg.data.load(folder / "more.npz").table["label"].to_pylist()
    assert labels.count("disc") == 36
    status, out, err = run("detect m photos --largest 1.0")
    assert status == 0, err
    assert "found in 12 pictures" in err
    assert "next: thalweg detect m photos --pictures drawn" in out


@pytest.mark.parametrize(
    ("line", "status", "message"),
    [
        ("windows photos boxes.csv --size 12 --out w.npz", 1, "--size needs WIDTHxHEIGHT"),
        ("windows photos boxes.csv --size 40x40 --out w.npz", 1, "smaller than a window of 40×40"),
        ("windows photos boxes.csv --out w.csv", 1, "windows are written as .npz"),
        ("windows photos nowhere.csv --out w.npz", 1, "nowhere.csv"),
        ("detect nowhere photos", 1, "nowhere"),
    ],
)
def test_what_cannot_be_done_is_one_line(run, line, status, message):
    got, _, err = run(line)
    assert got == status
    assert message in err
    assert "Traceback" not in err
