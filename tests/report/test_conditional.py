"""The pages of models of some columns given the others: what is said is about their answers, and true."""

import re

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import norm
from sklearn.datasets import load_wine
from sklearn.metrics import precision_recall_fscore_support
from sklearn.neighbors import NearestNeighbors

import thalweg
from thalweg.data.dataset import Dataset
from thalweg.report.html import LeftOut, Section, number
from thalweg.report.page import page
from thalweg.report.predictions import predictions
from thalweg.report.retrieval import retrieval
from thalweg.report.rows import held_out, look_at
from thalweg.report.samples import completions, samples
from thalweg.report.training import energies, headline

#: The page is silent about it, for it was said when the rows came in.
pytestmark = pytest.mark.filterwarnings("ignore:.*values outside the range of training")

TAGS = "abc"


def sequences(n: int, seed: int) -> Dataset:
    """Tags in turn, each seen as a word that is wrong for one in four."""
    rng = np.random.default_rng(seed)
    of, tag, word = [], [], []
    for s in range(n):
        start = rng.integers(3)
        for i in range(rng.integers(1, 6)):
            right = (start + i) % 3
            of.append(s)
            tag.append(TAGS[right])
            word.append("uvw"[right if rng.random() < 0.75 else rng.integers(3)])
    table = pa.table({"of": of, "word": word, "tag": tag})
    return Dataset(table, "turns", kinds={"of": "sequence", "tag": "categorical"})


@pytest.fixture(scope="module")
def tagger():
    return thalweg.fit(sequences(150, 0), "crf", target="tag", steps=20, progress=False)


@pytest.fixture(scope="module")
def branches():
    rng = np.random.default_rng(0)
    x, other = rng.uniform(-1, 1, (2, 600))
    y = rng.choice([1, -1], 600) * (0.3 + 0.5 * x**2) + 0.05 * rng.normal(size=600)
    few = {"width": 24, "steps": 300, "progress": False}
    return thalweg.fit({"other": other, "x": x, "y": y}, "implicit", target="y", **few)


@pytest.fixture(scope="module")
def wine():
    data = load_wine(as_frame=True)
    table = data.data.iloc[:, :6].assign(target=data.target)
    return thalweg.fit(table, "siamese", target="target", steps=40, width=16, progress=False)


def facts_of(section: Section) -> dict[str, str]:
    return dict(re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd>", section.body))


def test_labels_and_whole_sequences_are_counted(tagger):
    look = held_out(tagger)
    section = predictions(tagger, look)
    table = look.table
    tags, of = table["tag"].to_pylist(), np.array(table["of"].to_pylist())
    found = np.array(tagger.predict(table.drop_columns(["tag"])).value.to_pylist())
    right = found == np.array(tags)
    assert section.title.startswith(f"{100 * right.mean():.1f} % of tag right")
    whole = [right[of == s].all() for s in np.unique(of)]
    assert facts_of(section)["sequences right"] == f"{100 * np.mean(whole):.1f} % of {len(whole)}"
    assert section.tiles["sequences right"][0] == f"{100 * np.mean(whole):.1f} %"
    scores = precision_recall_fscore_support(tags, found, labels=list(TAGS))
    for tag, *told, count in zip(TAGS, *scores, strict=True):
        cells = '</td><td class="n">'.join(f"{100 * value:.1f} %" for value in told)
        assert f'<td >{tag}</td><td class="n">{count}</td><td class="n">{cells}</td>' in section.below
    wrong = [(t, f) for t, f in zip(tags, found.tolist(), strict=True) if t == "a" and f != "a"]
    if wrong:
        most = max(wrong.count(pair) for pair in wrong)
        assert f", {most} of {tags.count('a')}" in section.below


def test_thinned_rows_are_whole_sequences(tagger):
    data = sequences(200, 1)
    look = look_at(tagger, data).thinned(100)
    assert 50 < len(look) <= 120
    chosen = look.table["of"].to_pylist()
    whole = data.table["of"].to_pylist()
    assert all(chosen.count(s) == whole.count(s) for s in set(chosen))


def test_the_head_says_what_is_right_and_nothing_of_noise(tagger):
    text = page(tagger)
    head = text[: text.index("<details")]
    assert "sequences right" in head
    assert "always the most frequent" in head
    assert "uniform noise" not in text
    assert "One large release points at one wrong cell" not in text
    assert "`" not in text[text.index("<body>") :]
    assert "given word " in text


def test_what_is_given_is_neither_hidden_nor_drawn(tagger, branches, wine):
    for model in (tagger, branches, wine):
        look = held_out(model)
        assert isinstance(completions(model, look), LeftOut)
        assert isinstance(samples(model, look), LeftOut)
        section = energies(model)
        assert "noise" not in section.title.lower() + section.body
        mean = np.mean(model.evidence["energies"]["held-out"])
        assert section.title == f"The answer of a held-out row costs {number(float(mean))} nats in the mean"


def test_many_answers_are_judged_by_their_likelihood_and_modes(branches):
    look = held_out(branches)
    section = predictions(branches, look)
    y = look.table["y"].to_numpy()
    log_p, normal = -branches.energy(look.table).mean(), norm(y.mean(), y.std()).logpdf(y).mean()
    told = facts_of(section)
    assert told["mean log p"] == f"{number(float(log_p))} nats"
    assert told["of one normal"] == f"{number(float(normal))} nats"
    assert section.title == (
        f"True answers are {number(float(log_p - normal), 3)} nats likelier than by one normal distribution of them all"
    )
    assert log_p > normal + 0.5
    # Each row has two answers, far from their mean.
    assert float(told["truth near one"].removesuffix(" %")) > 80
    assert float(told["truth near the mean"].removesuffix(" %")) < 20
    assert 1.8 < float(told["modes a row"]) < 2.5
    # They are drawn against the input that they depend on.
    assert ">x<" in section.beside
    assert ">other<" not in section.beside
    assert "densities" in section.below
    head = headline(branches, [section])
    assert "log p of an answer" in head
    assert "RMSE" in head


def test_the_nearest_of_held_out_rows_is_of_the_same_class(wine):
    look = held_out(wine)
    codes, labels = wine.encode(look.table).z, np.array(look.table["target"].to_pylist())
    nearest = NearestNeighbors(n_neighbors=2).fit(codes).kneighbors(codes)[1][:, 1]
    section = retrieval(wine, look)
    assert facts_of(section)["recall@1"] == f"{100 * np.mean(labels[nearest] == labels):.1f} %"
    chance = np.mean([(labels == label).sum() - 1 for label in labels]) / (len(labels) - 1)
    assert facts_of(section)["at random"] == f"{100 * chance:.1f} %"
    assert "recall@1" in headline(wine, [section])


def test_partners_are_looked_for_on_both_sides():
    rng = np.random.default_rng(0)
    z = rng.uniform(-1, 1, (200, 2))
    rows = {f"left_{i}": column for i, column in enumerate((z @ rng.normal(size=(2, 3))).T)}
    rows |= {f"right_{i}": column for i, column in enumerate((z @ rng.normal(size=(2, 3))).T)}
    model = thalweg.fit(rows, "two-tower", first="left_*", steps=60, width=16, progress=False)
    look = held_out(model)
    section = retrieval(model, look)
    left, right = np.split(model.encode(look.table).z, 2, axis=1)
    order = np.argsort(-left @ right.T, axis=1)
    assert (
        facts_of(section)["recall@1, second for first"]
        == f"{100 * np.mean(order[:, 0] == np.arange(len(left))):.1f} %"
    )
    among = (np.argsort(-right @ left.T, axis=1)[:, :10] == np.arange(len(left))[:, None]).any(axis=1)
    assert facts_of(section)["recall@10, first for second"] == f"{100 * among.mean():.1f} %"
