"""Every command on a table with mixed columns, missing cells and dates: standard output, files and JSON."""

import csv
import json
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from sklearn.datasets import load_wine

import thalweg
from thalweg.cli import stream
from thalweg.cli.main import main

ROWS = 178


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`wine.csv`, made from a real table: numbers, counts, words, dates, holes; and a model fitted to it."""
    place = tmp_path_factory.mktemp("cli")
    wine, rng = load_wine(), np.random.default_rng(0)
    hole = rng.random((ROWS, 3)) < 0.1
    picked = [date(2021, 3, 1) + timedelta(days=int(v / 10)) for v in wine.data[:, 12]]
    table = pa.table({
        "alcohol": pa.array(wine.data[:, 0], mask=hole[:, 0]),
        "hue": wine.data[:, 10],
        "magnesium": pa.array(wine.data[:, 4].astype(int), mask=hole[:, 1]),
        "class": pa.array([f"cultivar {t}" for t in wine.target], mask=hole[:, 2]),
        "picked": picked,
    })  # fmt: skip
    pyarrow.csv.write_csv(table, place / "wine.csv")
    words = ["fit", str(place / "wine.csv"), "--recipe", "gmm", "--set", "components=2", "--target", "class"]
    words += ["--out", str(place / "m")]
    assert main([*words, "--quiet"]) == 0
    return place


@pytest.fixture(scope="module")
def model(folder):
    return thalweg.load(folder / "m")


@pytest.fixture
def run(folder, capsys, monkeypatch):
    """Run `thalweg …` in the folder, on `m` loaded once; the status, standard output and standard error."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "120")
    loaded = thalweg.load("m")
    monkeypatch.setattr(stream, "load_model", lambda path: loaded)

    def call(line, *more):
        capsys.readouterr()
        status = main([*line.split(), *more])
        return status, *capsys.readouterr()

    return call


def test_fit_wrote_a_model_and_its_report(folder, model):
    assert model.recipe == "gmm"
    assert model.schema.target == "class"
    assert "<!doctype html>" in (folder / "m" / "report.html").read_text()


def test_fit_prints_a_card(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    assert (
        main(["fit", "wine.csv", "-r", "kmeans", "--set", "clusters=3", "--drop", "picked", "--force"]) == 0
    )
    out = capsys.readouterr().out
    for line in ("recipe  kmeans: K-means", "rows    178 × 4 columns", "energy  mean", "model   wine-kmeans",
                 "report  wine-kmeans/report.html", "next: thalweg score wine-kmeans wine.csv"):  # fmt: skip
        assert line in out
    fitted = thalweg.load("wine-kmeans")
    assert fitted.settings["clusters"] == 3
    assert [column.name for column in fitted.schema.columns] == ["alcohol", "hue", "magnesium", "class"]


def test_fit_does_not_replace_a_model(run, folder):
    before = (folder / "m" / "model.json").read_bytes()
    status, _, err = run("fit wine.csv --recipe gmm --out m")
    assert status == 1
    assert "m exists" in err
    assert (folder / "m" / "model.json").read_bytes() == before


QUESTIONS = {
    "energy m wine.csv": {"energy"},
    "score m wine.csv --alpha 0.05": {"energy", "surprise", "p_value", "flag"},
    "complete m wine.csv": {"alcohol", "hue", "magnesium", "class", "picked"},
    "denoise m wine.csv --noise 0.2": {"alcohol", "hue", "magnesium", "class", "picked"},
    "predict m wine.csv": {"class", "p(cultivar 0)", "p(cultivar 1)", "p(cultivar 2)"},
    "predict m wine.csv --target alcohol --draws 2": {
        "alcohol",
        "mean",
        "q0.05",
        "q0.5",
        "q0.95",
        "draw_1",
        "draw_2",
    },
    "encode m wine.csv": {"z0"},
}


@pytest.mark.parametrize("line", QUESTIONS)
def test_a_question_about_rows_has_one_answer_a_row(line, run):
    status, out, err = run(line, "--json")
    assert status == 0, err
    answer = json.loads(out)
    assert answer["command"] == line.split()[0]
    assert answer["rows"] == len(answer["answers"]) == ROWS
    assert QUESTIONS[line] <= set(answer["answers"][0])
    assert err.splitlines()[-1].startswith("next: thalweg ")
    status, out, err = run(line)
    assert status == 0
    assert "the first 10 of 178 rows" in out
    assert out.splitlines()[-1].startswith("next: thalweg ")
    assert max(map(len, out.splitlines())) <= 120


def test_energies_are_the_model_s(run, model):
    _, out, _ = run("energy m wine.csv --json")
    energies = [answer["energy"] for answer in json.loads(out)["answers"]]
    assert energies == model.energy("wine.csv").tolist()


def test_flags_are_counted(run):
    _, out, _ = run("score m wine.csv --alpha 0.1 --json")
    answer = json.loads(out)
    assert answer["flagged"] == sum(row["flag"] for row in answer["answers"])
    assert all(row["flag"] == (row["p_value"] <= 0.1) for row in answer["answers"])
    _, _, err = run("score m wine.csv --alpha 0.1")
    assert f"{answer['flagged']} of 178 rows flagged" in err


def test_an_alpha_that_flags_nothing_is_one_sentence(run):
    status, _, err = run("score m wine.csv --alpha 0.001")
    assert status == 0
    assert err.startswith(
        "warning: nothing can be flagged at alpha 0.001, for with 59 held-out rows no p-value is below 0.0167"
    )
    assert len(err.splitlines()) == 1


def test_what_predict_is_of_and_what_it_misses_is_said(run, folder):
    table = thalweg.data.load("wine.csv").table.drop_columns(["hue", "picked"])
    pyarrow.csv.write_csv(table, folder / "less.csv")
    status, out, err = run("predict m less.csv --json")
    assert status == 0
    assert json.loads(out)["target"] == "class"
    assert (
        err.count("warning: ") == err.count("warning: less.csv lacks hue, picked: taken as not observed") == 1
    )
    assert "lacks" not in run("predict m wine.csv")[2]


def test_the_suggestion_is_shown_on_a_narrow_terminal(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    _, out, _ = run("explain m wine.csv")
    assert "suggestion" in out
    assert max(map(len, out.splitlines())) <= 60
    assert "suggestion" in run("explain m wine.csv --pairs")[1]


def test_detect_of_a_model_of_rows_names_the_recipe(run):
    status, _, err = run("detect m wine.csv")
    assert status == 1
    assert (
        "does not look for objects in pictures: fit detector, to windows that `thalweg windows` cuts" in err
    )


def test_completed_cells_are_marked_and_the_others_stay(run, folder):
    status, out, _ = run("complete m wine.csv --out filled.csv --force")
    assert status == 0
    with open(folder / "wine.csv") as before, open(folder / "filled.csv") as after:
        old, new = list(csv.DictReader(before)), list(csv.DictReader(after))
    assert len(old) == len(new) == ROWS
    for was, now in zip(old, new, strict=True):
        assert list(was) == list(now)
        assert all(now[name] == cell for name, cell in was.items() if cell != "" and name != "hue")
        assert all(now.values())
    holes = [any(cell == "" for cell in row.values()) for row in old[:10]]
    lines = [line for line in out.splitlines() if "2021-" in line]
    assert ["[" in line for line in lines] == holes


def test_several_draws_of_each_row(run):
    _, out, _ = run("complete m wine.csv -n 3 --json")
    answer = json.loads(out)
    assert len(answer["answers"]) == 3 * ROWS
    assert answer["answers"][0]["hue"] == answer["answers"][2]["hue"]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet", "arrow"])
def test_answers_go_to_files(suffix, run, folder):
    status, out, err = run(f"score m wine.csv --out scores.{suffix} --json --force")
    assert status == 0
    answer = json.loads(out)
    assert answer["out"] == f"scores.{suffix}"
    assert "answers" not in answer
    assert f"178 rows written to scores.{suffix}" in err
    table = thalweg.data.load(folder / f"scores.{suffix}").table
    assert table.num_rows == ROWS
    assert table.column_names == ["energy", "surprise", "p_value", "flag"]


def test_pieces_are_numbered_from_the_start(run, monkeypatch):
    whole = json.loads(run("explain m wine.csv --top 1 --json")[1])["answers"]
    table = thalweg.data.load("wine.csv").table
    monkeypatch.setattr(
        thalweg.data, "batches", lambda source: (table.slice(i, 50) for i in range(0, ROWS, 50))
    )
    pieces = json.loads(run("explain m wine.csv --top 1 --json")[1])["answers"]
    assert [answer["row"] for answer in pieces] == list(range(ROWS))
    assert [answer["column"] for answer in pieces] == [answer["column"] for answer in whole]


def test_warnings_and_answers_count_rows_alike_and_name_the_file(run, folder, monkeypatch):
    table = thalweg.data.load("wine.csv").table.slice(0, 60)
    wrong = [99.0 if i == 57 else hue for i, hue in enumerate(table["hue"].to_pylist())]
    table = table.set_column(table.column_names.index("hue"), "hue", pa.array(wrong))
    pyarrow.csv.write_csv(table, folder / "far.csv")
    status, out, err = run("explain m far.csv --top 1 --json")
    assert status == 0
    [odd] = [answer["row"] for answer in json.loads(out)["answers"] if answer["value"] == "99"]
    assert (
        f"warning: far.csv: values outside the range of training (they are used all the same): hue = '99' (row {odd})"
        in err
    )
    monkeypatch.setattr(
        thalweg.data, "batches", lambda source: (table.slice(i, 25) for i in range(0, 60, 25))
    )
    assert "(row 57)" in run("explain m far.csv --top 1 --json")[2]
    rows = [
        answer["row"] for answer in json.loads(run("predict m far.csv -t hue --modes --json")[1])["answers"]
    ]
    assert sorted(set(rows)) == list(range(60))


def test_no_two_pieces_share_their_draws(run, monkeypatch):
    table = pa.table({"hue": [1.0, 1.0]})
    monkeypatch.setattr(thalweg.data, "batches", lambda source: iter([table, table]))
    draws = [answer["alcohol"] for answer in json.loads(run("complete m wine.csv -n 2 --json")[1])["answers"]]
    assert len(set(draws)) == len(draws)


def test_explain_names_the_wrong_cell(run, folder, model):
    row = dict(thalweg.data.load("wine.csv").table.slice(5, 1).to_pylist()[0], alcohol=30.0)
    pyarrow.parquet.write_table(pa.Table.from_pylist([row]), folder / "wrong.parquet")
    status, out, err = run("explain m wrong.parquet --top 2 --json")
    assert status == 0, err
    worst = json.loads(out)["answers"][0]
    assert worst["column"] == "alcohol"
    assert float(worst["suggestion"]) < 20
    status, out, _ = run("explain m wrong.parquet --pairs --json")
    assert status == 0
    assert "alcohol" in json.loads(out)["answers"][0]["columns"]


def test_a_missing_cell_is_explained_as_missing(run, folder):
    table = thalweg.data.load("wine.csv").table.slice(0, 20)
    holes = [cell is None for cell in table["alcohol"].to_pylist()]
    assert any(holes)
    pyarrow.parquet.write_table(table, folder / "holes.parquet")
    answers = json.loads(run("explain m holes.parquet --top 0 --json")[1])["answers"]
    told = {answer["row"]: answer["value"] for answer in answers if answer["column"] == "alcohol"}
    assert [told[row] is None for row in range(20)] == holes


def test_rank_orders_candidates_by_energy(run, folder, model):
    (folder / "candidates.csv").write_text("class\ncultivar 0\ncultivar 1\ncultivar 2\n")
    status, out, err = run("rank m wine.csv candidates.csv --json")
    assert status == 0, err
    answers = json.loads(out)["answers"][:3]
    first = thalweg.data.load("wine.csv").table.slice(0, 1)
    place = first.column_names.index("class")
    energies = [
        model.energy(first.set_column(place, "class", pa.array([f"cultivar {i}"])))[0] for i in range(3)
    ]
    assert [answer["candidate"] for answer in answers] == np.argsort(energies).tolist()
    assert np.allclose([answer["energy"] for answer in answers], np.sort(energies), atol=1e-4)


def test_sample_holds_what_is_given(run):
    status, out, err = run("sample m -n 5 --given picked=2021-05-01 --json", "--given", "class=cultivar 2")
    assert status == 0, err
    answers = json.loads(out)["answers"]
    assert {(answer["class"], answer["picked"]) for answer in answers} == {("cultivar 2", "2021-05-01")}
    assert len({answer["alcohol"] for answer in answers}) == 5
    assert run("sample m -n 5 --seed 1 --json")[1] != run("sample m -n 5 --json")[1]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("alchol=1", "no column 'alchol'; did you mean 'alcohol'?"),
        ("hue=blue", "column 'hue' holds numbers, not 'blue'"),
    ],
)
def test_sample_names_what_cannot_be_given(run, given, said):
    status, _, err = run("sample m --given", given)
    assert status == 1
    assert said in err


def test_report_of_new_rows(run, folder):
    status, out, err = run("report m wine.csv --out page.html")
    assert status == 0, err
    assert "report: page.html" in out
    assert "Worst rows" in (folder / "page.html").read_text()
    assert run("report m --out page.html")[0] == 1


def test_quiet_says_only_the_answer(run):
    status, out, err = run("score m wine.csv --alpha 0.05 --quiet")
    assert status == 0
    assert err == ""
    assert "next:" not in out
    assert "p_value" in out


def test_the_catalogue(run):
    from thalweg.models import RECIPES

    status, out, _ = run("models --json")
    assert status == 0
    recipes = json.loads(out)["recipes"]
    assert [recipe["name"] for recipe in recipes] == list(RECIPES)
    status, out, _ = run("models")
    assert all(name in out for name in RECIPES)
    status, out, _ = run("models gmm")
    assert status == 0
    for word in ("Dempster", "components", "restarts", "A1", "encode", "next: thalweg fit DATA --recipe gmm"):
        assert word in out


def test_info(run, folder):
    status, out, _ = run("info --json")
    assert status == 0
    about = json.loads(out)
    assert about["versions"]["thalweg"] == thalweg.__version__
    assert about["devices"]
    assert about["cache"]["on"] is True
    assert run("info")[0] == 0


def test_the_demonstration_is_handed_its_options(run, monkeypatch):
    import thalweg.demo

    seen = {}
    monkeypatch.setattr(thalweg.demo, "run", lambda **options: seen.update(options))
    assert run("demo --out there --json")[0] == 0
    assert seen == {"out": "there", "json": True}
