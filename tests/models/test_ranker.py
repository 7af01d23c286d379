"""The ranker: which rows are compared, what it learns of their order, and bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pytest

import thalweg
from thalweg.data.load import load
from thalweg.data.schema import Schema
from thalweg.errors import DataError, NotAnswered, SettingsError
from thalweg.evaluate.ranking import ndcg
from thalweg.models.ranker import Settings, build, lists_of
from thalweg.nn.initial import drawn

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
        with pytest.raises(NotAnswered, match="which row comes before which"):
            model.predict(test)
        with pytest.raises(NotAnswered, match="which row comes before which"):
            model.complete(test)
        with pytest.raises(NotAnswered, match="which row comes before which"):
            model.sample(2)
        with pytest.raises(NotAnswered, match="Ranker has no embedding"):
            model.retrieve(test)


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
