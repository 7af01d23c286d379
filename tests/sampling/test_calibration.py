"""Kernels inside a whole Bayesian loop: calibration by simulation, and Geweke's joint test."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2

from thalweg.energy import AbstractEnergy, Real
from thalweg.energy.spaces import Binary
from thalweg.sampling import HMC, MALA, NUTS, Gibbs, Target, walk

KEY = jax.random.key(0)


class Posterior(AbstractEnergy):
    r"""\(\theta \sim N(0, I)\) of two dimensions, five numbers \(x_i \sim N(\theta_0, e^{\theta_1})\), variance
    \(e^{\theta_1}\): the energy of \(\theta\) given them."""

    space: Real = Real((2,))

    def __call__(self, y, x=None):
        return jnp.sum(y**2) / 2 + jnp.sum((x - y[0]) ** 2) * jnp.exp(-y[1]) / 2 + len(x) * y[1] / 2


class Hidden(AbstractEnergy):
    """Four bits that like their neighbours, each seen through noise: the energy of the bits given what is seen."""

    space: Binary = Binary((4,))

    def __call__(self, y, x=None):
        s = 2 * y - 1
        return -0.5 * jnp.sum(s[1:] * s[:-1]) + jnp.sum((x - s) ** 2) / 2


def parameters(key):
    return jax.random.normal(key, (2,))


def data(theta, key):
    return theta[0] + jnp.exp(theta[1] / 2) * jax.random.normal(key, (5,))


def bits(key):
    points = Binary((4,)).points()
    s = 2 * points - 1
    return points[jax.random.categorical(key, 0.5 * jnp.sum(s[:, 1:] * s[:, :-1], axis=1))]


def noisy(y, key):
    return 2 * y - 1 + jax.random.normal(key, (4,))


REAL = {"mala": MALA(0.1), "hmc": HMC(0.3, 5), "nuts": NUTS(0.4, max_depth=5)}
WHOLE = {name: (Posterior(), parameters, data, kernel) for name, kernel in REAL.items()}
WHOLE["gibbs"] = (Hidden(), bits, noisy, Gibbs())


def moved(energy, kernel, y, x, steps, key):
    """One chain of so many steps from each row, given its own data."""

    def one(y, x, key):
        return walk(Target(energy, x), kernel, y[None], steps, key=key).points[0]

    return jax.vmap(one)(y, x, jax.random.split(key, len(y)))


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_ranks_of_the_truth_are_uniform(name):
    """Calibration by simulation: Talts, Betancourt, Simpson, Vehtari & Gelman (2018).

    The chains need not converge: from a point that lies some steps behind the truth others go as many forwards, so that
    the truth is one of them (Besag & Clifford 1989, *Generalized Monte Carlo significance tests*).
    """
    energy, prior, simulate, kernel = WHOLE[name]
    n, draws, steps = 4000, 15, 10
    keys = jax.random.split(KEY, 4)
    truth = jax.vmap(prior)(jax.random.split(keys[0], n))
    seen = jax.vmap(simulate)(truth, jax.random.split(keys[1], n))
    step = jax.jit(lambda y, key: moved(energy, kernel, y, seen, steps, key))
    behind = moved(energy, kernel.reversed(), truth, seen, steps, keys[2])
    ranks = np.zeros((n, 2), int)
    for i in range(draws):
        ranks += np.asarray(step(behind, jax.random.fold_in(keys[3], i)) < truth)
    for d in range(2):
        counts = np.bincount(ranks[:, d], minlength=draws + 1)
        expected = n / (draws + 1)
        assert np.sum((counts - expected) ** 2 / expected) < chi2.ppf(1 - 1e-4, draws)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in ("hmc", "gibbs") else pytest.mark.slow) for name in WHOLE]
)
def test_two_ways_to_draw_parameters_and_data_together_agree(name):
    """The joint test of Geweke (2004), *Getting it right*: drawn from the prior, or by chains that redraw the data
    given the parameters and move the parameters given the data; many of them, so that their errors are independent."""
    energy, prior, simulate, kernel = WHOLE[name]
    n = 20_000
    keys = jax.random.split(KEY, 3)

    def together(key):
        first, second = jax.random.split(key)
        y = prior(first)
        return y, simulate(y, second)

    y, x = jax.vmap(together)(jax.random.split(keys[0], n))
    others = jax.vmap(together)(jax.random.split(keys[1], n))

    @jax.jit
    def rounds(y, x):
        for i in range(5):
            key = jax.random.fold_in(keys[2], i)
            y = moved(energy, kernel, y, x, 2, key)
            x = jax.vmap(simulate)(y, jax.random.split(jax.random.fold_in(key, 1), n))
        return y, x

    def statistics(pair):
        y, x = (np.asarray(a, np.float64) for a in pair)
        mean = np.tanh(x.mean(axis=1, keepdims=True) / 2)
        return np.concatenate(
            [np.tanh(y), y**2 / (1 + y**2), mean, mean * np.tanh(y), np.tanh(x[:, :2])], axis=1
        )

    a, b = statistics(rounds(y, x)), statistics(others)
    error = np.sqrt((a.var(axis=0) + b.var(axis=0)) / n)
    assert np.abs((a.mean(axis=0) - b.mean(axis=0)) / error).max() < 4.5
