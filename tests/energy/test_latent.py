"""Latents eliminated, against closed forms, enumeration and quadrature in numpy."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array
from scipy.special import logsumexp

from thalweg.energy import (
    AbstractLatentEnergy,
    AbstractSpace,
    AtPoint,
    Binary,
    Categorical,
    Enumerate,
    FreeEnergy,
    ImportanceSampled,
    Minimised,
    Quadrature,
    Real,
    energy_of,
    latent_energy_of,
)
from thalweg.errors import NotAnswered, SettingsError

MEANS = np.array([[-1.0, 0.5], [2.0, 1.0]], np.float32)
WEIGHTS = np.array([0.3, 0.7], np.float32)
POINTS = np.random.default_rng(0).normal(size=(12, 2)).astype(np.float32)


class TwoGaussians(AbstractLatentEnergy):
    r"""\(E(y, z) = -\log w_z N(y; \mu_z, I)\)."""

    means: Array
    space: AbstractSpace = Real((2,))
    latent: AbstractSpace = Categorical((), 2)

    def __call__(self, pair, x=None):
        y, z = pair
        k = z.astype(int)
        return jnp.sum((y - self.means[k]) ** 2) / 2 - jnp.log(jnp.asarray(WEIGHTS)[k]) + jnp.log(2 * jnp.pi)


MIXTURE = TwoGaussians(jnp.asarray(MEANS))


def batched(function):
    return jax.jit(jax.vmap(function))


def joint_log_densities(y):
    distances = ((y[:, None, :] - MEANS) ** 2).sum(-1)
    return np.log(WEIGHTS) - distances / 2 - np.log(2 * np.pi)


def test_the_free_energy_of_two_gaussians_is_their_mixture():
    free = FreeEnergy(MIXTURE, 1.0, Enumerate())
    logs = joint_log_densities(POINTS)
    np.testing.assert_allclose(batched(free)(POINTS), -logsumexp(logs, axis=1), rtol=1e-5)
    posterior = np.exp(logs - logsumexp(logs, axis=1, keepdims=True))
    np.testing.assert_allclose(batched(free.z_of)(POINTS), posterior, atol=1e-6)
    # The gradient is the posterior mean of the gradients.
    gradient = (posterior[:, :, None] * (POINTS[:, None, :] - MEANS)).sum(1)
    np.testing.assert_allclose(batched(jax.grad(free))(POINTS), gradient, atol=1e-5)


def test_the_minimum_over_two_gaussians():
    hard = Minimised(MIXTURE, Enumerate())
    logs = joint_log_densities(POINTS)
    np.testing.assert_allclose(batched(hard)(POINTS), -logs.max(1), rtol=1e-5)
    np.testing.assert_array_equal(batched(hard.z_of)(POINTS), logs.argmax(1))
    nearest = POINTS - MEANS[logs.argmax(1)]
    np.testing.assert_allclose(batched(jax.grad(hard))(POINTS), nearest, atol=1e-6)
    np.testing.assert_allclose(jax.hessian(hard)(POINTS[0]), np.eye(2), atol=1e-6)


def test_the_gradient_reaches_the_parameters_of_the_chosen_latent_only():
    y = jnp.array([2.5, 1.0])
    gradient = eqx.filter_grad(lambda energy: energy(y))(Minimised(MIXTURE, Enumerate()))
    np.testing.assert_allclose(gradient.energy.means, [[0.0, 0.0], [-0.5, 0.0]], atol=1e-6)


def test_the_free_energy_tends_to_the_minimum_as_beta_grows():
    hard = batched(Minimised(MIXTURE, Enumerate()))(POINTS)
    gaps = []
    for beta in (1.0, 10.0, 100.0, 1e4):
        soft = batched(FreeEnergy(MIXTURE, jnp.array(beta), Enumerate()))(POINTS)
        # min E - log(2)/beta <= F <= min E, with two values of z.
        assert np.all(soft <= hard + 1e-5)
        assert np.all(soft >= hard - np.log(2) / beta - 1e-5)
        gaps.append(float(jnp.max(hard - soft)))
    assert gaps[0] > 0.1
    assert gaps == sorted(gaps, reverse=True)


def test_the_free_energy_is_differentiable_in_beta():
    y, step = POINTS[0], 1e-4
    logs = joint_log_densities(POINTS[:1].astype(np.float64))[0]

    def exact(beta):
        return -logsumexp(beta * logs) / beta

    expected = (exact(1.5 + step) - exact(1.5 - step)) / (2 * step)
    found = jax.grad(lambda beta: FreeEnergy(MIXTURE, beta, Enumerate())(y))(1.5)
    assert found == pytest.approx(expected, rel=1e-3)


RNG = np.random.default_rng(3)
COUPLING, VISIBLE = RNG.normal(size=(3, 5)).astype(np.float32), RNG.normal(size=3).astype(np.float32)


def boltzmann(chunk):
    energy = latent_energy_of(
        lambda y, z: -(y @ jnp.asarray(COUPLING) @ z) - y @ jnp.asarray(VISIBLE), Binary((3,)), Binary((5,))
    )
    return FreeEnergy(energy, 1.0, Enumerate(chunk)), Minimised(energy, Enumerate(chunk))


@pytest.mark.parametrize("chunk", [4096, 7])
def test_a_restricted_boltzmann_machine_has_softplus_free_energy(chunk):
    free, hard = boltzmann(chunk)
    y = np.array(list(itertools.product([0, 1], repeat=3)), np.float32)
    field = y @ COUPLING
    np.testing.assert_allclose(batched(free)(y), -y @ VISIBLE - np.logaddexp(0, field).sum(1), rtol=1e-5)
    np.testing.assert_allclose(
        batched(hard)(y), -y @ VISIBLE - np.maximum(field, 0).sum(1), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_array_equal(batched(hard.z_of)(y), field > 0)


def test_the_gradient_passes_through_chunks():
    y = jnp.array([0.3, 0.6, 0.9])
    field = np.asarray(y) @ COUPLING
    expected = -VISIBLE - COUPLING @ (1 / (1 + np.exp(-field)))
    np.testing.assert_allclose(jax.grad(boltzmann(7)[0])(y), expected, rtol=1e-4)


def test_quadrature_marginalises_a_gaussian_latent():
    # E = (y - a z)^2 / 2 + z^2 / 2 + log 2 pi, so that y is Gaussian with variance 1 + a^2 summed over z's.
    slope = np.array([0.8, -0.5], np.float32)
    energy = latent_energy_of(
        lambda y, z: (y - jnp.asarray(slope) @ z) ** 2 / 2 + z @ z / 2 + 1.5 * jnp.log(2 * jnp.pi),
        Real(()),
        Real((2,), -7.0, 7.0),
    )
    free = FreeEnergy(energy, 1.0, Quadrature(40))
    variance = 1 + float(slope @ slope)
    y = np.array([-2.0, 0.0, 1.3], np.float32)
    np.testing.assert_allclose(
        batched(free)(y), y**2 / (2 * variance) + np.log(2 * np.pi * variance) / 2, rtol=1e-4
    )
    np.testing.assert_allclose(batched(free.z_of)(y), slope * y[:, None] / variance, atol=1e-4)


def test_joint_energies_add_scale_and_take_an_input():
    a = latent_energy_of(lambda y, z, x=0.0: (y - z - x) ** 2, Real(()), Categorical((), 3))
    b = latent_energy_of(lambda y, z, x=0.0: 0.5 * z, Real(()), Categorical((), 3))
    total = (a + 2.0 * b + b).given(jnp.array(0.25))
    y = jnp.array(1.4)
    table = [(1.4 - z - 0.25) ** 2 + 1.5 * z for z in range(3)]
    assert Minimised(total, Enumerate())(y) == pytest.approx(min(table), rel=1e-5)
    soft = -logsumexp(-2 * np.array(table)) / 2
    assert FreeEnergy(total, 2.0, Enumerate())(y) == pytest.approx(soft, rel=1e-5)


def test_a_forbidden_latent_has_no_weight():
    forbidden = latent_energy_of(lambda y, z: jnp.where(z == 1, jnp.inf, y**2), Real(()), Categorical((), 2))
    assert FreeEnergy(forbidden, 1.0, Enumerate())(jnp.array(0.5)) == pytest.approx(0.25)
    assert Minimised(forbidden, Enumerate())(jnp.array(0.5)) == pytest.approx(0.25)


def test_the_latent_is_encoded_from_whole_rows_only():
    free = FreeEnergy(MIXTURE, 1.0, Enumerate())
    hard = Minimised(MIXTURE, Enumerate())
    y = jnp.asarray(POINTS[0])
    whole = jnp.ones(2, bool)
    np.testing.assert_array_equal(free.encode(y, whole), free.z_of(y))
    assert hard.encode(y, whole).shape == (1,)
    part = jnp.array([True, False])
    with pytest.raises(NotAnswered, match="complete the row first"):
        free.encode(y, part)
    with pytest.raises(Exception, match="complete the row first"):
        eqx.filter_jit(hard.encode)(y, part)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: FreeEnergy(MIXTURE, 0.0, Enumerate()), "positive and finite, not 0.0"),
        (lambda: FreeEnergy(MIXTURE, float("inf"), Enumerate()), "use `Minimised`"),
        (lambda: Minimised(MIXTURE, Quadrature()), "Quadrature cannot find a minimum"),
        (lambda: Minimised(energy_of(jnp.sum, Real((2,))), Enumerate()), "has no latent to eliminate"),
        (lambda: Minimised(with_latent(Real((2,))), Enumerate()), "not finite"),
        (lambda: Minimised(with_latent(Binary((30,))), Enumerate()), r"1,073,741,824 points are more"),
        (lambda: FreeEnergy(with_latent(Real((2,))), 1.0, Quadrature()), "bounded box"),
        (lambda: FreeEnergy(with_latent(Real((3,), 0.0, 1.0)), 1.0, Quadrature()), "one or two real"),
        (lambda: FreeEnergy(with_latent(Real((1,), 0.0, 1.0)), 1.0, Quadrature(0)), "at least one node"),
        (lambda: MIXTURE.clamped(jnp.zeros(2), jnp.zeros(2, bool)), "after its latent is eliminated"),
    ],
)
def test_impossible_eliminations_are_refused(build, message):
    with pytest.raises(SettingsError, match=message):
        build()


def with_latent(latent):
    return latent_energy_of(lambda y, z: jnp.sum(y) + jnp.sum(z), Real((2,)), latent)


def curve(size):
    """A joint energy whose integral over z is smooth, with two lumps in every coordinate of z."""
    return latent_energy_of(
        lambda y, z: 20 * jnp.sum((y - jnp.sin(2 * z)) ** 2) + jnp.sum(z**2) / 2,
        Real((size,)),
        Real((size,), -3.0, 3.0),
    )


@pytest.mark.parametrize("size", [1, 2])
def test_importance_sampling_agrees_with_quadrature_and_its_error_is_calibrated(size):
    energy = curve(size)
    y = jnp.tile(jnp.linspace(-0.9, 0.9, 7)[:, None], (1, size))
    exact = batched(FreeEnergy(energy, 1.0, Quadrature(64)))(y)

    @jax.jit
    def estimate(y, key):
        def one(y):
            how = ImportanceSampled(seed=key)
            return FreeEnergy(energy, 1.0, how)(y), how.error(AtPoint(energy, y), 1.0)

        return jax.vmap(one)(y)

    keys = jnp.arange(60)
    found, error = jax.vmap(lambda key: estimate(y, key))(keys)
    z = np.asarray((found - exact[None]) / error)
    assert 0.8 < z.std() < 1.25
    assert (
        np.abs(np.asarray(found).mean(axis=0) - exact).max()
        < 4 * np.asarray(error).mean() / np.sqrt(60) + 0.05
    )
    assert np.asarray(error).max() < 0.7


def test_importance_sampling_reaches_where_quadrature_cannot():
    """Ten dimensions, a normal integrand away from the middle."""
    energy = latent_energy_of(lambda y, z: jnp.sum((z - y) ** 2) / 0.5, Real((10,)), Real((10,)))
    how = ImportanceSampled(samples=2000, rounds=6)
    point = AtPoint(energy, jnp.full(10, 0.7))
    exact = -10 * 0.5 * np.log(np.pi * 0.5)
    assert abs(float(how.free_energy(point, 1.0)) - exact) < max(4 * float(how.error(point, 1.0)), 0.05)
    assert float(how.error(point, 1.0)) < 0.2
    np.testing.assert_allclose(how.posterior(point, 1.0), 0.7, atol=0.15)
    slope = jax.grad(lambda y: FreeEnergy(energy, 1.0, how)(y))(jnp.full(10, 0.7))
    np.testing.assert_allclose(slope, 0.0, atol=0.5)


def test_what_importance_sampling_cannot_do_is_said():
    with pytest.raises(SettingsError, match=r"integrates real coordinates.*use Enumerate"):
        FreeEnergy(MIXTURE, 1.0, ImportanceSampled())
    with pytest.raises(SettingsError, match="`anywhere` is a share above 0"):
        FreeEnergy(curve(1), 1.0, ImportanceSampled(anywhere=0.0))
