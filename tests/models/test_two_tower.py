"""The energy of two sides against its formula, which columns are a side, and what it learns of partners."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pytest

import thalweg
from thalweg.data.load import load
from thalweg.data.schema import Schema
from thalweg.errors import NotAnswered, SchemaError, SettingsError
from thalweg.models.two_tower import Settings, build, sides_of
from thalweg.nn.initial import drawn

pytestmark = pytest.mark.filterwarnings("ignore:.*outside the range of training")


def pairs_of_rows(n: int, seed: int) -> pa.Table:
    """Two sides that show the same three numbers, each in its own way, one of them not linearly."""
    fixed, rng = np.random.default_rng(0), np.random.default_rng(seed)
    mix, other = fixed.normal(size=(3, 5)), fixed.normal(size=(3, 4))
    z = rng.uniform(-1, 1, size=(n, 3))
    a, b = z @ mix, np.sinh(2 * z) @ other + 0.05 * rng.normal(size=(n, 4))
    return pa.table({f"a{i}": a[:, i] for i in range(5)} | {f"b{i}": b[:, i] for i in range(4)})


A, B = [f"a{i}" for i in range(5)], [f"b{i}" for i in range(4)]


@pytest.fixture(scope="module")
def fitted():
    return thalweg.fit(
        pairs_of_rows(600, 1), "two-tower", first="a*", steps=600, size=16, width=64, progress=False
    )


def test_the_energy_is_the_squared_distance_of_both_sides_over_twice_the_temperature():
    space = Schema.infer(load(pairs_of_rows(40, 1))).space
    energy = build(space, Settings(first="a*", size=6, temperature=0.2), drawn(jax.random.key(1)))
    y = jnp.asarray(np.random.default_rng(1).normal(size=9), jnp.float32)
    u, v = (np.asarray(tower(y), np.float64) for tower in energy.towers)
    u, v = u / np.linalg.norm(u), v / np.linalg.norm(v)
    assert float(energy(y)) == pytest.approx(np.sum((u - v) ** 2) / 0.4, rel=1e-4)
    known = jnp.arange(9) < 5
    np.testing.assert_allclose(energy.encode(y, jnp.ones(9, bool)), np.append(u, v), atol=1e-5)
    alone = energy.encode(y.at[5:].set(jnp.nan), known)
    np.testing.assert_allclose(alone, np.append(u, np.zeros(6)), atol=1e-5)


def test_each_tower_reads_its_own_side():
    space = Schema.infer(load(pairs_of_rows(40, 1))).space
    energy = build(space, Settings(first="a*", size=6), drawn(jax.random.key(1)))
    y, known = jnp.ones(9), jnp.ones(9, bool)
    for side, columns in enumerate(energy.sides):
        slope = jax.jacobian(lambda y, side=side: energy.embed(y, known, side))(y)
        moved = np.flatnonzero(np.any(np.asarray(slope) != 0, axis=0))
        assert moved.tolist() == list(columns)


def test_the_temperature_is_never_below_the_coldest():
    space = Schema.infer(load(pairs_of_rows(40, 1))).space
    energy = build(space, Settings(first="a*"), drawn(jax.random.key(1)))
    assert float(energy.temperature) == pytest.approx(0.1)
    cold = replace(energy, log_temperature=jnp.float32(-20.0))
    assert float(cold.temperature) == pytest.approx(0.01)


def test_partners_of_unseen_rows_are_found_from_either_side(fitted):
    test = pairs_of_rows(200, 9)
    a, b = test.select(A), test.select(B)
    for rows, among in ((a, b), (b, a)):
        order = fitted.retrieve(rows, among, k=10).order
        hit = order == np.arange(200)[:, None]
        assert hit[:, 0].mean() > 0.4  # chance is 1 of 200
        assert hit.any(axis=1).mean() > 0.9
    # The energy of a row is that of its pair, as retrieval says it.
    found = fitted.retrieve(a, b, k=200)
    own = found.energy[found.order == np.arange(200)[:, None]]
    np.testing.assert_allclose(np.sort(own), np.sort(fitted.energy(test)), atol=1e-3)
    shuffled = pa.table(
        {name: test[name] for name in A} | {name: test[name].take(np.roll(np.arange(200), 1)) for name in B}
    )
    assert np.mean(fitted.energy(test) < fitted.energy(shuffled)) > 0.9


def test_an_index_is_searched_as_its_rows_are(fitted):
    test = pairs_of_rows(50, 9)
    a, b = test.select(A), test.select(B)
    assert np.array_equal(fitted.retrieve(a, fitted.index(b), 5).order, fitted.retrieve(a, b, 5).order)
    assert np.array_equal(
        fitted.retrieve(b, fitted.index(a, side=0), 5).order, fitted.retrieve(b, a, 5).order
    )


def test_what_it_cannot_say(fitted):
    test = pairs_of_rows(5, 9)
    with pytest.raises(SchemaError, match="none of 'b0', 'b1', 'b2'"):
        fitted.retrieve(test.select(A), test.select(A))
    with pytest.raises(SchemaError, match="none of 'a0'"):
        fitted.retrieve(test.select(B), test.select(B))
    for ask in (
        lambda: fitted.sample(3),
        lambda: fitted.predict(test, "b0"),
        lambda: fitted.complete(
            test.set_column(test.column_names.index("b0"), "b0", pa.nulls(5, pa.float64()))
        ),
        lambda: fitted.denoise(test),
    ):
        with pytest.raises(NotAnswered, match=r"how well the two sides of a row match.*ask retrieve or rank"):
            ask()


def test_sides_are_names_patterns_or_halves():
    space = Schema.infer(load(pairs_of_rows(40, 1))).space
    assert sides_of(space, "a0, b*") == ((0, 5, 6, 7, 8), (1, 2, 3, 4))
    pictures = Schema.infer(load(np.random.default_rng(0).integers(0, 99, (30, 2, 4)).astype(np.uint8))).space
    assert sides_of(pictures, "left") == ((0, 1, 4, 5), (2, 3, 6, 7))
    assert sides_of(pictures, "top") == ((0, 1, 2, 3), (4, 5, 6, 7))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "say which columns are one, first="),
        ({"first": "c*"}, r"no column is called 'c\*'"),
        ({"first": "a00"}, "did you mean 'a0'"),
        ({"first": "*"}, "leaves one of the two sides without a column"),
        ({"first": ","}, "leaves one of the two sides without a column"),
        ({"first": "left"}, "no column is called 'left'"),
        ({"first": "a*", "temperature": 0.001}, "temperature must be at least 0.01"),
        ({"first": "a*", "batch": 1}, "a batch 2 rows, not 64 and 1"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(SettingsError, match=message):
        thalweg.fit(pairs_of_rows(40, 1), "two-tower", progress=False, **settings)
