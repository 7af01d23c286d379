"""The convolution against the library's and SciPy's, and the bound on its stretch against singular values."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate

from thalweg.errors import SettingsError
from thalweg.nn.convolution import Convolution, by_library, by_patches
from thalweg.nn.initial import drawn
from thalweg.nn.norms import bounded, largest_stretch

CASES = [
    # height, width, channels, out, size, stride, padding
    (8, 8, 1, 4, 3, 1, "same"),
    (9, 6, 3, 2, 3, 2, "same"),
    (7, 7, 2, 5, 4, 3, "same"),
    (5, 8, 2, 3, 3, 2, "valid"),
    (4, 4, 3, 2, 1, 1, "valid"),
    (1, 1, 2, 2, 3, 2, "same"),
    (6, 8, 2, 3, (2, 5), 2, "same"),
    (6, 8, 2, 3, (4, 2), 1, "valid"),
]


@pytest.mark.parametrize(("h", "w", "channels", "out", "size", "stride", "padding"), CASES)
def test_values_and_gradients_are_those_of_the_library(h, w, channels, out, size, stride, padding):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(h, w, channels)), jnp.float32)
    kernels = jnp.asarray(rng.normal(size=(*np.broadcast_to(size, 2), channels, out)), jnp.float32)
    expected = jax.lax.conv_general_dilated(
        x[None], kernels, (stride, stride), padding.upper(), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )[0]
    weights = jnp.asarray(rng.normal(size=expected.shape), jnp.float32)

    def summed(how):
        return lambda x, k: jnp.sum(weights * how(x, k, stride, padding))

    def reference(x, k):
        found = jax.lax.conv_general_dilated(
            x[None], k, (stride, stride), padding.upper(), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )[0]
        return jnp.sum(weights * found)

    truth = jax.grad(reference, (0, 1))(x, kernels)
    for how in (by_patches, by_library):
        np.testing.assert_allclose(how(x, kernels, stride, padding), expected, rtol=1e-4, atol=1e-4)
        for ours, theirs in zip(jax.grad(summed(how), (0, 1))(x, kernels), truth, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_layer_is_scipys_correlation_and_a_bias():
    layer = Convolution(2, 3, 3, padding="valid", initial=drawn(jax.random.key(0)))
    layer = eqx.tree_at(lambda c: c.bias, layer, jnp.arange(3.0))
    x = np.random.default_rng(1).normal(size=(6, 5, 2)).astype(np.float32)
    out = layer(jnp.asarray(x))
    for o in range(3):
        expected = (
            sum(correlate(x[..., c], np.asarray(layer.weight)[..., c, o], mode="valid") for c in range(2)) + o
        )
        np.testing.assert_allclose(out[..., o], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 3), (2, 40), (60, 7)])
def test_the_stretch_is_bounded_from_above_and_closely(shape):
    rng = np.random.default_rng(2)
    for matrix in (rng.normal(size=shape), np.outer(*(rng.normal(size=n) for n in shape)), np.eye(*shape)):
        truth = np.linalg.norm(matrix, 2)
        found = float(largest_stretch(jnp.asarray(matrix, jnp.float32)))
        assert truth <= found <= 1.1 * truth


def test_a_matrix_is_scaled_down_only_where_it_stretches_too_much():
    small = jnp.diag(jnp.array([0.5, 0.2]))
    np.testing.assert_array_equal(bounded(small, 1.0), small)
    np.testing.assert_allclose(np.linalg.norm(bounded(4 * small, 1.0), 2), 1.0, rtol=0.05)
    assert np.isfinite(jax.grad(lambda m: jnp.sum(bounded(m)))(jnp.zeros((3, 2)))).all()


@pytest.mark.parametrize("stride", [1, 2])
def test_a_bounded_layer_stretches_no_difference(stride):
    """The whole map as a matrix: its largest singular value, from NumPy."""
    layer = Convolution(2, 6, 3, stride=stride, norm="stretch", initial=drawn(jax.random.key(3)))
    layer = jax.tree.map(lambda leaf: 50 * leaf, layer)
    jacobian = jax.jacobian(lambda x: jnp.ravel(layer(x.reshape(6, 6, 2))))(jnp.zeros(72))
    assert np.linalg.norm(np.asarray(jacobian), 2) <= 1.0
    assert np.linalg.norm(np.asarray(jacobian), 2) > 0.3


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"size": 0}, "at least 1"), ({"stride": 0}, "at least 1"), ({"padding": "full"}, "same or valid")],
)
def test_impossible_layers_are_refused(settings, message):
    with pytest.raises(SettingsError, match=message):
        Convolution(1, 1, **{"size": 3, **settings}, initial=drawn(jax.random.key(0)))


def test_an_image_smaller_than_a_patch_is_refused():
    with pytest.raises(SettingsError, match="2×5 has no patch of 3×3"):
        by_patches(jnp.zeros((2, 5, 1)), jnp.zeros((3, 3, 1, 1)), 1, "valid")
