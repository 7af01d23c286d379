"""Contrastive runs without hope, and healthy ones: the first end trained or named, the others are left alone."""

import jax
import optax
import pytest

from learning.contrastive import (
    BOX,
    DIGITS,
    PLANE,
    finite,
    kl_of_lattice,
    kl_of_moons,
    lattice,
    machine,
    moons,
    nats,
    network,
    persistent,
)
from thalweg.energy import Binary
from thalweg.energy.reference import Reference
from thalweg.errors import Diverged
from thalweg.learning.fit import fit
from thalweg.learning.noise import NoiseContrastive
from thalweg.learning.run import Run
from thalweg.learning.samples import ContrastiveDivergence
from thalweg.models.ising import ising
from thalweg.sampling import MALA, ULA, Gibbs


def trained(energy, data, objective, *, rate, steps, seed=0, log):
    return fit(
        energy,
        data,
        objective,
        optimiser=optax.adam(optax.cosine_decay_schedule(rate, steps)),
        steps=steps,
        batch=128,
        key=jax.random.key(seed),
        run=Run(log=log.append),
    )


def on_digits(objective, rate, log, seed=0, steps=1500):
    """Nats of held-out digits; 24.3 before training, 17.99 by the exact likelihood."""
    return nats(
        trained(machine(seed), DIGITS[:1347], objective, rate=rate, steps=steps, seed=seed, log=log).energy
    )


def on_lattice(objective, rate, log, seed=0, steps=1000):
    """KL of nine bits; above 2 nats before training."""
    rows, p = lattice(seed)
    found = trained(ising(Binary((9,))), rows, objective, rate=rate, steps=steps, seed=seed, log=log)
    assert finite(found.energy)
    return kl_of_lattice(found.energy, p)


def on_moons(objective, rate, log, seed=0, steps=1500, space=BOX):
    """KL of the moons; 3.2 nats before training."""
    found = trained(
        network(space, seed), moons(seed=seed), objective, rate=rate, steps=steps, seed=seed, log=log
    )
    assert finite(found.energy)
    return kl_of_moons(found.energy)


#: Learning rates, or steps of the chain, thirty or a hundred times those of the healthy runs below, and nothing that
#: holds the energy: what to run, and what a trained model has come to.
HOPELESS = {
    "rbm, rate of thirty times": (on_digits, persistent(Gibbs(), chains=128), 0.15, {}, 20.0),
    "rbm, rate": (on_digits, persistent(Gibbs(), chains=128), 0.5, {}, 20.0),
    "rbm from the data, rate": (on_digits, ContrastiveDivergence(Gibbs()), 0.5, {}, 20.0),
    "ising, rate": (on_lattice, persistent(Gibbs(), chains=128), 2.0, {}, 0.05),
    "network, rate": (on_moons, persistent(MALA(0.02), 10, refresh=0.05), 0.2, {}, 1.5),
    "network without bounds, rate": (on_moons, persistent(ULA(0.005), 20), 0.2, {"space": PLANE}, 1.5),
    "network, chain": (on_moons, persistent(MALA(2.0), 10, refresh=0.05), 2e-3, {}, 1.5),
    "network, unadjusted chain": (on_moons, persistent(ULA(0.5), 20, refresh=0.05), 2e-3, {}, 1.5),
    "network without bounds, chain": (
        on_moons, ContrastiveDivergence(ULA(0.5), 20), 2e-3, {"space": PLANE}, 1.5,
    ),
    "network from noise, chain": (on_moons, ContrastiveDivergence(MALA(2.0), 20, "noise"), 2e-3, {}, 1.5),
}  # fmt: skip
FAST = ("rbm, rate of thirty times", "rbm, rate", "ising, rate", "network, unadjusted chain")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in HOPELESS]
)
def test_a_hopeless_run_ends_trained_or_with_its_cause(name):
    run, objective, rate, settings, good = HOPELESS[name]
    log = []
    try:
        reached = run(objective, rate, log, **settings)
    except Diverged as error:
        assert len(log) == 5, error  # noqa: PT017
        return
    assert 1 <= len(log) <= 5, "a silent run"
    assert all(": back to step " in line for line in log)
    assert reached < good, log


HEALTHY = {
    "rbm": (on_digits, persistent(Gibbs(), chains=128), 5e-3, {}, 20.0),
    "rbm from the data": (on_digits, ContrastiveDivergence(Gibbs()), 5e-3, {}, 20.0),
    "ising": (on_lattice, persistent(Gibbs(), chains=128), 2e-2, {}, 0.05),
    "ising from the data": (on_lattice, ContrastiveDivergence(Gibbs()), 2e-2, {}, 0.05),
    "network, mala": (on_moons, ContrastiveDivergence(MALA(0.02), 40, "noise"), 2e-3, {}, 1.5),
    "network, ula": (on_moons, persistent(ULA(0.005), 20, refresh=0.05, penalty=0.01), 2e-3, {}, 1.5),
    "network without bounds": (on_moons, persistent(ULA(0.005), 20), 2e-3, {"space": PLANE}, 1.5),
}


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in ("rbm", "ising") else pytest.mark.slow) for n in HEALTHY]
)
def test_a_healthy_run_is_left_alone(name, seed):
    run, objective, rate, settings, good = HEALTHY[name]
    log = []
    assert run(objective, rate, log, seed=seed, **settings) < good
    assert log == []


@pytest.mark.slow
def test_noise_that_is_too_far_away_is_warned_of():
    """Moons thirty deviations away from the noise: every draw is told apart."""
    log = []
    trained(network(PLANE), moons() + 30, NoiseContrastive(Reference(PLANE)), rate=5e-3, steps=300, log=log)
    assert len(log) == 1
    assert "the noise is told from the data" in log[0]
    assert "Take noise that is nearer" in log[0]
    near = []
    trained(network(PLANE), moons(), NoiseContrastive(Reference(PLANE)), rate=5e-3, steps=300, log=near)
    assert near == []
