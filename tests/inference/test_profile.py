"""The energy along one coordinate, by each of its shortcuts, against evaluation and quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from thalweg.energy import (
    AbstractColumnConditional,
    AbstractMarginal,
    AbstractSpace,
    Binary,
    Column,
    Real,
    Record,
    energy_of,
)
from thalweg.errors import NotAnswered
from thalweg.inference import profile

COVARIANCE = np.array([[1.0, 0.6, 0.2], [0.6, 2.0, -0.3], [0.2, -0.3, 1.5]])
TABLE = Record(tuple(Column(name, "real") for name in "abc"))
VALUES = jnp.array([-1.0, 0.0, 0.5, 2.0])


class Gaussian(AbstractMarginal):
    r"""A centred Gaussian, marginalised by the sub-matrix of its covariance."""

    covariance: Array
    space: AbstractSpace = TABLE

    def __call__(self, y, x=None):
        return self.marginal(y, jnp.ones(3, bool), x)

    def marginal(self, y, observed, x=None):
        # Missing coordinates get an identity block and the value 0, which add nothing.
        both = observed[:, None] & observed[None, :]
        covariance = jnp.where(both, self.covariance, jnp.eye(3))
        seen = jnp.where(observed, y, 0.0)
        size = jnp.sum(observed).astype(jnp.float32)
        _, determinant = jnp.linalg.slogdet(covariance)
        return (seen @ jnp.linalg.solve(covariance, seen) + determinant + size * jnp.log(2 * jnp.pi)) / 2


class Conditional(AbstractColumnConditional):
    """Says only how it was asked."""

    space: AbstractSpace = TABLE

    def __call__(self, y, x=None):
        raise AssertionError("a column conditional is not evaluated")

    def column_energies(self, y, index, values, observed, x=None):
        return values + 10.0 * index.astype(jnp.float32) + 100.0 * jnp.sum(observed).astype(jnp.float32)


GAUSSIAN = Gaussian(jnp.asarray(COVARIANCE, jnp.float32))


def log_normal(y, covariance):
    return (y @ np.linalg.solve(covariance, y) + np.linalg.slogdet(2 * np.pi * covariance)[1]) / 2


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_marginal_energy_is_profiled_with_the_rest_integrated_out(index):
    y, observed = np.array([0.3, -0.8, np.nan]), np.array([True, True, False])
    found = profile(GAUSSIAN, jnp.asarray(y, jnp.float32), index, VALUES, jnp.asarray(observed))
    seen = observed | (np.arange(3) == index)
    expected = []
    for value in np.asarray(VALUES):
        point = np.where(np.arange(3) == index, value, y)
        expected.append(log_normal(point[seen], COVARIANCE[np.ix_(seen, seen)]))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_any_energy_is_evaluated_where_all_else_is_known():
    energy = energy_of(lambda y: y[0] ** 2 + 3 * y[1] * y[2], Real((3,)))
    y = jnp.array([1.0, jnp.nan, 2.0])
    np.testing.assert_allclose(profile(energy, y, 1, VALUES), 1.0 + 6.0 * VALUES)
    np.testing.assert_allclose(
        profile(energy, y, 1, VALUES, jnp.array([True, False, True])), 1.0 + 6.0 * VALUES
    )


def test_a_column_conditional_is_asked_and_nothing_is_evaluated():
    observed = jnp.array([True, False, True])
    found = profile(Conditional(), jnp.zeros(3), 1, VALUES, observed)
    np.testing.assert_allclose(found, VALUES + 10.0 + 200.0)
    np.testing.assert_allclose(profile(Conditional(), jnp.zeros(3), 2, VALUES), VALUES + 20.0 + 300.0)


def test_the_index_may_be_traced_and_batched():
    energy = energy_of(lambda y: jnp.sum(y * jnp.array([1.0, 2.0, 4.0])), Real((3,)))
    y = jnp.array([1.0, 1.0, 1.0])
    found = jax.jit(jax.vmap(lambda i: profile(energy, y, i, VALUES)))(jnp.arange(3))
    weight = np.array([1.0, 2.0, 4.0])[:, None]
    np.testing.assert_allclose(found, 7.0 + weight * (np.asarray(VALUES) - 1.0), rtol=1e-6)


def test_coordinates_count_in_c_order():
    energy = energy_of(lambda y: jnp.sum(y * jnp.arange(4.0).reshape(2, 2)), Binary((2, 2)))
    np.testing.assert_allclose(profile(energy, jnp.zeros((2, 2)), 2, jnp.array([0.0, 1.0])), [0.0, 2.0])


def test_an_energy_that_cannot_marginalise_says_so():
    energy = energy_of(jnp.sum, Real((3,)))
    observed = jnp.array([True, False, False])
    with pytest.raises(NotAnswered, match=r"FunctionEnergy cannot marginalise.*AbstractMarginal"):
        profile(energy, jnp.zeros(3), 1, VALUES, observed)
    with pytest.raises(Exception, match="cannot marginalise"):
        jax.jit(lambda o: profile(energy, jnp.zeros(3), 1, VALUES, o))(observed).block_until_ready()
