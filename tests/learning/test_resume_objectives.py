"""Every objective, interrupted and resumed: the whole checkpoint, chains and buffer included, ends bitwise equal; and
its step is compiled once."""

import json

import jax
import numpy as np
import optax
import pytest
from safetensors.numpy import load

from learning.contrastive import BOX, lattice, moons, network, persistent
from learning.densities import Normal
from thalweg.energy import Binary
from thalweg.energy.reference import Reference
from thalweg.errors import Interrupted
from thalweg.learning import fit as module
from thalweg.learning.exact import ExactLikelihood
from thalweg.learning.fit import fit
from thalweg.learning.neighbours import MinimumProbabilityFlow, PseudoLikelihood, RatioMatching
from thalweg.learning.noise import NoiseContrastive
from thalweg.learning.run import Run
from thalweg.learning.samples import ContrastiveDivergence
from thalweg.learning.scores import DenoisingScoreMatching, ScoreMatching, SlicedScoreMatching
from thalweg.learning.trainer import Trainer
from thalweg.models.ising import ising
from thalweg.sampling import MALA, ULA, Gibbs

pytestmark = pytest.mark.usefixtures("compile_once")

MOONS = moons(40)
BITS, ROWS = Binary((5,)), lattice(bits=5, n=40)[0]


def plane():
    return network(BOX, width=8)


def spins():
    return ising(BITS)


#: The energy, its rows, the objective, and the learning rate.
RUNS = {
    "cd": (spins, ROWS, ContrastiveDivergence(Gibbs(), 2), 0.05),
    "cd with missing cells": (spins, (ROWS, ROWS.cumsum(1) % 3 > 0), ContrastiveDivergence(Gibbs()), 0.05),
    "cd from noise": (plane, MOONS, ContrastiveDivergence(MALA(0.1), 3, "noise", jitter=0.1), 0.01),
    "pcd": (spins, ROWS, persistent(Gibbs(), chains=8), 0.05),
    "pcd with a buffer": (plane, MOONS, persistent(ULA(0.05), 3, chains=30, refresh=0.3, penalty=0.1), 0.01),
    "pcd rolled back": (plane, MOONS, persistent(ULA(0.05), 3, chains=30, refresh=0.3), 1.0),
    "nce": (plane, MOONS, NoiseContrastive(Reference(BOX), ratio=2), 0.01),
    "score matching": (Normal, MOONS, ScoreMatching(), 0.05),
    "score matching, hutchinson": (Normal, MOONS, ScoreMatching("hutchinson"), 0.05),
    "sliced score matching": (Normal, MOONS, SlicedScoreMatching(), 0.05),
    "denoising score matching": (Normal, MOONS, DenoisingScoreMatching((0.1, 0.5)), 0.05),
    "pseudo-likelihood": (spins, ROWS, PseudoLikelihood(), 0.05),
    "ratio matching": (spins, ROWS, RatioMatching(), 0.05),
    "probability flow": (spins, ROWS, MinimumProbabilityFlow(), 0.05),
    "probability flow, excluding rows": (spins, ROWS[:6], MinimumProbabilityFlow(exclude=True), 0.05),
    "exact likelihood": (spins, ROWS, ExactLikelihood(), 0.05),
}
FAST = ("cd", "pcd rolled back", "probability flow, excluding rows")


def small(name, run):
    make, rows, objective, rate = RUNS[name]
    return fit(
        make(),
        rows,
        objective,
        optimiser=optax.adam(rate),
        steps=60,
        batch=8,
        measure_every=12,
        averaging=0.9,
        retries=8,
        key=jax.random.key(0),
        run=run,
    )


def tensors(directory):
    """What the checkpoint holds, and its curve without the seconds."""
    blob = (directory / "checkpoint.safetensors").read_bytes()[32:]
    header = json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])["__metadata__"]
    curve = [{k: v for k, v in record.items() if k != "seconds"} for record in json.loads(header["history"])]
    return load(blob), curve


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in RUNS]
)
def test_interrupted_and_resumed_it_ends_bitwise_equal(name, tmp_path, monkeypatch):
    trainers, log, before, after = [], [], [], []
    monkeypatch.setattr(module, "Trainer", lambda *a, **k: trainers.append(Trainer(*a, **k)) or trainers[-1])
    small(name, Run(tmp_path / "whole", log=log.append))
    assert [trainer.advance._cache_size() for trainer in trainers] == [1], "the step was compiled again"

    dispatches, original = [], module.next_pace

    def pace(*arguments):
        dispatches.append(arguments)
        if len(dispatches) % 6 == 0:
            raise KeyboardInterrupt
        return min(original(*arguments), 5)

    with monkeypatch.context() as patch:
        patch.setattr(module, "next_pace", pace)
        for _ in range(2):
            with pytest.raises(Interrupted, match=r"stopped at step \d+ of 60"):
                small(name, Run(tmp_path / "cut", resume=True, log=before.append))
    small(name, Run(tmp_path / "cut", resume=True, log=after.append))
    (whole, curve), (cut, again) = tensors(tmp_path / "whole"), tensors(tmp_path / "cut")
    assert curve == again
    assert whole.keys() == cut.keys()
    for key in whole:
        np.testing.assert_array_equal(cut[key], whole[key])
    assert before + after == log
    assert bool(before) == (name == "pcd rolled back"), "rolled back before it was cut"
