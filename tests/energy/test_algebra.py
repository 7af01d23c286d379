"""The algebra of energies, against closed forms of Gaussians."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from thalweg.energy import (
    AbstractEnergy,
    AbstractSpace,
    Clamped,
    Offset,
    Real,
    Scaled,
    Sum,
    energy_of,
    latent_energy_of,
)
from thalweg.errors import SettingsError

PLANE = Real((2,))
POINTS = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)


class Gaussian(AbstractEnergy):
    r"""\(\sum_i (y_i - \mu_i - x)^2 / 2 \sigma^2\)."""

    mean: Array
    sigma: Array
    space: AbstractSpace = PLANE

    def __call__(self, y, x=None):
        shift = 0.0 if x is None else x
        return jnp.sum((y - self.mean - shift) ** 2) / (2 * self.sigma**2)


def gaussian(mean, sigma):
    return Gaussian(jnp.asarray(mean, jnp.float32), jnp.asarray(sigma, jnp.float32))


F, G, H = gaussian([0.0, 1.0], 1.0), gaussian([2.0, -1.0], 0.5), gaussian([-3.0, 0.3], 2.0)


def values(energy):
    return np.asarray(jax.vmap(energy)(POINTS))


def test_addition_is_commutative_and_associative():
    np.testing.assert_allclose(values(F + G), values(G + F), rtol=1e-6)
    np.testing.assert_allclose(values((F + G) + H), values(F + (G + H)), rtol=1e-6)


def test_an_offset_is_a_constant_that_is_trained_where_it_is_an_array():
    np.testing.assert_allclose(values(Offset(F, 1.5)), values(F) + 1.5, rtol=1e-6)
    gradient = eqx.filter_grad(lambda energy: energy(POINTS[0]))(Offset(F, jnp.array(2.0)))
    assert float(gradient.constant) == 1.0
    with pytest.raises(SettingsError, match="write f \\+ g"):
        Offset(F, G)


def test_sums_of_sums_are_one_sum():
    total = (F + G) + (H + F)
    assert isinstance(total, Sum)
    assert total.terms == (F, G, H, F)


def test_a_product_of_gaussians_is_the_gaussian_of_summed_precisions():
    precision = 1 / 1.0**2 + 1 / 0.5**2
    mean = (np.array([0.0, 1.0]) + np.array([2.0, -1.0]) / 0.25) / precision
    difference = values(F + G) - precision * ((POINTS - mean) ** 2).sum(1) / 2
    np.testing.assert_allclose(difference, difference[0], atol=2e-5)


def test_beta_scales_a_gaussian_precision_and_distributes_over_sums():
    np.testing.assert_allclose(values(4.0 * F), values(gaussian([0.0, 1.0], 0.5)), rtol=1e-6)
    np.testing.assert_allclose(values(F * 0.3 + G * 0.3), values(0.3 * (F + G)), rtol=1e-6)
    np.testing.assert_allclose(values(2.0 * (3.0 * F)), values(6.0 * F), rtol=1e-6)


def test_energies_subtract():
    np.testing.assert_allclose(values((F + G) + -1.0 * G), values(F), atol=2e-5)


def test_given_fixes_the_input():
    y, x = jnp.array([0.2, 0.4]), jnp.array(0.7)
    assert F.given(x)(y) == F(y, x)
    assert (F.given(x) + G)(y) == F(y, x) + G(y)
    with pytest.raises(SettingsError, match="has its input already"):
        F.given(x)(y, x)


def test_clamped_ignores_the_observed_coordinates_of_y_and_the_unobserved_values():
    clamped = F.clamped(jnp.array([5.0, jnp.nan]), jnp.array([True, False]))
    y = jnp.array([jnp.nan, 0.3])
    assert clamped(y) == F(jnp.array([5.0, 0.3]))
    np.testing.assert_allclose(jax.grad(clamped)(y), [0.0, 0.3 - 1.0], atol=1e-6)
    gradient = eqx.filter_grad(lambda energy: energy(y))(clamped)
    np.testing.assert_allclose(gradient.values, [5.0, 0.0])


def test_beta_is_a_parameter_when_it_is_an_array():
    y = jnp.array([1.0, 1.0])
    gradient = eqx.filter_grad(lambda energy: energy(y))(Scaled(F, jnp.array(2.0)))
    assert gradient.beta == F(y)
    assert eqx.filter_grad(lambda energy: energy(y))(2.0 * F).beta is None


def test_the_algebra_compiles_and_batches():
    energy = 0.5 * (F + G).given(jnp.array(0.1)).clamped(jnp.zeros(2), jnp.array([False, True]))
    compiled = eqx.filter_jit(lambda e, y: jax.vmap(e)(y))(energy, POINTS)
    np.testing.assert_allclose(compiled, values(energy), rtol=1e-5)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: F + energy_of(jnp.sum, Real((3,))), "different spaces cannot be added"),
        (lambda: F + energy_of(jnp.sum, Real((2,), 0.0)), "different spaces cannot be added"),
        (lambda: F + jnp.sum, "only energies can be added|only an energy can be added"),
        (lambda: F + latent_energy_of(lambda y, z: z, PLANE, Real(())), "eliminate z first"),
        (lambda: latent_energy_of(lambda y, z: z, PLANE, Real(())) + F, "eliminate z first"),
        (lambda: Sum(()), "at least one term"),
        (lambda: float("nan") * F, "must be finite"),
        (lambda: F * jnp.ones(2), "scaled by one number"),
        (lambda: F * G, "scaled by one number"),
        (lambda: F.clamped(jnp.zeros(3), jnp.zeros(2, bool)), r"`values` has shape \(3,\)"),
        (lambda: Clamped(F, jnp.zeros(2), jnp.zeros(3, bool)), r"`observed` has shape \(3,\)"),
        (lambda: F.clamped(jnp.zeros(2), jnp.zeros(2)), "must be boolean"),
    ],
)
def test_impossible_combinations_are_refused(build, message):
    with pytest.raises(SettingsError, match=message):
        build()
