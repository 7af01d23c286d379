"""The coordinates of bounded spaces: they come back, stay inside, and their Jacobian is the derivative's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thalweg.energy.spaces import Binary, Column, Real, Record, Simplex
from thalweg.sampling import charts

SPACES = {
    "free": Real((3,)),
    "box": Real((3,), -1.0, 3.0),
    "above": Real((3,), 2.0),
    "below": Real((3,), -np.inf, 2.0),
    "record": Record(
        (Column("a", "real", lower=0.0, upper=2.0), Column("b", "real"), Column("c", "categorical", 2))
    ),
}


@pytest.mark.parametrize("name", SPACES)
def test_the_jacobian_is_that_of_the_map(name):
    space, u = SPACES[name], jnp.array([0.3, -1.2, 1.0])
    y, log_volume = charts.point(space, u, folded=False)
    matrix = jax.jacobian(lambda u: charts.point(space, u, folded=False)[0])(u)
    assert np.allclose(log_volume, np.linalg.slogdet(matrix)[1], atol=1e-5)
    assert np.allclose(charts.coordinates(space, y, folded=False), u, atol=1e-4)
    assert space.contains(y)


def test_a_simplex_is_cut_piece_by_piece():
    space, u = Simplex(4), jnp.array([0.3, -1.2, 0.7, 0.0])
    y, log_volume = charts.point(space, u, folded=False)
    matrix = jax.jacobian(lambda u: charts.point(space, u, folded=False)[0])(u)[:3, :3]
    assert np.allclose(log_volume, np.linalg.slogdet(matrix)[1], atol=1e-5)
    assert np.allclose(jnp.sum(y), 1, atol=1e-6)
    assert np.allclose(charts.coordinates(space, y, folded=False), u, atol=1e-4)
    assert np.allclose(charts.point(space, jnp.zeros(4), folded=False)[0], 0.25)


@pytest.mark.parametrize(("u", "y"), [(0.5, 0.5), (-1.5, -0.5), (3.5, 2.5), (8.5, 0.5), (-9.0, -1.0)])
def test_a_folded_box_reflects_at_its_faces(u, y):
    found, log_volume = charts.point(Real((1,), -1.0, 3.0), jnp.array([u]), folded=True)
    assert np.allclose(found, y, atol=1e-6)
    assert log_volume == 0
    assert np.allclose(charts.point(Real((1,), -1.0), jnp.array([-3.0]), folded=True)[0], 1.0)
    assert np.allclose(charts.point(Real((1,), -np.inf, 1.0), jnp.array([3.0]), folded=True)[0], -1.0)


def test_what_is_reflected_keeps_its_shape_and_lies_inside():
    box = Real((2, 2), -1.0, 3.0)
    found = charts.reflected(box, jnp.array([[0.5, -1.5], [3.5, 8.5]]))
    np.testing.assert_allclose(found, [[0.5, -0.5], [2.5, 0.5]], atol=1e-6)
    np.testing.assert_allclose(charts.reflected(Simplex(2), jnp.array([2.0, 0.0])), [1.0, 0.0])


def test_a_point_on_a_bound_has_finite_coordinates():
    u = charts.coordinates(Real((2,), 0.0, 1.0), jnp.array([0.0, 1.0]), folded=False)
    assert np.isfinite(u).all()
    assert np.isfinite(charts.coordinates(Simplex(3), jnp.array([1.0, 0.0, 0.0]), folded=False)).all()


def test_finite_coordinates_are_their_codes():
    y, log_volume = charts.point(Binary((3,)), jnp.array([0.0, 1.0, 1.0]), folded=False)
    assert y.tolist() == [0.0, 1.0, 1.0]
    assert log_volume == 0


def test_projection_on_a_simplex_is_the_nearest_point():
    y = jnp.array([0.9, 0.8, -0.3, 0.1])
    nearest = Simplex(4).project(y)
    assert np.allclose(jnp.sum(nearest), 1)
    others = np.random.default_rng(0).dirichlet(np.ones(4), 20_000)
    assert np.min(np.sum((others - np.asarray(y)) ** 2, axis=1)) >= float(jnp.sum((nearest - y) ** 2)) - 1e-6
