"""`orderless` trained on a distribution that is known, against its entropy and its conditionals."""

import itertools
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from thalweg.energy import Column, Record
from thalweg.learning.fit import fit
from thalweg.models import factors
from thalweg.models.orderless import Objective, Orderless
from thalweg.nn.initial import drawn

FOUR = Record(tuple(Column(name, "categorical", size=2) for name in "abcd"))
STATES = np.array(list(itertools.product(range(2), repeat=4)), np.float32)


def joint():
    """A chain with strong links and a parity: no product of its margins comes near it."""
    a, b, c, d = STATES.T
    logits = 1.5 * (a == b) + 1.0 * (b != c) + 1.2 * ((a + c + d) % 2) - 0.5 * d
    return np.exp(logits) / np.exp(logits).sum()


@cache
def trained(observed_share, *, n=4000):
    p, random = joint(), np.random.default_rng(3)
    values = STATES[random.choice(16, n, p=p)]
    observed = random.random(values.shape) < observed_share
    energy = Orderless(
        FOUR,
        factors.empty(FOUR, 2, 2),
        width=32,
        order_width=32,
        layers=2,
        components=2,
        orderings=4,
        initial=drawn(jax.random.key(0)),
    )
    optimiser = optax.adam(optax.cosine_decay_schedule(1e-2, 600))
    result = fit(
        energy,
        (np.where(observed, values, 0.0).astype(np.float32), observed),
        Objective(),
        optimiser=optimiser,
        steps=600,
        batch=128,
        averaging=0.98,
        key=jax.random.key(1),
    )
    q = np.exp(-np.asarray(jax.vmap(result.energy)(jnp.asarray(STATES)), float))
    return p, q, result


@pytest.mark.parametrize(("share", "bound"), [(1.0, 0.015), (0.7, 0.03)])
def test_training_approaches_the_entropy_also_with_missing_cells(share, bound):
    """The excess over the entropy is the Kullback-Leibler divergence; 15 free numbers cost 15/2n = 0.002 nats."""
    p, q, result = trained(share)
    assert q.sum() == pytest.approx(1, abs=1e-4)
    divergence = np.sum(p * np.log(p / q))
    assert divergence < bound
    margins = np.array([STATES[:, i] @ p for i in range(4)])
    product = np.prod(np.where(STATES == 1, margins, 1 - margins), axis=1)
    assert np.sum(p * np.log(p / product)) > 5 * bound, "independent columns would pass this test"
    learned = np.array([STATES[:, i] @ q for i in range(4)])
    np.testing.assert_allclose(learned, margins, atol=0.04)
    assert result.history[-1]["probe"] < result.history[0]["loss"]


def test_the_trained_network_answers_conditionals_it_was_never_asked():
    p, _, result = trained(1.0)
    p = p.reshape(2, 2, 2, 2)
    expected = p[:, 1, :, 0].sum(1) / p[:, 1, :, 0].sum()
    y, observed = jnp.array([0.0, 1.0, 0.0, 0.0]), jnp.array([False, True, False, True])
    energies = result.energy.column_energies(y, jnp.int32(0), jnp.array([0.0, 1.0]), observed)
    np.testing.assert_allclose(np.exp(-np.asarray(energies)), expected, atol=0.06)
