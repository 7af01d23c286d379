"""retrieve: the nearest by one product against brute force, and by a graph against the nearest."""

import numpy as np
import pytest

import thalweg
from thalweg.errors import NotAnswered, SettingsError
from thalweg.questions.retrieve import Index, _without_itself


def directions(n: int, seed: int) -> np.ndarray:
    u = np.random.default_rng(seed).normal(size=(n, 8)).astype(np.float32)
    return u / np.linalg.norm(u, axis=1, keepdims=True)


@pytest.mark.parametrize("k", [1, 7, 30])
def test_the_nearest_are_those_of_brute_force(k):
    u, v = directions(40, 0), directions(30, 1)
    order, energy = Index(v, 0, 0.5).nearest(u, k)
    squares = np.sum((u[:, None].astype(np.float64) - v[None]) ** 2, axis=2)
    expected = np.argsort(squares, axis=1, kind="stable")[:, :k]
    assert np.array_equal(order, expected)
    np.testing.assert_allclose(energy, np.take_along_axis(squares, expected, 1) / (2 * 0.5), atol=1e-5)


def test_of_equals_the_first_comes_first():
    v = np.eye(3, dtype=np.float32)[[0, 1, 1, 2, 1]]
    order, _ = Index(v, 0, 1.0).nearest(np.eye(3, dtype=np.float32)[[1]], 5)
    assert order.tolist() == [[1, 2, 4, 0, 3]]


def test_no_row_is_its_own_partner():
    found = np.array([[0, 2, 1], [0, 2, 3], [2, 1, 0]])
    order, energies = _without_itself(found, found.astype(float))
    # Row 1 has been crowded out by its equals: the last goes.
    assert order.tolist() == [[2, 1], [0, 2], [1, 0]]
    assert energies.tolist() == [[2.0, 1.0], [0.0, 2.0], [1.0, 0.0]]


@pytest.fixture(scope="module")
def model():
    return thalweg.fit("wine", "siamese", target="target", network="linear", steps=60, progress=False)


def test_a_row_is_nearest_to_itself_and_left_out_among_its_own(model):
    wine = thalweg.data.load("wine").table
    alone = model.retrieve(wine, wine, 2)
    assert np.mean(alone.order[:, 0] == np.arange(178)) > 0.99
    assert not np.any(model.retrieve(wine, k=3).order == np.arange(178)[:, None])
    assert model.retrieve(wine.slice(0, 4), wine.slice(0, 3), 10).order.shape == (4, 3)
    # The class is not read.
    bare = wine.drop_columns(["target"])
    assert np.array_equal(model.retrieve(bare, bare, 2).order, alone.order)


def test_rows_in_pieces_are_looked_up_among_all_of_themselves(model):
    wine = thalweg.data.load("wine").table
    (answer,) = thalweg.answer_batches(model, "retrieve", [wine.slice(0, 100), wine.slice(100)], k=2)
    assert np.array_equal(answer["candidate"].to_numpy().reshape(178, 2), model.retrieve(wine, k=2).order)


def test_the_answers_are_a_table(model, tmp_path, capsys):
    from thalweg.cli.main import main

    wine = thalweg.data.load("wine").table
    (answer,) = thalweg.answer_batches(model, "retrieve", [wine.slice(0, 3)], among=wine, k=2)
    assert answer.column_names == ["row", "rank", "candidate", "energy"]
    assert answer["row"].to_pylist() == [0, 0, 1, 1, 2, 2]
    model.save(tmp_path / "model")
    assert main(["retrieve", str(tmp_path / "model"), "wine", "wine", "-k", "1", "--quiet"]) == 0
    assert "candidate" in capsys.readouterr().out


def test_batches_embed_the_candidates_once(model, monkeypatch):
    from thalweg.questions import retrieve

    wine, sizes = thalweg.data.load("wine").table, []
    embed = retrieve.embeddings

    def counted(F, rows, side):
        sizes.append(len(rows))
        return embed(F, rows, side)

    whole = model.retrieve(wine.slice(0, 6), wine, 2).to_table()
    monkeypatch.setattr(retrieve, "embeddings", counted)
    batches = [wine.slice(0, 0), wine.slice(0, 3), wine.slice(3, 3)]
    parts = list(thalweg.answer_batches(model, "retrieve", batches, among=wine, k=2))
    assert sizes.count(178) == 1 + 1  # once for the empty batch, whose columns are asked for
    assert [n for part in parts for n in part["candidate"].to_pylist()] == whole["candidate"].to_pylist()


def test_what_cannot_be_asked(model):
    with pytest.raises(SettingsError, match="at least one candidate a row, not 0"):
        model.retrieve("wine", k=0)
    with pytest.raises(SettingsError, match="exact or hnsw, not 'tree'"):
        model.retrieve("wine", method="tree")
    other = thalweg.fit("wine", "pca", components=2, progress=False)
    with pytest.raises(NotAnswered, match=r"fit siamese .* or two-tower"):
        other.retrieve("wine")


def test_the_graph_finds_nearly_all_of_the_nearest():
    pytest.importorskip(
        "faiss", reason="faiss-cpu is not installed: pip install thalweg[retrieval]", exc_type=ImportError
    )
    from thalweg.questions.retrieve import _graph

    u, v = directions(200, 0), directions(20_000, 1)
    exact, energies = Index(v, 0, 0.5).nearest(u, 10)
    found, approximate = Index(v, 0, 0.5, _graph(v)).nearest(u, 10)
    recall = np.mean([len(set(a) & set(b)) for a, b in zip(exact, found, strict=True)]) / 10
    assert recall > 0.97
    np.testing.assert_allclose(approximate[:, 0], energies[:, 0], atol=0.05)


def test_without_the_library_of_the_graph_the_error_says_what_to_install(model, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(SettingsError, match=r"pip install thalweg\[retrieval\], or take the exact search"):
        model.retrieve("wine", method="hnsw")
