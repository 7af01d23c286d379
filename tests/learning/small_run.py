"""A small training that writes its weights: `small_run.py DIRECTORY WEIGHTS [resume] [devices] [short] [batch=30]`.

With `chains` it is contrastive, by persistent chains in a buffer.
With `join=PORT,N,I` it is process I of N, and prints a digest of its weights.
"""

import hashlib
import sys
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import optax

sys.path.insert(0, str(Path(__file__).parents[1]))
from learning.contrastive import BOX, moons, network, persistent
from learning.densities import Network, curve
from thalweg.learning.fit import fit
from thalweg.learning.objective import EnergyLoss
from thalweg.learning.parallel import first, join, mesh_of
from thalweg.learning.run import Run
from thalweg.sampling import ULA


def train(run: Run, *, steps: int = 3000, batch: int = 32):
    schedule = optax.warmup_cosine_decay_schedule(0.0, 3e-3, 50, steps)
    data = curve()
    return fit(
        Network(key=jax.random.key(1)),
        data[:192],
        EnergyLoss(),
        optimiser=optax.adam(schedule),
        steps=steps,
        batch=batch,
        held_out=data[192:],
        measure_every=500 if steps > 500 else 20,
        averaging=0.99,
        key=jax.random.key(0),
        run=run,
    )


def train_by_chains(run: Run, *, steps: int = 3000):
    return fit(
        network(BOX, width=16),
        moons(200),
        persistent(ULA(0.02), 5, chains=100, refresh=0.1, penalty=0.05),
        optimiser=optax.adam(2e-3),
        steps=steps,
        batch=32,
        measure_every=500,
        key=jax.random.key(0),
        run=run,
    )


def weights(energy) -> np.ndarray:
    return np.concatenate(
        [np.ravel(leaf) for leaf in jax.tree.leaves(eqx.filter(energy, eqx.is_inexact_array))]
    )


if __name__ == "__main__":
    directory, out, *options = sys.argv[1:]
    values = dict(option.split("=") for option in options if "=" in option)
    if "join" in values:
        port, processes, process = values["join"].split(",")
        join(f"127.0.0.1:{port}", int(processes), int(process))
    run = Run(
        directory=None if directory == "-" or not first() else Path(directory),
        resume="resume" in options,
        mesh=mesh_of(jax.device_count() if "devices" in options else None),
        checkpoint_every=0.0,
    )
    steps = 60 if "short" in options else 3000
    batch = int(values.get("batch", 32))
    result = train_by_chains(run) if "chains" in options else train(run, steps=steps, batch=batch)
    found = weights(result.energy)
    losses = [record["loss"] for record in result.history]
    print(hashlib.sha256(found.tobytes()).hexdigest())
    if first():
        np.savez(out, weights=found, losses=losses, devices=jax.device_count())
