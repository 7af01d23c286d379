"""Cholesky factors in plain array operations, against NumPy's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thalweg.triangular import factorise, invert, solve, swept


def covariance(e, seed=0):
    a = np.random.default_rng(seed).normal(size=(e, e))
    return a @ a.T / e + 0.1 * np.eye(e)


@pytest.mark.parametrize("e", [1, 2, 7, 33, 70])
def test_factor_and_inverse_are_those_of_numpy(e):
    matrix = covariance(e)
    expected = np.linalg.cholesky(matrix)
    factor, inverse = factorise(jnp.asarray(matrix, jnp.float32))
    np.testing.assert_allclose(factor, expected, atol=2e-5)
    np.testing.assert_allclose(inverse, np.linalg.inv(expected), atol=2e-4)
    np.testing.assert_allclose(invert(jnp.asarray(expected, jnp.float32)), np.linalg.inv(expected), atol=2e-4)


def test_a_batch_is_its_matrices():
    matrices = np.stack([covariance(5, seed) for seed in range(4)]).astype(np.float32)
    factors, _ = jax.vmap(factorise)(matrices)
    np.testing.assert_allclose(factors, np.linalg.cholesky(matrices), atol=1e-5)


def test_derivatives_are_those_of_differences():
    matrix = jnp.asarray(covariance(4), jnp.float32)
    direction = jnp.asarray(covariance(4, 1), jnp.float32)
    score = lambda a: sum(jnp.sum(jnp.sin(part)) for part in factorise(a))  # noqa: E731
    step = 1e-2
    difference = (score(matrix + step * direction) - score(matrix - step * direction)) / (2 * step)
    np.testing.assert_allclose(jnp.sum(jax.grad(score)(matrix) * direction), difference, rtol=2e-2)


def test_a_singular_matrix_gets_the_smallest_ridge_that_works():
    ones = jnp.ones((3, 3)) - 1e-6 * jnp.eye(3)
    factor, inverse = factorise(ones)
    assert np.isfinite(inverse).all()
    np.testing.assert_allclose(factor @ factor.T, np.ones((3, 3)), atol=1e-4)
    assert not np.isfinite(np.linalg.eigvalsh(ones).min()) or np.linalg.eigvalsh(ones).min() < 0


def test_several_batches_in_one_function_end():
    """With LAPACK's factors this waits for ever on two cores under JAX 0.10."""
    matrices = [jnp.stack([jnp.eye(e, dtype=jnp.float32) * 4] * 200) for e in (3, 8, 15)]
    sums = jax.jit(lambda many: [jnp.sum(jax.vmap(factorise)(a)[1]) for a in many])
    for _ in range(20):
        found = sums(matrices)
    np.testing.assert_allclose(found, [200 * e * 0.5 for e in (3, 8, 15)])


@pytest.mark.parametrize("e", [1, 5, 40])
def test_what_is_solved_is_what_numpy_solves(e):
    matrix, b = covariance(e), np.arange(1.0, e + 1)
    found = jax.jit(solve)(jnp.asarray(matrix, jnp.float32), jnp.asarray(b, jnp.float32))
    np.testing.assert_allclose(found, np.linalg.solve(matrix, b), rtol=2e-3, atol=2e-3)


def test_no_solution_is_made_up_where_the_matrix_has_a_flat_or_a_falling_direction():
    for matrix in ([[1.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, -1.0]]):
        assert not np.isfinite(solve(jnp.array(matrix), jnp.ones(2))).all()


@pytest.mark.parametrize("e", [1, 2, 7, 33, 70])
def test_what_is_swept_is_the_inverse_and_its_determinant(e):
    matrices = np.stack([covariance(e, seed) for seed in range(3)])
    inverses, log_dets = jax.jit(jax.vmap(swept))(jnp.asarray(matrices, jnp.float32))
    np.testing.assert_allclose(inverses, np.linalg.inv(matrices), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(log_dets, np.linalg.slogdet(matrices)[1], rtol=1e-4, atol=1e-4)


def test_what_is_swept_stays_finite_where_a_matrix_is_singular():
    inverse, log_det = swept(jnp.ones((3, 3)))
    assert np.isfinite(inverse).all()
    assert np.isfinite(log_det)
