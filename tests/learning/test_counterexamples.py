"""Objectives with counter-examples, against sums over all that could be drawn."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from thalweg.energy import AbstractEnergy, Categorical, Real, energy_of
from thalweg.energy.reference import Reference
from thalweg.errors import SettingsError
from thalweg.learning.counterexamples import AnswerContrast, InfoNCE, Moved, Near, Uniform
from thalweg.learning.fit import fit
from thalweg.learning.noise import NoiseContrastive
from thalweg.learning.rows import Pairs
from thalweg.learning.run import Run
from thalweg.sampling import MALA

KEY = jax.random.key(0)
#: p(y | x) of three answers to two inputs.
SHARES = np.array([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6]], np.float32)


class Table(AbstractEnergy):
    values: jax.Array
    space: Categorical = Categorical((), 3)

    def __call__(self, y, x=None):
        return self.values[x, y.astype(jnp.int32)]


def pairs(n: int) -> Pairs:
    """Inputs and answers whose shares are exact."""
    counts = np.round(SHARES * n).astype(int)
    y = np.concatenate([np.repeat(np.arange(3.0), row) for row in counts]).astype(np.float32)
    return Pairs(jnp.asarray(np.repeat([0, 1], counts.sum(axis=1)), jnp.int32), jnp.asarray(y))


def exact_infonce(values: np.ndarray, k: int) -> float:
    """The expected loss over all k counter-examples, each of the three as likely."""
    total = 0.0
    for x, y in itertools.product(range(2), range(3)):
        losses = []
        for others in itertools.product(range(3), repeat=k):
            logits = -values[x][[y, *others]]
            losses.append(np.log(np.exp(logits).sum()) - logits[0])
        total += SHARES[x, y] / 2 * np.mean(losses)
    return total


@pytest.mark.parametrize("k", [1, 3])
def test_infonce_is_the_mean_over_all_counter_examples(k):
    values = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    batch = pairs(4000)
    loss, _ = jax.jit(lambda key: InfoNCE(Uniform(k))(Table(jnp.asarray(values)), batch, None, key=key))(KEY)
    assert float(loss) == pytest.approx(exact_infonce(values, k), abs=0.015)


def test_infonce_is_stationary_at_the_truth_up_to_a_constant_for_each_input():
    truth = -np.log(SHARES) + np.array([[3.0], [-2.0]], np.float32)

    def slope(values):
        return jax.grad(lambda v: InfoNCE(Uniform(3))(Table(v), pairs(40_000), None, key=KEY)[0])(values)

    assert np.abs(slope(jnp.asarray(truth, jnp.float32))).max() < 4e-3
    assert np.abs(slope(jnp.zeros((2, 3)))).max() > 2e-2


class Curve(AbstractEnergy):
    """Any energy of one number on a grid, the same for every input."""

    values: jax.Array
    space: Real = Real((1,), 0.0, 1.0)

    def __call__(self, y, x=None):
        return jnp.interp(y[0], jnp.linspace(0.0, 1.0, len(self.values)), self.values)


def learned(objective, y, steps=1500):
    n = len(y)
    found = fit(
        Curve(jnp.zeros(41)),
        Pairs(np.zeros((n, 1), np.float32), y[:, None].astype(np.float32)),
        objective,
        optimiser=optax.adam(optax.cosine_decay_schedule(0.05, steps)),
        steps=steps,
        batch=256,
        averaging=0.99,
        key=KEY,
        run=Run(progress=False),
    ).energy
    assert isinstance(found, Curve)
    p = np.exp(-np.asarray(found.values, np.float64))
    return p / np.trapezoid(p, dx=1 / 40), found


@pytest.mark.parametrize(
    "objective",
    [
        InfoNCE(Uniform(16)),
        # At one width, and with no uniform ones: which counter-examples there are must not bend the optimum, near a
        # face of the box neither.
        InfoNCE(Near(16, widths=(0.2,), anywhere=0.0)),
        NoiseContrastive(Reference(Real((1,), 0.0, 1.0)), 16),
        AnswerContrast(Moved(MALA(0.02), 16, 12), penalty=0.0),
    ],
    ids=["uniform", "near", "nce", "contrast"],
)
def test_a_density_on_an_interval_is_learned(objective):
    """p(y) = 0.2 + 1.6 y, which is highest at a face."""
    u = (np.arange(4000) + 0.5) / 4000
    y = (-0.2 + np.sqrt(0.04 + 3.2 * u)) / 1.6
    p, energy = learned(objective, y)
    truth = 0.2 + 1.6 * np.linspace(0, 1, 41)
    # In total variation; 16 of 4,000 rows lie in a cell.
    assert np.trapezoid(np.abs(p - truth), dx=1 / 40) / 2 < 0.035
    if isinstance(objective, NoiseContrastive):
        assert np.trapezoid(np.exp(-np.asarray(energy.values)), dx=1 / 40) == pytest.approx(1.0, abs=0.03)


def test_steep_slopes_are_penalised_at_counter_examples():
    energy = energy_of(lambda y, x: 5.0 * y[0], Real((1,), 0.0, 1.0))
    batch = Pairs(jnp.zeros((8, 1)), jnp.full((8, 1), 0.5))
    plain, steep = (
        InfoNCE(Uniform(4), penalty=weight, steepest=2.0)(energy, batch, None, key=KEY)[0]
        for weight in (0.0, 0.1)
    )
    assert float(steep - plain) == pytest.approx(0.1 * (5.0 - 2.0) ** 2, rel=1e-5)


def test_what_has_no_counter_examples_is_refused():
    data = Pairs(np.zeros((4, 1), np.float32), np.zeros((4, 1), np.float32))
    loose = energy_of(lambda y, x: jnp.sum(y**2), Real((1,)))
    with pytest.raises(SettingsError, match="has no bounds: give it a box"):
        InfoNCE(Uniform()).init(loose, data, key=KEY)
    with pytest.raises(SettingsError, match="near the answer is for real coordinates"):
        InfoNCE(Near()).init(Table(jnp.zeros((2, 3))), data, key=KEY)
    with pytest.raises(SettingsError, match="at least one counter-example, not 0"):
        InfoNCE(Uniform(0)).init(Table(jnp.zeros((2, 3))), data, key=KEY)
    with pytest.raises(SettingsError, match="give Pairs"):
        InfoNCE(Uniform())(Curve(jnp.zeros(3)), jnp.zeros((4, 1)), None, key=KEY)
    with pytest.raises(SettingsError, match="widths are positive"):
        Near(widths=(0.0,))
    assert eqx.is_array(InfoNCE(Uniform())(Curve(jnp.zeros(3)), data, None, key=KEY)[0])
