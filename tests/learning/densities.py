"""Small energies with known answers, for the tests of the training loop."""

import equinox as eqx
import jax
import jax.numpy as jnp

from thalweg.energy import AbstractDensity, AbstractEnergy, Real


class Normal(AbstractDensity):
    """A Gaussian with independent coordinates and learned mean and log deviation."""

    mean: jax.Array
    log_deviation: jax.Array
    space: Real

    def __init__(self, d: int = 2, mean: float = 0.0):
        self.mean, self.log_deviation, self.space = jnp.full(d, mean), jnp.zeros(d), Real((d,))

    def log_prob(self, y, x=None):
        t = (y - self.mean) / jnp.exp(self.log_deviation)
        return jnp.sum(-0.5 * t**2 - self.log_deviation - 0.5 * jnp.log(2 * jnp.pi))

    def sample(self, x=None, *, key):
        return self.mean + jnp.exp(self.log_deviation) * jax.random.normal(key, self.mean.shape)


class Network(AbstractEnergy):
    """A regression of the second coordinate on the first, as an energy: a squared error."""

    mlp: eqx.nn.MLP
    dropout: eqx.nn.Dropout
    space: Real

    def __init__(self, *, key, width: int = 16):
        self.mlp = eqx.nn.MLP("scalar", "scalar", width, 1, key=key)
        self.dropout = eqx.nn.Dropout(0.1)
        self.space = Real((2,))

    def __call__(self, y, x=None):
        return (y[1] - self.mlp(y[0])) ** 2


class Centre(AbstractEnergy):
    """F = |w - y|² / 2, whose gradient tells which rows were in the batch."""

    w: jax.Array
    space: Real

    def __init__(self, d: int = 1):
        self.w, self.space = jnp.zeros(d), Real((d,))

    def __call__(self, y, x=None):
        return 0.5 * jnp.sum((self.w - y) ** 2)


def curve(n: int = 256):
    """Points around a sine."""
    x_key, noise_key = jax.random.split(jax.random.key(7))
    x = jax.random.uniform(x_key, (n,), minval=-2.0, maxval=2.0)
    return jnp.stack([x, jnp.sin(3 * x) + 0.1 * jax.random.normal(noise_key, (n,))], axis=1)
