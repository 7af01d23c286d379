"""The page: every part from a model with closed forms; what it says is what the model says."""

import base64
import re
from html.parser import HTMLParser
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.image import imread
from stub import StubModel, digits_table, wine_table

from thalweg.errors import OutputError
from thalweg.report.html import Section, number
from thalweg.report.page import page, write_report
from thalweg.report.rows import look_at

VOID = {"meta", "img", "br", "link", "path", "use"}


class Checked(HTMLParser):
    """Reads a page: tags that do not match, ids, and whatever would ask the network for something."""

    def __init__(self, text: str):
        HTMLParser.__init__(self)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.fetched: list[str] = []
        self.tags: set[str] = set()
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        values = dict(attributes)
        if "id" in values:
            self.ids.append(values["id"])
        for name in ("src", "href", "xlink:href", "action", "srcset"):
            if name in values and not values[name].startswith(("#", "data:image/png;base64,")):
                self.fetched.append(values[name])
        self.fetched += [name for name in values if name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def wine():
    return StubModel(wine_table())


@pytest.fixture(scope="module")
def wine_page(wine):
    return page(wine, rows_of(wine_table(), "new wines"))


@pytest.fixture(scope="module")
def digits():
    return StubModel(digits_table().slice(0, 600), name="digits", grid=(8, 8))


@pytest.fixture(scope="module")
def digits_page(digits):
    return page(digits)


def rows_of(table, name):
    class Given:
        def __len__(self):
            return table.num_rows

    given = Given()
    given.table, given.name = table, name
    return given


PARTS = ["questions", "learning", "energies", "calibration", "samples", "completions", "worst"]


@pytest.mark.parametrize("which", ["wine_page", "digits_page"])
def test_a_page_is_whole_and_asks_nothing_of_the_network(which, request):
    text = request.getfixturevalue(which)
    checked = Checked(text)
    assert checked.open == []
    assert checked.fetched == []
    assert "script" not in checked.tags
    assert len(set(checked.ids)) == len(checked.ids)
    assert [i for i in checked.ids if i in PARTS] == PARTS
    assert "http" not in text
    assert "@import" not in text
    assert "url(" not in text.replace("url(#", "")
    assert len(text) < 1_500_000
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text


def test_the_card_is_on_the_page(wine, wine_page):
    text = Checked(wine_page).text
    for known in ("Gaussian for tests on wine", "178", "of 14 columns", "peak memory 812 MB", "stopped early",
                  "Gauss (1809)", "jax", "0.10.2", "width", "512"):  # fmt: skip
        assert known in text
    mean = np.mean(wine.evidence["energies"]["held-out"])
    assert f"{mean:.4g}" in text


def test_the_same_model_gives_the_same_bytes(wine, wine_page):
    assert page(wine, rows_of(wine_table(), "new wines")) == wine_page


def test_the_worst_rows_are_those_of_highest_energy(wine, wine_page):
    energies = wine.energy(wine_table())
    shown = [int(n) for n in re.findall(r"<h3>row (\d+) ", wine_page)]
    assert shown == np.argsort(-energies, kind="stable")[: len(shown)].tolist()
    assert len(shown) == 6


def test_the_worst_cell_and_its_suggestion_are_named(wine, wine_page):
    table = wine_table()
    worst = int(np.argmax(wine.energy(table)))
    told = wine.explain(table.slice(worst, 1))
    name = told.columns[int(np.argmax(told.release[0]))]
    card = Checked(wine_page[wine_page.index("<article>") : wine_page.index("</article>")]).text
    assert f"{name} {table.column(name)[worst].as_py():.4g}" in card
    assert f"{told.release[0].max():.4g}" in card
    assert f"{told.proposal.column(name)[0].as_py():.4g}" in card


def test_held_out_rows_are_looked_at_where_no_data_is_given(wine):
    look = look_at(wine, None)
    assert len(look) == len(wine.calibration.rows)
    column = look.table.column("alcohol").to_numpy()
    assert np.allclose(column, wine.calibration.rows.values[:, 0], atol=1e-5)


def test_the_rows_that_were_fitted_are_not_taken_for_new_ones(wine):
    """Samples and guesses are then judged on the held-out rows, and the curve of p-values is left out."""
    own = Checked(page(wine, rows_of(wine_table(), "wine"))).text
    assert f"{len(wine.calibration.rows)} held-out rows (blue)" in own
    assert "cells of held-out rows" in own
    assert "the rows of wine" not in own
    namesake = Checked(page(wine, rows_of(wine_table().slice(0, 50), "wine"))).text
    assert "50 rows of wine (blue)" in namesake
    assert "the rows of wine" in namesake


def test_pixels_of_a_tile_are_the_row(digits, digits_page):
    """The first picture of the completions is the first held-out row, grey level by grey level."""
    start = digits_page.index('id="completions"')
    found = re.search(r'src="data:image/png;base64,([^"]+)"', digits_page[start:])
    pixels = imread(BytesIO(base64.b64decode(found.group(1))))[..., 0]
    look = look_at(digits, None)
    row = [look.table.column(f"pixel_{i // 8}_{i % 8}")[0].as_py() / 16 for i in range(64)]
    assert np.allclose(pixels.ravel(), row, atol=1 / 255)


def test_hidden_pixels_are_see_through(digits_page):
    start = digits_page.index('alt="given"')
    found = re.search(r'src="data:image/png;base64,([^"]+)"', digits_page[start:])
    alpha = imread(BytesIO(base64.b64decode(found.group(1))))[..., 3]
    assert alpha[:4].min() == 1
    assert alpha[4:].max() == 0


def test_a_question_without_an_answer_leaves_the_rest_whole():
    model = StubModel(wine_table(), samples=False)
    checked = Checked(page(model))
    assert "samples" not in checked.ids
    assert "Samples : the stub does not sample: choose another model" in checked.text
    assert {"completions", "worst"} <= set(checked.ids)


def test_parts_without_material_say_so():
    model = StubModel(wine_table())
    model.history, model.evidence = [{"step": 1, "loss": 2.0}], {"energies": {"train": [], "held-out": []}}
    model.calibration = SimpleNamespace(rows=model.calibration.rows[:0], energies=np.array([]))
    checked = Checked(page(model))
    assert [i for i in checked.ids if i in PARTS] == ["questions"]
    for why in (
        "it is a formula",
        "without the energies",
        "0 held-out rows are too few",
        "no rows to hide cells of",
    ):
        assert why in checked.text


def test_hostile_names_and_values_stay_text():
    hostile = '"><script>alert(1)</script><img src=x onerror=alert(1)>\x1b[2J$\\frac{'
    rng = np.random.default_rng(0)
    table = pa.table({
        hostile: rng.normal(size=80), "plain": rng.normal(size=80), "text": [hostile, "b"] * 40,
    })  # fmt: skip
    model = StubModel(table, name=hostile)
    model.card["paper"] = model.card["settings"] = {hostile: hostile}
    text = page(model, rows_of(table, hostile), [Section("more", hostile, hostile, hostile, "<p>ours</p>")])
    checked = Checked(text)
    assert "script" not in checked.tags
    assert checked.fetched == []
    assert checked.open == []
    assert "\x1b" not in text
    assert "<p>ours</p>" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [(7, "7"), (1797, "1,797"), (-3.0, "−3"), (0.123456, "0.1235"), (12345.6, "12,346"), (7.2514e6, "7,251,400"),
     (1e300, "1e+300"), (float("nan"), "–"), (None, "–"), (True, "True"), ("x", "x")],
)  # fmt: skip
def test_numbers(value, text):
    assert number(value) == text


def test_missing_cells_and_a_constant_column():
    rng = np.random.default_rng(3)
    x = [None if i % 7 == 0 else float(v) for i, v in enumerate(rng.normal(size=120))]
    table = pa.table({"x": x, "y": rng.integers(0, 9, 120), "c": ["only"] * 120, "k": ["u", "v", "w"] * 40})
    model = StubModel(table)
    ids = Checked(page(model, rows_of(table, "rows"))).ids
    assert set(PARTS) <= set(ids)


def test_an_existing_page_is_kept(tmp_path, wine):
    path = tmp_path / "report.html"
    path.write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        write_report(wine, path)
    assert path.read_text() == "mine"
    assert write_report(wine, path, force=True) == path
    assert path.read_text().startswith("<!doctype html>")
