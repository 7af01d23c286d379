"""A continuous latent eliminated by a solver: factor analysis at zero temperature, in closed form."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from thalweg.energy import (
    AbstractLatentEnergy,
    AbstractSpace,
    Categorical,
    Enumerate,
    Minimised,
    Real,
    latent_energy_of,
)
from thalweg.errors import NotConverged, SettingsError
from thalweg.inference import BFGS, Coordinate, Descend, Gradient

LOADINGS = np.random.default_rng(5).normal(size=(4, 2))
Y = np.array([0.5, -1.0, 2.0, 0.3])


class Factors(AbstractLatentEnergy):
    r"""\(\frac12 \|y - W z\|^2 + \frac12 \|z\|^2\), least at \(z = (W^\top W + I)^{-1} W^\top y\)."""

    loadings: Array
    space: AbstractSpace = Real((4,))
    latent: AbstractSpace = Real((2,))

    def __call__(self, pair, x=None):
        y, z = pair
        return (jnp.sum((y - self.loadings @ z) ** 2) + jnp.sum(z**2)) / 2


ENERGY = Factors(jnp.asarray(LOADINGS, jnp.float32))
PRECISION = np.linalg.inv(np.eye(4) + LOADINGS @ LOADINGS.T)
CODE = np.linalg.solve(LOADINGS.T @ LOADINGS + np.eye(2), LOADINGS.T @ Y)


@pytest.mark.parametrize("solver", [BFGS(), Gradient()], ids=["bfgs", "gradient"])
def test_the_minimum_its_gradient_and_its_curvature(solver):
    energy, y = Minimised(ENERGY, Descend(solver)), jnp.asarray(Y, jnp.float32)
    assert energy(y) == pytest.approx(Y @ PRECISION @ Y / 2, rel=1e-4)
    np.testing.assert_allclose(energy.encode(y, jnp.ones(4, bool)), CODE, atol=1e-3)
    np.testing.assert_allclose(jax.grad(energy)(y), PRECISION @ Y, atol=2e-3)
    # Without the movement of z the curvature would be the identity.
    np.testing.assert_allclose(jax.hessian(energy)(y), PRECISION, atol=2e-3)


def test_the_gradient_of_the_loadings_is_that_of_the_joint_energy():
    gradient = eqx.filter_grad(lambda energy: energy(jnp.asarray(Y, jnp.float32)))(
        Minimised(ENERGY, Descend(BFGS()))
    )
    np.testing.assert_allclose(gradient.energy.loadings, -np.outer(Y - LOADINGS @ CODE, CODE), atol=2e-3)


def test_it_batches_and_compiles():
    rows = np.random.default_rng(2).normal(size=(5, 4)).astype(np.float32)
    found = jax.jit(jax.vmap(Minimised(ENERGY, Descend(BFGS()))))(rows)
    np.testing.assert_allclose(found, np.einsum("ni,ij,nj->n", rows, PRECISION, rows) / 2, rtol=1e-3)


def test_a_finite_latent_by_coordinate_descent_equals_enumeration():
    joint = latent_energy_of(lambda y, z: (y - z[0] - 2 * z[1]) ** 2, Real(()), Categorical((2,), 3))
    y = jnp.array(5.2)
    descended = Minimised(joint, Descend(Coordinate(), jnp.array([2.0, 1.0])))
    assert descended(y) == pytest.approx(0.04, rel=1e-3)
    assert descended(y) == Minimised(joint, Enumerate())(y)


def test_a_search_that_ends_early_raises_unless_told_not_to():
    y = jnp.asarray(Y, jnp.float32)
    short = Gradient(steps=2)
    with pytest.raises(NotConverged, match="steps allowed"):
        Minimised(ENERGY, Descend(short))(y)
    bound = Minimised(ENERGY, Descend(short, throw=False))(y)
    assert Y @ PRECISION @ Y / 2 < bound <= Y @ Y / 2


def test_a_start_of_the_wrong_shape_is_refused():
    with pytest.raises(SettingsError, match=r"shape \(3,\); the latent needs \(2,\)"):
        Minimised(ENERGY, Descend(BFGS(), jnp.zeros(3)))
