"""A network that slides says of each window what it says of the window cut out."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thalweg.errors import SettingsError
from thalweg.nn.initial import drawn
from thalweg.nn.windows import WindowNetwork


def network(window, halvings=2):
    return WindowNetwork(window, 3, channels=4, halvings=halvings, units=8, initial=drawn(jax.random.key(0)))


@pytest.mark.parametrize(("window", "halvings"), [((15, 15, 1), 2), ((11, 16, 2), 1)])
def test_a_window_says_the_same_wherever_it_lies(window, halvings):
    net = network(window, halvings)
    picture = np.random.default_rng(0).normal(size=(38, 33, window[2])).astype(np.float32)
    slid = np.asarray(eqx.filter_jit(net.slide)(jnp.asarray(picture)))
    height, width, stride = *window[:2], net.stride
    assert stride == 2**halvings
    assert slid.shape == ((38 - height) // stride + 1, (33 - width) // stride + 1, 3)
    corners = [(i, j) for i in range(0, 38 - height + 1, stride) for j in range(0, 33 - width + 1, stride)]
    cut = np.stack([picture[i : i + height, j : j + width] for i, j in corners])
    alone = np.asarray(eqx.filter_jit(jax.vmap(net))(jnp.asarray(cut)))
    np.testing.assert_allclose(slid.reshape(-1, 3), alone, rtol=1e-4, atol=1e-5)
    assert np.ptp(alone, axis=0).min() > 0.1


def test_a_window_too_small_to_be_halved_is_refused():
    with pytest.raises(SettingsError, match=r"window of 9×7 pixels is too small to be halved 2 times"):
        network((9, 7, 1))
