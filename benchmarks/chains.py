"""Chains beside PyTorch's energy-based libraries and the discrete samplers in JAX.

* 200 Langevin steps of an MLP 2-128-128-1 (SiLU), 1,000 and 10,000 chains: torchebm and ebmkit.
* Training steps of that MLP by CD-10 at batch 256 with Adam: the same two, each with its own loss and loop
  (ebmkit's chains start at noise, the only start that it has beside a buffer).
* Block Gibbs on an Ising model of 32×32 spins, β = 0.4, two blocks, 100 chains × 200 sweeps: thrml and hamon.

Every run is repeated after one that is not counted (compilation, warm caches); the least processor seconds are given,
so that threads are no advantage. Give the process one core to compare what a core does:

    taskset -c 0 python benchmarks/chains.py [--write] [--repeats 5]
"""

import argparse
import os
import time
from collections.abc import Callable

import equinox as eqx
import hamon
import hamon.models
import jax
import jax.numpy as jnp
import numpy as np
import optax
import thrml
import thrml.models
import torch
from ebm.losses.cd import ContrastiveDivergence as EbmkitDivergence
from ebm.samplers.langevin import LangevinDynamics as EbmkitLangevin
from ebm.training import Trainer
from torchebm.core import BaseModel
from torchebm.losses import ContrastiveDivergence as TorchebmDivergence
from torchebm.samplers import LangevinDynamics as TorchebmLangevin

from machine import report, table
from thalweg.energy import AbstractEnergy, Binary, Real
from thalweg.learning.fit import fit
from thalweg.learning.run import Run
from thalweg.learning.samples import ContrastiveDivergence
from thalweg.models.ising import Graph, Ising, square_lattice
from thalweg.sampling import ULA, Gibbs, Target
from thalweg.sampling.walk import walk

STEP, LANGEVIN, WIDTH = 0.01, 200, 128
TRAINING, BATCH, CD = 300, 256, 10
SIDE, CHAINS, SWEEPS, BETA = 32, 100, 200, 0.4


class Network(AbstractEnergy):
    """The MLP as an energy."""

    space: Real
    mlp: eqx.nn.MLP

    def __call__(self, y, x=None):
        return self.mlp(y)


class TorchNetwork(BaseModel):
    """The same network for both libraries of PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        layers = [torch.nn.Linear(2, WIDTH), torch.nn.SiLU(), torch.nn.Linear(WIDTH, WIDTH), torch.nn.SiLU()]
        self.net = torch.nn.Sequential(*layers, torch.nn.Linear(WIDTH, 1))

    def forward(self, x):
        return self.net(x).squeeze(-1)


def network() -> Network:
    mlp = eqx.nn.MLP(2, "scalar", WIDTH, 2, activation=jax.nn.silu, key=jax.random.key(0))
    return Network(Real((2,)), mlp)


def seconds(run: Callable[[], object], repeats: int) -> float:
    """The least processor seconds of a run, after one that is not counted."""
    run()
    found = []
    for _ in range(repeats):
        began = time.process_time()
        run()
        found.append(time.process_time() - began)
    return min(found)


def langevin(chains: int, repeats: int) -> list[float]:
    start = np.random.default_rng(0).standard_normal((chains, 2)).astype(np.float32)
    energy, torched = network(), TorchNetwork()
    move = eqx.filter_jit(lambda y, key: walk(Target(energy), ULA(STEP), y, LANGEVIN, key=key).points)
    theirs = torch.from_numpy(start)
    first = TorchebmLangevin(torched, step_size=STEP)
    second = EbmkitLangevin(step_size=STEP, steps=LANGEVIN)
    return [
        seconds(lambda: jax.block_until_ready(move(jnp.asarray(start), jax.random.key(1))), repeats),
        seconds(lambda: first.sample(x=theirs, n_steps=LANGEVIN), repeats),
        seconds(lambda: second.sample(torched, theirs), repeats),
    ]


def training(repeats: int) -> list[float]:
    rows = np.random.default_rng(0).standard_normal((20_000, 2)).astype(np.float32)
    data = torch.from_numpy(rows)
    objective = ContrastiveDivergence(ULA(STEP), CD, "data", folded=False)
    optimiser = optax.adam(1e-3)

    def ours(steps):
        quiet = Run(progress=False)
        fit(
            network(),
            rows,
            objective,
            optimiser=optimiser,
            steps=steps,
            batch=BATCH,
            key=jax.random.key(0),
            run=quiet,
        )

    def torchebm():
        model = TorchNetwork()
        loss = TorchebmDivergence(
            model, TorchebmLangevin(model, step_size=STEP), k_steps=CD, energy_reg_weight=0.0
        )
        adam = torch.optim.Adam(model.parameters(), lr=1e-3)
        for _ in range(TRAINING):
            batch = data[torch.randint(len(data), (BATCH,))]
            value, _ = loss(batch)
            adam.zero_grad(set_to_none=True)
            value.backward()
            adam.step()

    def ebmkit():
        loss = EbmkitDivergence(EbmkitLangevin(step_size=STEP, steps=CD))
        Trainer(TorchNetwork(), loss, lr=1e-3, device="cpu").fit(data, TRAINING, BATCH, verbose=False)

    # A fit compiles its loop for each objective: the steps are what a long run costs more than a short one.
    long, short = (seconds(lambda steps=steps: ours(steps), repeats) for steps in (11 * TRAINING, TRAINING))
    return [(long - short) / 10, seconds(torchebm, repeats), seconds(ebmkit, repeats)]


def checkerboard() -> list[list[int]]:
    parity = np.add.outer(np.arange(SIDE), np.arange(SIDE)).ravel() % 2
    return [np.flatnonzero(parity == colour).tolist() for colour in (0, 1)]


def block_gibbs(repeats: int) -> list[float]:
    edges = square_lattice(SIDE, SIDE)
    size = SIDE * SIDE
    model = Ising(Binary((size,)), jnp.full(len(edges), BETA), jnp.zeros(size), Graph.of(edges, size))
    start = np.random.default_rng(0).integers(0, 2, (CHAINS, size)).astype(np.float32)
    move = eqx.filter_jit(lambda y, key: walk(Target(model), Gibbs(), y, SWEEPS, key=key).points)
    found = [seconds(lambda: jax.block_until_ready(move(jnp.asarray(start), jax.random.key(1))), repeats)]
    for library in (thrml, hamon):
        nodes = [library.SpinNode() for _ in range(size)]
        pairs = [(nodes[a], nodes[b]) for a, b in edges]
        theirs = library.models.IsingEBM(nodes, pairs, jnp.zeros(size), jnp.ones(len(edges)), jnp.array(BETA))
        blocks = [library.Block([nodes[i] for i in block]) for block in checkerboard()]
        program = library.models.IsingSamplingProgram(theirs, blocks, clamped_blocks=[])
        schedule = library.SamplingSchedule(n_warmup=SWEEPS - 1, n_samples=1, steps_per_sample=1)
        extra = {"device": None} if library is hamon else {}
        state = [jnp.asarray(start[:, block] > 0.5) for block in checkerboard()]

        def one(key, state, library=library, program=program, schedule=schedule, nodes=nodes, extra=extra):
            return library.sample_states(key, program, schedule, state, [], [library.Block(nodes)], **extra)

        run = eqx.filter_jit(jax.vmap(one))
        keys = jax.random.split(jax.random.key(1), CHAINS)
        found.append(
            seconds(lambda run=run, keys=keys, state=state: jax.block_until_ready(run(keys, state)), repeats)
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)

    def line(name: str, found: list[float]) -> list[object]:
        cells: list[object] = [name, *found, *(theirs / found[0] for theirs in found[1:])]
        print(cells, flush=True)
        return cells

    moving = [
        line(f"{LANGEVIN} Langevin steps, {chains:,} chains", langevin(chains, given.repeats))
        for chains in (1_000, 10_000)
    ]
    moving.append(line(f"{TRAINING} training steps of CD-{CD}, batch {BATCH}", training(given.repeats)))
    head = ["processor seconds", "ours", "torchebm", "ebmkit", "torchebm / ours", "ebmkit / ours"]
    title = f"MLP 2-{WIDTH}-{WIDTH}-1, {cores} core" + "s" * (cores > 1)
    parts = [table(title, head, moving)]
    name = f"{SIDE}×{SIDE} spins, {CHAINS} chains × {SWEEPS} sweeps"
    head = ["processor seconds", "ours", "thrml", "hamon", "thrml / ours", "hamon / ours"]
    parts.append(table("Block Gibbs of an Ising model", head, [line(name, block_gibbs(given.repeats))]))
    packages = ("torch", "torchebm", "ebmkit", "thrml", "hamon")
    report("chains", "taskset -c 0 python benchmarks/chains.py", parts, *packages, write=given.write)


if __name__ == "__main__":
    main()
