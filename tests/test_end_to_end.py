"""A mixed CSV through every command, and a user's own energy through fit and the questions."""

import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

import thalweg
from mixed import mixed_table, write_mixed
from thalweg.cli.main import main
from thalweg.energy.spaces import Real
from thalweg.errors import DataWarning, NotAnswered, OutputError


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """The CSV and the directory of a model fitted to it by the command line."""
    folder = tmp_path_factory.mktemp("mixed")
    source, out = write_mixed(folder / "wines.csv"), folder / "model"
    fast = ["--set", "steps=150", "--set", "width=64"]
    assert main(["fit", str(source), "--target", "cultivar", "--out", str(out), "--quiet", *fast]) == 0
    return source, out


def answer(capsys, *arguments):
    """The one JSON object that a command prints."""
    capsys.readouterr()
    status = main([*map(str, arguments), "--json"])
    text = capsys.readouterr().out
    assert status == 0, text
    return json.loads(text)


def test_fit_leaves_a_model_and_a_report(fitted):
    _, out = fitted
    assert {
        "model.json",
        "weights.safetensors",
        "manifest.json",
        "README.md",
        "report.html",
        "metrics.jsonl",
    } == {path.name for path in out.iterdir()}


def test_a_checkpoint_of_an_earlier_stage_is_a_run_to_go_on_with(tmp_path):
    """Until the model is written, and then there is none left."""
    out = tmp_path / "model"
    out.mkdir()
    for name in ("early-checkpoint.safetensors", "checkpoint.safetensors"):
        (out / name).write_bytes(b"")
    with pytest.raises(OutputError, match="holds an unfinished run"):
        thalweg.fit("wine", "pca", out=out, progress=False)
    thalweg.fit("wine", "pca", out=out, resume=True, progress=False)
    assert not list(out.glob("*checkpoint*"))


def test_energy_and_score_agree_with_python(fitted, capsys):
    source, out = fitted
    energies = thalweg.load(out).energy(source)
    told = [row["energy"] for row in answer(capsys, "energy", out, source)["answers"]]
    np.testing.assert_allclose(told, energies, rtol=1e-6)
    scored = answer(capsys, "score", out, source, "--alpha", "0.1")["answers"]
    assert all(row["flag"] == (row["p_value"] <= 0.1) for row in scored)
    assert 0 < sum(row["flag"] for row in scored) < 0.2 * len(scored)


def test_an_impossible_row_is_flagged(fitted, capsys, tmp_path):
    source, out = fitted
    table = pa.csv.read_csv(source).slice(0, 1).to_pydict()
    odd = pa.table(table | {"alcohol": [99.0], "proline": [1], "hue": [9.0]})
    pa.csv.write_csv(odd, tmp_path / "odd.csv")
    (row,) = answer(capsys, "score", out, tmp_path / "odd.csv", "--alpha", "0.05")["answers"]
    assert row["flag"]
    assert row["p_value"] == pytest.approx(1 / 60)


def test_complete_fills_every_hole_and_nothing_else(fitted, tmp_path):
    source, out = fitted
    assert main(["complete", str(out), str(source), "--out", str(tmp_path / "full.parquet"), "--quiet"]) == 0
    full, holed = pa.parquet.read_table(tmp_path / "full.parquet"), mixed_table()
    for name in holed.column_names:
        before, after = holed[name].to_pylist(), full[name].to_pylist()
        assert None not in after
        assert [b for b in before if b is not None] == [
            a for a, b in zip(after, before, strict=True) if b is not None
        ]
    assert set(full["cultivar"].to_pylist()) == {"Barolo", "Grignolino", "Barbera"}
    assert (
        main(["complete", str(out), str(source), "-n", "3", "--out", str(tmp_path / "three.csv"), "--quiet"])
        == 0
    )
    assert len(pa.csv.read_csv(tmp_path / "three.csv")) == 3 * len(holed)


def test_sample_keeps_what_is_given_and_restores_types(fitted, capsys):
    _, out = fitted
    rows = answer(capsys, "sample", out, "-n", "20", "--given", "cultivar=Barbera")["answers"]
    assert {row["cultivar"] for row in rows} == {"Barbera"}
    assert {row["cellar"] for row in rows} == {"north"}
    assert all(row["bottled"].startswith("2021-") for row in rows)
    assert all(float(row["proline"]).is_integer() for row in rows)


def test_predict_any_column(fitted, capsys):
    source, out = fitted
    truth = mixed_table()["cultivar"].to_pylist()
    rows = answer(capsys, "predict", out, source)["answers"]
    known = [(row["cultivar"], true) for row, true in zip(rows, truth, strict=True) if true is not None]
    assert np.mean([a == b for a, b in known]) > 0.9
    assert all(
        sum(row[f"p({c})"] for c in ("Barolo", "Grignolino", "Barbera")) == pytest.approx(1) for row in rows
    )
    alcohol = answer(capsys, "predict", out, source, "--target", "alcohol", "--draws", "2")["answers"]
    assert all(row["q0.05"] <= row["q0.5"] <= row["q0.95"] for row in alcohol)
    assert {"draw_1", "draw_2", "mean"} <= alcohol[0].keys()


def test_explain_finds_the_cell_that_was_spoiled(fitted, capsys, tmp_path):
    source, out = fitted
    table = pa.csv.read_csv(source).slice(5, 1).to_pydict()
    pa.csv.write_csv(pa.table(table | {"proline": [90_000]}), tmp_path / "spoiled.csv")
    worst = answer(capsys, "explain", out, tmp_path / "spoiled.csv", "--top", "1")["answers"][0]
    assert worst["column"] == "proline"
    assert worst["release"] > 5
    assert 200 < float(worst["suggestion"]) < 2000
    pairs = answer(capsys, "explain", out, tmp_path / "spoiled.csv", "--pairs")["answers"]
    assert "proline" in pairs[0]["columns"]


def test_denoise_rank_report_and_the_rest(fitted, capsys, tmp_path):
    source, out = fitted
    rows = answer(capsys, "denoise", out, source, "--noise", "0.2")["answers"]
    assert len(rows) == 178
    ranked = answer(capsys, "rank", out, source, source)["answers"]
    first = [row for row in ranked if row["row"] == 0]
    assert [row["energy"] for row in first] == sorted(row["energy"] for row in first)
    assert main(["report", str(out), str(source), "--out", str(tmp_path / "page.html"), "--quiet"]) == 0
    assert "http" not in (tmp_path / "page.html").read_text().replace("http://www.w3.org", "")
    assert main(["encode", str(out), str(source)]) == 1
    assert "pca" in capsys.readouterr().err


def test_missing_reordered_and_unknown_columns(fitted):
    source, out = fitted
    model = thalweg.load(out)
    table = thalweg.data.load(source).table
    backwards = table.select(table.column_names[::-1])
    np.testing.assert_array_equal(model.energy(backwards), model.energy(table))
    with pytest.warns(DataWarning, match="lacks hue"):
        less = model.energy(table.drop_columns(["hue"]))
    assert np.isfinite(less).all()
    other = table.slice(0, 3).to_pydict() | {"cultivar": ["Merlot", "Barolo", "Barolo"]}
    with pytest.warns(DataWarning, match=r"cultivar = 'Merlot' \(row 0\)"):
        energy = model.energy(pa.table(other))
    assert energy[0] > model.energy(table.slice(0, 3))[0]


# --- a user's own energy ---------------------------------------------------------------------------------------------


class Line(eqx.Module):
    """The squared distance from a line through the origin; low energy is bounded to the line by construction."""

    direction: jax.Array

    def __call__(self, y):
        w = self.direction / jnp.linalg.norm(self.direction)
        return jnp.sum((y - w * jnp.dot(w, y)) ** 2)


def test_own_energy_through_fit_save_and_the_questions(tmp_path):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(300, 1)) * [1.0, 2.0] + generator.normal(size=(300, 2)) * 0.1 + [5.0, -3.0]
    own = thalweg.energy_of(Line(jnp.array([1.0, 0.2])), Real((2,)))
    model = thalweg.fit(x, own, progress=False, steps=400, learning_rate=0.05)
    codes = model.schema.encode(x).values
    w = model.F.function.direction / jnp.linalg.norm(model.F.function.direction)
    # The best line through centred data is the first principal axis; standardised, it is the diagonal.
    np.testing.assert_allclose(np.abs(w), [0.5**0.5] * 2, atol=0.02)
    energies = model.energy(x)
    residual = codes - codes @ np.outer(w, w)
    np.testing.assert_allclose(energies, (residual**2).sum(axis=1), rtol=1e-4, atol=1e-6)
    assert model.score(np.array([[5.0, 3.0]]), alpha=0.05).flag.all()
    guess = model.complete(np.array([[6.0, np.nan]]))
    np.testing.assert_allclose(guess, [[6.0, -1.0]], atol=0.3)
    assert model.explain(np.array([[5.0, 3.0]])).release.max() > 1
    clean = model.denoise(np.array([[5.0, -1.0]]), noise=0.5)
    assert model.energy(clean)[0] < model.energy(np.array([[5.0, -1.0]]))[0]
    assert model.compare(x[:1], np.array([[5.0, 3.0]]))[0] > 0
    assert model.predict(np.array([[6.0, 0.0]]), target=model.schema.names[1]).value[
        0
    ].as_py() == pytest.approx(-1, abs=0.3)
    # exp(−F) of standardised columns is a unit of variance about the line, which the box of the columns cuts off.
    drawn = model.sample(300, given={model.schema.names[0]: x[:, 0].mean()}).column(1).to_numpy()
    assert (drawn.mean() - x[:, 1].mean()) / x[:, 1].std() == pytest.approx(0, abs=0.3)
    assert drawn.std() / x[:, 1].std() == pytest.approx(1, abs=0.2)
    with pytest.raises(NotAnswered, match="no latent z"):
        model.encode(x)
    start = jnp.array([0.5, -0.5])
    found = thalweg.minimise(model.F, start, solver=thalweg.inference.Gradient())
    np.testing.assert_allclose(found.energy, 0.0, atol=1e-5)
    model.save(tmp_path / "own")
    again = thalweg.load(tmp_path / "own", energy=own)
    np.testing.assert_array_equal(again.energy(x), energies)
