"""Small contrastive problems with exact answers: what a run that the guard watches has come to."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

from thalweg.data.toys import TwoMoons
from thalweg.energy import Binary, Real, energy_of
from thalweg.evaluate.partition import exact_log_partition
from thalweg.learning.samples import ContrastiveDivergence
from thalweg.models.ising import Ising
from thalweg.models.rbm import rbm
from thalweg.sampling import AbstractKernel

DIGITS = (load_digits().data > 8).astype(np.float32)
MOONS = TwoMoons()
BOX = Real((2,), -4.0, 4.0)
PLANE = Real((2,))


def machine(seed: int = 0):
    """A restricted Boltzmann machine of 16 hidden units with the digits' base rates."""
    return rbm(Binary((64,)), 16, key=jax.random.key(seed), rows=DIGITS[:1347])


def nats(energy) -> float:
    """The exact mean −log p of the digits that were not trained on."""
    energies = jax.vmap(energy)(jnp.asarray(DIGITS[1347:]))
    return float(jnp.mean(energies) + exact_log_partition(energy))


def network(space=BOX, seed: int = 0, width: int = 64):
    """A smooth network on the plane, flat far out: nothing but training holds it."""
    net = eqx.nn.MLP(2, "scalar", width, 2, activation=jax.nn.silu, key=jax.random.key(seed))
    return energy_of(net, space)


def moons(n: int = 2000, seed: int = 0) -> np.ndarray:
    keys = jax.random.split(jax.random.key(100 + seed), n)
    return np.asarray(jax.vmap(lambda key: MOONS.sample(key=key))(keys))


def kl_of_moons(energy) -> float:
    """KL of the moons from the energy's density on the box, in nats, by a grid of 201 points a side."""
    axis = np.linspace(-4, 4, 201, dtype=np.float32)
    points = jnp.asarray(np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2))
    area = float(axis[1] - axis[0]) ** 2
    energies = np.asarray(jax.vmap(energy)(points), np.float64)
    logs = np.asarray(jax.vmap(MOONS.log_prob)(points), np.float64)
    log_z = np.logaddexp.reduce(-energies) + np.log(area)
    return float(np.sum(np.exp(logs) * (logs + energies + log_z)) * area)


def lattice(seed: int = 0, bits: int = 9, n: int = 2000):
    """Rows of a random Ising model, and its probabilities in the order of `space.points()`."""
    rng = np.random.default_rng(seed)
    upper = np.triu(rng.normal(scale=0.5, size=(bits, bits)), 1)
    bias = rng.normal(scale=0.3, size=bits)
    space = Binary((bits,))
    true = Ising(space, jnp.asarray(upper + upper.T, jnp.float32), jnp.asarray(bias, jnp.float32))
    points = space.points()
    p = np.exp(-np.asarray(jax.vmap(true)(points), np.float64))
    p /= p.sum()
    return np.asarray(points)[rng.choice(len(points), n, p=p)], p


def kl_of_lattice(energy, p: np.ndarray) -> float:
    energies = np.asarray(jax.vmap(energy)(energy.space.points()), np.float64)
    return float(np.sum(p * (np.log(p) + energies + np.logaddexp.reduce(-energies))))


def finite(energy) -> bool:
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(eqx.filter(energy, eqx.is_array)))


def persistent(kernel: AbstractKernel, steps: int = 1, **settings: Any) -> ContrastiveDivergence:
    """Contrastive divergence by chains that go on where they ended."""
    return ContrastiveDivergence(kernel, steps, "persistent", **settings)
