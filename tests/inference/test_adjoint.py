"""Derivatives of a minimum, against closed forms and finite differences of references in float64."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from minimise_cases import (
    MATRIX,
    OFFSETS,
    TARGET,
    MixedEnergy,
    Quadratic,
    Valley,
    central,
    quadratic,
    solve_boxed,
    solve_quadratic,
)

from thalweg.energy import Real, Scaled, energy_of
from thalweg.inference import BFGS, Alternating, Coordinate, Enumerate, Gradient, Implicit, Unrolled, minimise

BOX = Real((3,), 0.0, 1.0)
INVERSE = np.linalg.inv(MATRIX)
DESCENT = Gradient(optax.sgd(0.15), steps=150)
WAYS = {
    "implicit gradient": (DESCENT, Implicit()),
    "implicit gradient by conjugate gradients": (DESCENT, Implicit(dense=0)),
    "implicit BFGS": (BFGS(), Implicit()),
    "unrolled gradient": (DESCENT, Unrolled()),
    "unrolled BFGS": (BFGS(), Unrolled()),
}


def argmin(energy, start, solver, adjoint, x=None, observed=None):
    return minimise(energy, start, x, solver=solver, adjoint=adjoint, observed=observed, throw=False).value


@pytest.mark.parametrize("way", [name for name in WAYS if name != "unrolled BFGS"])
def test_the_minimum_of_a_quadratic_moves_with_its_target_and_input(way):
    def minimum(target, x):
        return argmin(Quadratic(quadratic().matrix, target), jnp.zeros(3), *WAYS[way], x)

    by_target, by_input = jax.jacrev(minimum, (0, 1))(jnp.asarray(TARGET, jnp.float32), jnp.ones(3))
    np.testing.assert_allclose(by_target, INVERSE, atol=3e-3)
    np.testing.assert_allclose(by_input, INVERSE, atol=3e-3)


@pytest.mark.parametrize("way", ["implicit BFGS", "unrolled BFGS"])
def test_the_minimum_moves_with_every_array_of_the_energy(way):
    # d y / d A_jk of y = A^-1 b is -A^-1 (E_jk + E_kj) / 2 y.
    weights = jnp.array([1.0, -2.0, 0.5])
    gradient = eqx.filter_grad(lambda e: weights @ argmin(e, jnp.zeros(3), *WAYS[way]))(quadratic())
    u, y = INVERSE @ np.asarray(weights), INVERSE @ TARGET
    np.testing.assert_allclose(gradient.matrix, -(np.outer(u, y) + np.outer(y, u)) / 2, atol=2e-2)
    np.testing.assert_allclose(gradient.target, u, atol=3e-3)
    assert gradient.tag is None


@pytest.mark.parametrize("way", [name for name in WAYS if "BFGS" not in name])
def test_a_coordinate_at_an_active_bound_does_not_move(way):
    def minimum(target):
        return argmin(Quadratic(quadratic().matrix, target, BOX), jnp.full(3, 0.5), *WAYS[way])

    expected = central(solve_boxed, TARGET)
    held = np.abs(expected).sum(1) == 0
    assert held.any()
    assert not held.all()
    found = np.asarray(jax.jacrev(minimum)(jnp.asarray(TARGET, jnp.float32)))
    np.testing.assert_allclose(found, expected, atol=2e-3)
    np.testing.assert_array_equal(found[held], 0)


@pytest.mark.parametrize("way", ["implicit gradient", "unrolled gradient"])
def test_the_rest_moves_with_what_is_observed(way):
    observed = jnp.array([True, False, False])

    def minimum(start):
        return argmin(quadratic(), start, *WAYS[way], observed=observed)

    start = np.array([1.5, 0.0, 0.0])
    expected = central(lambda values: solve_quadratic(TARGET, observed, values), start)
    found = jax.jacrev(minimum)(jnp.asarray(start, jnp.float32))
    np.testing.assert_allclose(found[:, 0], expected[:, 0], atol=3e-3)
    # Where the search started makes no difference to where it ended.
    np.testing.assert_allclose(found[:, 1:], 0, atol=3e-3)


def test_a_valley_by_finite_differences():
    def minimum(a):
        return argmin(Valley(a), jnp.zeros(2), BFGS(1e-7, 1e-7), Implicit())

    at = jnp.array(1.3)
    np.testing.assert_allclose(jax.jacrev(minimum)(at), [1.0, 2.6], rtol=1e-2)
    differences = (minimum(at + 0.05) - minimum(at - 0.05)) / 0.1
    np.testing.assert_allclose(jax.jacrev(minimum)(at), differences, rtol=2e-2)


def test_the_temperature_moves_a_compromise():
    # argmin of beta (y - 2)^2 / 2 + y^2 / 2 is 2 beta / (1 + beta).
    pull, hold = energy_of(lambda y: (y - 2) ** 2 / 2, Real(())), energy_of(lambda y: y**2 / 2, Real(()))

    def minimum(beta):
        return argmin(Scaled(pull, beta) + hold, jnp.array(0.0), DESCENT, Implicit())

    assert minimum(3.0) == pytest.approx(1.5, abs=1e-4)
    assert jax.grad(minimum)(3.0) == pytest.approx(2 / 16, rel=1e-3)
    assert jax.grad(jax.grad(minimum))(3.0) == pytest.approx(-4 / 64, rel=1e-2)


def test_the_energy_at_the_minimum_has_the_envelope_derivative():
    gradient = eqx.filter_grad(lambda e: minimise(e, jnp.zeros(3), solver=DESCENT).energy)(quadratic())
    np.testing.assert_allclose(gradient.target, -INVERSE @ TARGET, atol=2e-3)


def test_forward_mode_agrees():
    def minimum(target):
        return argmin(Quadratic(quadratic().matrix, target), jnp.zeros(3), DESCENT, Implicit())

    _, moved = jax.jvp(minimum, (jnp.asarray(TARGET, jnp.float32),), (jnp.array([1.0, 0.0, 0.0]),))
    np.testing.assert_allclose(moved, INVERSE[:, 0], atol=1e-3)


def test_batches_are_differentiated_row_by_row():
    def minimum(target):
        return argmin(Quadratic(quadratic().matrix, target), jnp.zeros(3), DESCENT, Implicit())

    targets = jnp.asarray(np.random.default_rng(1).normal(size=(4, 3)), jnp.float32)
    found = jax.jit(jax.vmap(jax.jacrev(minimum)))(targets)
    np.testing.assert_allclose(found, np.broadcast_to(INVERSE, (4, 3, 3)), atol=1e-3)


@pytest.mark.parametrize(
    ("adjoint", "finite"),
    [(Implicit(), Enumerate()), (Unrolled(), Coordinate())],
    ids=["implicit", "unrolled"],
)
def test_a_mixed_minimum_moves_in_its_real_part_only(adjoint, finite):
    solver = Alternating([([1, 0, 0], DESCENT), ([0, 1, 1], finite)], rounds=5)
    start = jnp.array([1.9, 0.0, 2.0])

    def size(offsets):
        return argmin(MixedEnergy(offsets), start, solver, adjoint)

    y = size(jnp.asarray(OFFSETS))
    jacobian = np.asarray(jax.jacrev(size)(jnp.asarray(OFFSETS)))
    expected = np.zeros((3, *OFFSETS.shape))
    expected[0, int(y[1]), int(y[2])] = 1.0
    np.testing.assert_allclose(jacobian, expected, atol=1e-3)


def test_damping_gives_flat_directions_a_derivative():
    flat = energy_of(lambda y, x: (y[0] - x) ** 2 / 2, Real((2,)))

    def minimum(x, adjoint):
        return argmin(flat, jnp.zeros(2), DESCENT, adjoint, x)

    assert not jnp.isfinite(jax.jacrev(minimum)(0.5, Implicit())).all()
    np.testing.assert_allclose(jax.jacrev(minimum)(0.5, Implicit(damping=1e-4)), [1.0, 0.0], atol=1e-3)


def test_more_unknowns_than_the_dense_limit():
    size = 700
    energy = energy_of(
        lambda y, x: jnp.sum((y - x) ** 2) / 2 + jnp.sum((y[1:] - y[:-1]) ** 2) / 2, Real((size,))
    )
    x = jnp.zeros(size).at[350].set(1.0)
    gradient = jax.grad(lambda x: argmin(energy, jnp.zeros(size), DESCENT, Implicit(), x)[350])(x)
    chain = 2 * np.eye(size) - np.eye(size, k=1) - np.eye(size, k=-1) + np.eye(size)
    chain[0, 0] = chain[-1, -1] = 2.0
    np.testing.assert_allclose(gradient, np.linalg.inv(chain)[350], atol=1e-4)


def test_two_batches_of_derivatives_in_one_program_end():
    """LAPACK's solvers wait for one another there, for ever, from about 1,000 matrices of 64 coordinates on."""
    valley = energy_of(lambda y, x: jnp.sum((y - x) ** 2) / 2 + jnp.sum(y) ** 2 / 2, Real((64,)))

    def height(x):
        return jnp.sum(argmin(valley, jnp.zeros(64), DESCENT, Implicit(), x))

    slopes = jax.jit(jax.vmap(lambda x: (jax.grad(height)(x), jax.grad(height)(2 * x))))
    for slope in slopes(jnp.ones((1024, 64))):
        # (I + 11')^-1 1 = 1/65.
        np.testing.assert_allclose(slope, np.full((1024, 64), 1 / 65), rtol=1e-3)
