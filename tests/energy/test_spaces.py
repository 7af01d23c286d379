"""The laws of spaces: projection, membership, draws and enumeration."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.energy import Binary, Categorical, Column, Real, Record
from thalweg.errors import SettingsError

MIXED = Record(
    (
        Column("height", "real"),
        Column("share", "real", lower=0.0, upper=1.0),
        Column("count", "integer", 4),
        Column("colour", "categorical", 3),
    )
)
SPACES = {
    "line": Real(()),
    "box": Real((2, 2), -1.0, 2.0),
    "half line": Real((4,), 0.0),
    "category": Categorical((), 5),
    "hypercube": Binary((4,)),
    "grid of categories": Categorical((2, 2), 3),
    "mixed record": MIXED,
    "finite record": Record((Column("a", "integer", 2), Column("b", "categorical", 3))),
}


@pytest.fixture(params=list(SPACES))
def space(request):
    return SPACES[request.param]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
@pytest.mark.parametrize("name", list(SPACES))
def test_projection_is_idempotent_and_lands_in_the_space(name, data):
    space = SPACES[name]
    size = math.prod(space.shape)
    values = data.draw(st.lists(st.floats(-9, 9, width=32), min_size=size, max_size=size))
    y = jnp.asarray(values, jnp.float32).reshape(space.shape)
    projected = space.project(y)
    assert projected.shape == space.shape
    assert space.contains(projected)
    np.testing.assert_array_equal(space.project(projected), projected)


@pytest.mark.parametrize("name", ["category", "hypercube", "grid of categories", "finite record"])
def test_projection_is_the_nearest_point(name):
    space = SPACES[name]
    points = np.asarray(space.points())
    for seed in range(5):
        y = np.random.default_rng(seed).uniform(-1, 5, space.shape).astype(np.float32)
        distances = ((points - y) ** 2).reshape(len(points), -1).sum(1)
        nearest = ((np.asarray(space.project(jnp.asarray(y))) - y) ** 2).sum()
        assert nearest == pytest.approx(distances.min(), abs=1e-5)


def test_draws_lie_in_the_space_and_differ(space):
    draws = jax.jit(jax.vmap(lambda key: space.draw(key=key)))(jax.random.split(jax.random.key(0), 200))
    assert jnp.all(jax.vmap(space.contains)(draws))
    assert jnp.all(jnp.std(draws, axis=0) > 0)


def test_draws_of_finite_coordinates_are_uniform():
    draw = jax.jit(jax.vmap(lambda key: MIXED.draw(key=key)))
    draws = np.asarray(draw(jax.random.split(jax.random.key(1), 4000)))
    for column, size in ((2, 4), (3, 3)):
        share = np.bincount(draws[:, column].astype(int), minlength=size) / len(draws)
        # Five standard errors of a share.
        np.testing.assert_allclose(share, 1 / size, atol=5 * math.sqrt(1 / size / len(draws)))


def test_points_enumerate_a_finite_space_in_lexicographic_order():
    for name in ("category", "hypercube", "grid of categories", "finite record"):
        space = SPACES[name]
        points = np.asarray(space.points()).reshape(space.cardinality, -1)
        expected = list(itertools.product(*(range(size) for size in space.levels())))
        np.testing.assert_array_equal(points, np.array(expected, np.float32))


def test_infinite_and_huge_spaces_are_not_enumerated():
    with pytest.raises(SettingsError, match="not finite and cannot be enumerated"):
        MIXED.points()
    with pytest.raises(SettingsError, match=r"1,073,741,824 points, more than the 1,048,576"):
        Binary((30,)).points()


def test_a_point_outside_is_not_contained():
    assert not Real((2,), 0.0, 1.0).contains(jnp.array([0.5, 1.5]))
    assert not Binary((2,)).contains(jnp.array([0.0, 0.5]))
    assert not Real(()).contains(jnp.array(jnp.nan))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Real((1,), 1.0, 1.0), "empty box"),
        (lambda: Categorical((1,), 0), "at least one value"),
        (lambda: Record(()), "at least one column"),
    ],
)
def test_impossible_spaces_are_refused(build, message):
    with pytest.raises(SettingsError, match=message):
        build()
