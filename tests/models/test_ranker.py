"""The ranker: which rows are compared, what it learns of their order, and bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pytest

import thalweg
from thalweg.asking import answer_batches
from thalweg.data.load import load
from thalweg.data.schema import Schema
from thalweg.errors import DataError, NotAnswered, SettingsError
from thalweg.evaluate.ranking import ndcg
from thalweg.models.ranker import Settings, build, lists_of
from thalweg.nn.initial import drawn
from thalweg.report.page import page

pytestmark = pytest.mark.filterwarnings("ignore:.*outside the range of training")


def queries(n: int, seed: int, first: int = 0) -> pa.Table:
    """Rows whose relevance depends on two of their numbers, above what is usual in their query."""
    rng = np.random.default_rng(seed)
    size = rng.integers(2, 12, n)
    of = np.repeat(np.arange(n), size)
    x = rng.normal(size=(len(of), 4))
    # The level of a query says nothing about the order in it.
    worth = x[:, 0] + x[:, 1] ** 2 + 5 * np.repeat(rng.normal(size=n), size)
    relevance = np.zeros(len(of), int)
    for q in range(n):
        rows = np.flatnonzero(of == q)
        relevance[rows] = np.argsort(np.argsort(worth[rows])) * 5 // len(rows)
    return pa.table({f"x{i}": x[:, i] for i in range(4)} | {"query": of + first, "relevance": relevance})


FAST = {"target": "relevance", "query": "query", "steps": 400, "width": 32, "progress": False}


@pytest.mark.parametrize("loss", ["lambda-rank", "rank-net", "list-net"])
def test_unseen_queries_are_put_in_order(loss):
    model = thalweg.fit(queries(150, 1), "ranker", loss=loss, **FAST)
    test = queries(60, 2)
    of, relevance = test["query"].to_numpy(), test["relevance"].to_numpy()
    scores = -model.energy(test)
    by_model = np.mean([ndcg(scores[of == q], relevance[of == q], 10) for q in range(60)])
    by_chance = np.mean([ndcg(np.zeros((of == q).sum()), relevance[of == q], 10) for q in range(60)])
    assert by_model > 0.93
    assert by_chance < 0.75
    if loss == "list-net":
        alone = test.filter(of == 5)
        energies = model.energy(alone.drop_columns(["relevance"]))
        np.testing.assert_allclose(
            model.rank(None, alone.drop_columns(["query", "relevance"])).energy[0], np.sort(energies)
        )
        order = model.rank(test)
        assert sorted(order.row) == list(range(len(test)))
        for q in range(60):
            rows = order.row[order.query.to_numpy() == q]
            np.testing.assert_array_equal(
                rows, np.flatnonzero(of == q)[np.argsort(-scores[of == q], kind="stable")]
            )
            assert order.rank[order.query.to_numpy() == q].tolist() == list(range(1, len(rows) + 1))
        np.testing.assert_array_equal(
            model.rank(test.drop_columns(["query"])).row, np.argsort(-scores, kind="stable")
        )
        whole = page(model)
        assert "NDCG@10 is" in whole
        assert "put the rows of a query in order, and mean nothing across queries" in whole
        with pytest.raises(NotAnswered, match=r"not which are unusual, as score does \(ask rank\)"):
            model.score(test)
        with pytest.raises(NotAnswered, match="which row comes before which"):
            model.predict(test)
        with pytest.raises(NotAnswered, match="which row comes before which"):
            model.complete(test)
        with pytest.raises(NotAnswered, match="which row comes before which"):
            model.sample(2)
        with pytest.raises(NotAnswered, match="Ranker has no embedding"):
            model.retrieve(test)


def test_queries_of_names_stay_whole_and_new_ones_are_ordered():
    table = queries(40, 1)
    names = pa.array([f"query {q}" for q in table["query"].to_pylist()])
    table = table.set_column(4, "query", names)
    model = thalweg.fit(table, "ranker", **{**FAST, "steps": 20})
    held = set(model.schema.decode(model.calibration.rows.values)["query"].to_pylist())
    count = sum(name in held for name in names.to_pylist())
    assert 0 < len(held) < 40
    assert count == len(model.calibration.rows)
    new = queries(3, 2)
    new = new.set_column(4, "query", pa.array([f"new {q}" for q in new["query"].to_pylist()]))
    order = model.rank(new)
    assert list(dict.fromkeys(order.query.to_pylist())) == ["new 0", "new 1", "new 2"]
    assert order.to_table().column_names == ["query", "row", "rank", "energy"]
    pieces = [*answer_batches(model, "rank", new.to_batches(max_chunksize=4))]
    assert pa.concat_tables(pieces).equals(order.to_table())


def encoded(table: pa.Table):
    schema = Schema.infer(load(table), target="relevance", classes=False)
    return schema.space, schema.encode(table)


def test_relevance_and_query_are_not_read():
    space, rows = encoded(queries(10, 1))
    energy = build(space, Settings(target="relevance", query="query"), drawn(jax.random.key(0)))
    energy = jax.tree.map(lambda leaf: leaf + 0.1, energy)
    slope = np.asarray(jax.grad(energy)(jnp.asarray(rows.values[0])))
    assert (slope != 0).tolist() == [True] * 4 + [False] * 2
    hidden = jnp.asarray(rows.observed[0]).at[4:].set(False)
    assert float(energy.marginal(jnp.asarray(rows.values[0]), hidden)) == float(
        energy(jnp.asarray(rows.values[0]))
    )


def test_only_queries_with_an_order_are_laid_out_and_whole():
    table = pa.table(
        {
            "x": np.arange(9.0),
            "query": [0, 0, 0, 1, 1, 2, 3, 3, 3],
            "relevance": [2, 0, 2, 1, 1, 4, 0, 1, 3],
        }
    )
    space, rows = encoded(table)
    lists, held_out = lists_of(rows, space, Settings(target="relevance", query="query"))
    assert held_out is None
    assert np.asarray(lists.of).tolist() == [0, 3]
    relevance = np.where(np.asarray(lists.present), np.asarray(lists.rows[2]), -1)
    assert sorted(map(sorted, relevance.tolist())) == [[0, 1, 3], [0, 2, 2]]


def test_held_out_queries_are_whole():
    space, rows = encoded(queries(100, 1))
    lists, held_out = lists_of(rows, space, Settings(target="relevance", query="query"))
    assert not set(np.asarray(lists.of)) & set(np.asarray(held_out.of))
    assert len(held_out.of) in range(7, 11)


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        ({}, {"query": ""}, "say which column it is, query="),
        ({}, {"query": "quary"}, "did you mean 'query'"),
        ({}, {"target": "relevence"}, "relevence"),
        ({}, {"query": "relevance"}, "cannot be both the query and its rows' relevance"),
        ({}, {"loss": "hinge"}, "choose one of lambda-rank, rank-net, list-net"),
        ({}, {"gain": "cubic"}, "exponential or linear, not 'cubic'"),
        ({}, {"k": 0}, "at least one place, not 0"),
        (
            {"relevance": lambda n: ["bad", "good", "best"] * (n // 3) + ["bad"] * (n % 3)},
            {},
            "is a category: say --kind",
        ),
        ({"query": lambda n: np.arange(n)}, {}, "no two rows of the same 'query' differ in 'relevance'"),
    ],
)
def test_bad_input(change, settings, message):
    data = queries(20, 1)
    for name, values in change.items():
        data = data.set_column(data.column_names.index(name), name, pa.array(values(len(data))))
    with pytest.raises((SettingsError, DataError), match=message):
        thalweg.fit(data, "ranker", **(FAST | settings))
