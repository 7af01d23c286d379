"""A small training that writes its weights: `small_run.py DIRECTORY WEIGHTS [resume] [devices] [short]`."""

import sys
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import optax
from jax.sharding import Mesh

sys.path.insert(0, str(Path(__file__).parents[1]))
from learning.densities import Network, curve
from thalweg.learning.fit import fit
from thalweg.learning.objective import EnergyLoss
from thalweg.learning.run import Run


def train(run: Run, *, steps: int = 3000):
    schedule = optax.warmup_cosine_decay_schedule(0.0, 3e-3, 50, steps)
    data = curve()
    return fit(
        Network(key=jax.random.key(1)),
        data[:192],
        EnergyLoss(),
        optimiser=optax.adam(schedule),
        steps=steps,
        batch=32,
        held_out=data[192:],
        measure_every=500 if steps > 500 else 20,
        averaging=0.99,
        key=jax.random.key(0),
        run=run,
    )


def weights(energy) -> np.ndarray:
    return np.concatenate(
        [np.ravel(leaf) for leaf in jax.tree.leaves(eqx.filter(energy, eqx.is_inexact_array))]
    )


if __name__ == "__main__":
    directory, out, *options = sys.argv[1:]
    run = Run(
        directory=None if directory == "-" else Path(directory),
        resume="resume" in options,
        mesh=Mesh(np.array(jax.devices()), ("rows",)) if "devices" in options else None,
        checkpoint_every=0.0,
    )
    result = train(run, steps=60 if "short" in options else 3000)
    losses = [record["loss"] for record in result.history]
    np.savez(out, weights=weights(result.energy), losses=losses, devices=jax.device_count())
