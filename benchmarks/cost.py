"""What a step of a chain and a step of training cost, beside the matrix products that they cannot do without.

Langevin steps of an MLP d-w-w-1 (SiLU), CD-10 training steps of the same at as many rows as there are chains, and block
Gibbs sweeps of a restricted Boltzmann machine of d visible and w hidden units: steps a second against the number of
chains, the dimension and the width, each with the others held. The limit is a compiled loop of nothing but the products
of a step (in the values and, for energies, in their derivatives) on arrays of the same shapes; a training step is
ten steps of its chains and three products more for each layer, twice over, for rows and chains.

    taskset -c 0 python benchmarks/cost.py [--write] [--tasks Langevin]
"""

import argparse
import os
import time
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax

from machine import RESULTS, report, table
from thalweg.energy import AbstractEnergy, Binary, Real
from thalweg.learning.fit import fit
from thalweg.learning.run import Run
from thalweg.learning.samples import ContrastiveDivergence
from thalweg.models.rbm import rbm
from thalweg.sampling import ULA, Gibbs, Target
from thalweg.sampling.walk import walk

matplotlib.use("Agg")
import matplotlib.pyplot as plt

BASE = {"chains": 1_000, "dimension": 16, "width": 128}
AXES = {
    "chains": (1, 10, 100, 1_000, 10_000),
    "dimension": (2, 16, 128, 784),
    "width": (16, 64, 256, 1_024),
}
CD = 10
#: Seconds that a measurement lasts at least.
LEAST = 0.3


class Network(AbstractEnergy):
    """An MLP as an energy, in a bowl that keeps chains near."""

    space: Real
    mlp: eqx.nn.MLP

    def __call__(self, y, x=None):
        return self.mlp(y) + jnp.sum(y**2) / 2


def network(dimension: int, width: int) -> Network:
    mlp = eqx.nn.MLP(dimension, "scalar", width, 2, activation=jax.nn.silu, key=jax.random.key(0))
    return Network(Real((dimension,)), mlp)


def rate(run: Callable[[int], object]) -> float:
    """Steps a second of a compiled loop of so many steps: the best of three runs that are long enough."""
    jax.block_until_ready(run(1))
    steps, seconds = 1, 0.0
    while seconds < LEAST:
        steps *= 4
        began = time.perf_counter()
        jax.block_until_ready(run(steps))
        seconds = time.perf_counter() - began
    for _ in range(2):
        began = time.perf_counter()
        jax.block_until_ready(run(steps))
        seconds = min(seconds, time.perf_counter() - began)
    return steps / seconds


def langevin(chains: int, dimension: int, width: int) -> float:
    energy, start = network(dimension, width), jax.random.normal(jax.random.key(1), (chains, dimension))
    run = eqx.filter_jit(
        lambda y, steps: walk(Target(energy), ULA(0.01), y, steps, key=jax.random.key(2)).points
    )
    return rate(lambda steps: run(start, np.int32(steps)))


def training(chains: int, dimension: int, width: int) -> float:
    rows = np.random.default_rng(0).standard_normal((max(chains, 100), dimension)).astype(np.float32)
    objective = ContrastiveDivergence(ULA(0.01), CD, "data", folded=False)

    def seconds(steps: int) -> float:
        return fit(
            network(dimension, width),
            rows,
            objective,
            # What a step costs does not depend on how far it goes, and the energy stays sound.
            optimiser=optax.adam(1e-6),
            steps=steps,
            batch=chains,
            measure_every=100_000,
            key=jax.random.key(0),
            run=Run(progress=False),
        ).seconds

    # A fit compiles its own loop: a longer one less a shorter one is that of the steps.
    steps, spent = 8, 0.0
    while spent < LEAST:
        steps *= 4
        spent = seconds(steps) - seconds(1)
    return (steps - 1) / spent


def gibbs(chains: int, dimension: int, width: int) -> float:
    space = Binary((dimension,))
    machine = rbm(space, width, key=jax.random.key(0))
    start = jax.random.bernoulli(jax.random.key(1), 0.5, (chains, dimension)).astype(jnp.float32)
    run = eqx.filter_jit(
        lambda y, steps: walk(Target(machine), Gibbs(), y, steps, key=jax.random.key(2)).points
    )
    return rate(lambda steps: run(start, np.int32(steps)))


def products(shapes: list[tuple[int, int]], chains: int) -> float:
    """A second's worth of these products, of `chains` rows with a matrix each."""
    matrices = [jax.random.normal(jax.random.key(i), shape) / shape[0] for i, shape in enumerate(shapes)]

    @jax.jit
    def run(y, steps):
        def step(_, y):
            for matrix in matrices:
                y = y @ matrix
            return y

        return jax.lax.fori_loop(0, steps, step, y)

    start = jnp.ones((chains, shapes[0][0]))
    return rate(lambda steps: run(start, np.int32(steps)))


def limit(chains: int, dimension: int, width: int, *, gibbs: bool) -> float:
    there, back = (dimension, width), (width, dimension)
    if gibbs:
        return products([there, back], chains)
    return products([there, (width, width), (width, width), back], chains)


TASKS = {"Langevin": langevin, f"CD-{CD} training": training, "block Gibbs, RBM": gibbs}


def measured(tasks: list[str]) -> dict[tuple[str, str], list[tuple[int, float, float]]]:
    """By task and axis: the value on the axis, our steps a second, and the limit's."""
    found: dict[tuple[str, str], list[tuple[int, float, float]]] = {}
    for task in tasks:
        run = TASKS[task]
        for axis, values in AXES.items():
            for value in values:
                own = {**BASE, axis: value}
                best = limit(**own, gibbs=run is gibbs)
                if run is training:
                    # A layer's products in rows and chains: values, derivatives in the layer before, in the weights.
                    best /= CD + 3
                found.setdefault((task, axis), []).append((value, run(**own), best))
                print(task, axis, *found[task, axis][-1], flush=True)
    return found


def picture(found: dict[tuple[str, str], list[tuple[int, float, float]]]) -> plt.Figure:
    tasks = list(dict.fromkeys(task for task, _ in found))
    size = (10, 1 + 2.4 * len(tasks))
    figure, axes = plt.subplots(
        len(tasks), len(AXES), figsize=size, sharey="row", layout="constrained", squeeze=False
    )
    for i, task in enumerate(tasks):
        for j, axis in enumerate(AXES):
            values, ours, best = np.array(found[task, axis]).T
            axes[i, j].loglog(values, best, "--", color="0.5", label="matrix products alone")
            axes[i, j].loglog(values, ours, "o-", label="ours")
            axes[i, j].set(xlabel=axis, title=task if j == 1 else "")
        axes[i, 0].set_ylabel("steps / s")
    axes[0, 0].legend()
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    given = parser.parse_args()
    found = measured(given.tasks)
    lines = [
        [task, axis, value, ours, best, ours / best]
        for (task, axis), points in found.items()
        for value, ours, best in points
    ]
    base = ", ".join(f"{name} {value:,}" for name, value in BASE.items())
    cores = len(os.sched_getaffinity(0))
    head = ["task", "axis", "value", "steps / s", "limit", "share of it"]
    part = table(f"{base} where not said otherwise; {cores} core" + "s" * (cores > 1), head, lines)
    if given.write:
        picture(found).savefig(RESULTS / "cost.png", dpi=80)
        part += "\n![steps a second](cost.png)\n"
    report("cost", "taskset -c 0 python benchmarks/cost.py", [part], write=given.write)


if __name__ == "__main__":
    main()
