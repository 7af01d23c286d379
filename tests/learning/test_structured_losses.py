"""Losses of answers over factor graphs and lattices, against the enumeration of all answers."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from thalweg.energy import Arcs, Factor, FactorGraph, Lattice, LatticeEnergy
from thalweg.energy.spaces import Categorical
from thalweg.learning.answers import HingeLoss, NegativeLogLikelihood, PerceptronLoss
from thalweg.learning.rows import Pairs

GENERATOR = np.random.default_rng(3)


def drawn(*shape):
    return jnp.asarray(GENERATOR.normal(size=shape), jnp.float32)


class Scaled(eqx.Module):
    """Tables that grow with the input."""

    tables: jax.Array

    def __call__(self, x):
        return self.tables * x


def loop():
    pairs = [(0, 1), (1, 2), (2, 0)]
    return FactorGraph(Categorical((3,), 3), (Factor(pairs, Scaled(drawn(3, 3, 3))), Factor((1,), drawn(3))))


class Roads(eqx.Module):
    energies: jax.Array

    def __call__(self, x):
        pairs = [(0, 1), (0, 2), (1, 2), (1, 3), (2, 3)]
        return Lattice(Arcs.of(pairs, 0, 3), self.energies * x)


def roads():
    return LatticeEnergy(Roads(drawn(5, 2)), 5, 2)


LOSSES = {
    "nll": NegativeLogLikelihood(),
    "perceptron": PerceptronLoss(),
    "hinge": HingeLoss(margin=0.7),
    "structured": HingeLoss(margin=0.7, augmented=True),
}


def expected(name, energies, right, wrong):
    """The loss of one row; `wrong` counts the coordinates of each answer that are wrong."""
    here, others = energies[right], np.delete(energies, right)
    values = {
        "nll": here + logsumexp(-energies),
        "perceptron": here - energies.min(),
        "hinge": max(0.0, 0.7 + here - others.min()),
        "structured": max(0.0, (here - energies + 0.7 * wrong).max()),
    }
    return values[name]


@pytest.mark.parametrize("make", [loop, roads])
def test_losses_are_those_of_all_answers(make):
    energy = make()
    points = np.array(list(itertools.product(*map(range, energy.space.levels()))), np.float32)
    x = jnp.array([1.0, -0.5])
    heights = eqx.filter_jit(lambda e, y, x: jax.vmap(lambda x: jax.vmap(lambda y: e(y, x))(y))(x))(
        energy, points, x
    )
    heights = np.asarray(heights, np.float64)
    allowed = np.isfinite(heights[0])
    points, heights = points[allowed], heights[:, allowed]
    right = np.array([heights[0].argsort()[1], heights[1].argmin()])
    batch = Pairs(x, jnp.asarray(points[right]))
    wrong = (points[None] != points[right][:, None]).sum(-1)

    @eqx.filter_jit
    def losses(energy):
        return {name: loss(energy, batch, None, key=jax.random.key(0))[0] for name, loss in LOSSES.items()}

    for name, value in losses(energy).items():
        rows = [expected(name, heights[i], right[i], wrong[i]) for i in range(2)]
        assert value == pytest.approx(np.mean(rows), abs=1e-4), name


class Counted(eqx.Module):
    """A network that notes when it is called."""

    network: eqx.Module
    calls: list = eqx.field(static=True)

    def __call__(self, x):
        self.calls.append(1)
        return self.network(x)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("make", [loop, roads])
def test_a_network_is_asked_once_for_each_input(make, name):
    """All that a loss wants to know of an input comes from one pass, so that there is one pass back."""
    energy, calls = make(), []

    def counted(network):
        return Counted(network, calls)

    if make is roads:
        energy = eqx.tree_at(lambda e: e.network, energy, replace_fn=counted)
    else:
        energy = eqx.tree_at(lambda e: e.factors[0].table, energy, replace_fn=counted)
    answers = [[1, 0, 2]] if make is loop else [[1, 0, 2, 0, 1]]
    pairs = Pairs(jnp.ones(1), jnp.asarray(answers, jnp.float32))
    jax.make_jaxpr(lambda x: LOSSES[name](energy, Pairs(x, pairs.y), None, key=jax.random.key(0))[0])(pairs.x)
    assert len(calls) == 1
