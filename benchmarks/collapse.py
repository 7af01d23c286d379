r"""Collapse and its cures: \(Y = X^2\) under the losses of energy-based learning, and the energy surface over training.

The experiment of LeCun, Chopra, Hadsell, Ranzato & Huang (2006), *A tutorial on energy-based learning*, section 5:
200 samples, \(X \sim U[-1, 1]\), \(Y = X^2\). A: \(E = \|G(X) - Y\|_1\), G a network 1-20-1, cannot be flat. B:
\(E = \|G_1(X) - G_2(Y)\|_1\), both 1-10-10, is flat where neither branch looks at its argument. Tanh units; weights of
the first layer N(0, 1), of the second N(0, 0.09/width), biases N(0, 0.25); the same start for every loss. Adam on
batches of four, step size 0.02 falling to 0 over 40 epochs, the same for every loss; nothing was tuned for one of them.
The most offending incorrect answer is sought by ten steps of descent from four starts, more than 0.3 away from the
right one; the integral of the likelihood is a sum over 20 equispaced values, shifted at random at each step.

Error: the mean of |argmin E - x²| over 101 values of x, of a grid of 101 values of y. Spread: the root mean square
deviation of E over y. Collapse: the epoch at which `fit` stops the run with that cause.

    python benchmarks/collapse.py [--write] [--seeds 5] [--epochs 40]
"""

import argparse
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from machine import RESULTS, report, table
from thalweg.energy import AbstractEnergy, Real
from thalweg.errors import Diverged
from thalweg.inference import Gradient
from thalweg.learning.answers import LOSSES, answer_loss
from thalweg.learning.fit import fit
from thalweg.learning.objective import AbstractObjective
from thalweg.learning.rows import Pairs
from thalweg.learning.run import Run
from thalweg.learning.search import AnswerSearch
from thalweg.learning.trainer import Trainer

BATCH, ROWS, RATE = 4, 200, 0.02
BOX = Real((1,), -1.0, 1.0)
SEARCH = AnswerSearch(starts=4, radius=0.3, nodes=20, solver=Gradient(optax.adam(0.1), steps=10))
GRID = jnp.linspace(-1.0, 1.0, 101)
SNAPSHOTS = (0, 3, 10, 20, 40)


class Branch(eqx.Module):
    """A network of one hidden layer of tanh units."""

    inner: Array
    bias: Array
    outer: Array
    shift: Array

    def __init__(self, hidden: int, out: int, rng: np.random.Generator):
        self.inner = jnp.asarray(rng.normal(size=hidden), jnp.float32)
        self.bias = jnp.asarray(0.5 * rng.normal(size=hidden), jnp.float32)
        self.outer = jnp.asarray(0.3 / np.sqrt(hidden) * rng.normal(size=(out, hidden)), jnp.float32)
        self.shift = jnp.zeros(out)

    def __call__(self, t):
        return self.outer @ jnp.tanh(self.inner * t[0] + self.bias) + self.shift


class One(AbstractEnergy):
    r"""A: \(\|G(x) - y\|_1\)."""

    net: Branch
    space: Real = BOX

    def __call__(self, y, x=None):
        return jnp.sum(jnp.abs(self.net(x) - y))


class Two(AbstractEnergy):
    r"""B: \(\|G_1(x) - G_2(y)\|_1\)."""

    left: Branch
    right: Branch
    space: Real = BOX

    def __call__(self, y, x=None):
        return jnp.sum(jnp.abs(self.left(x) - self.right(y)))


def start(kind: str, seed: int) -> AbstractEnergy:
    rng = np.random.default_rng(seed)
    return One(Branch(20, 1, rng)) if kind == "A" else Two(Branch(10, 10, rng), Branch(10, 10, rng))


def parabola(seed: int) -> Pairs:
    x = np.random.default_rng(100 + seed).uniform(-1, 1, (ROWS, 1)).astype(np.float32)
    return Pairs(jnp.asarray(x), jnp.asarray(x**2))


#: What is trained: the architecture and the loss; and those that are drawn.
CASES = [("A", "energy"), *(("B", name) for name in LOSSES)]
DRAWN = [("A", "energy"), ("B", "energy"), ("B", "hinge"), ("B", "square-square"), ("B", "nll")]


@jax.jit
def surface(energy: AbstractEnergy) -> Array:
    """E on the grid: a row for each x."""
    return jax.vmap(lambda x: jax.vmap(lambda y: energy(y[None], x[None]))(GRID))(GRID)


def error(of: np.ndarray) -> float:
    found = np.asarray(GRID)[of.argmin(axis=1)]
    return float(np.abs(found - np.asarray(GRID) ** 2).mean())


def spread(of: np.ndarray) -> float:
    return float(np.sqrt(of.var(axis=1).mean()))


def optimiser(epochs: int) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(RATE, epochs * ROWS // BATCH))


def trained(
    kind: str, loss: AbstractObjective, seed: int, epochs: int
) -> tuple[dict[int, np.ndarray], float]:
    """The surface at each of the snapshots, watched by nobody; and the milliseconds of a step."""
    trainer = Trainer(
        start(kind, seed),
        parabola(seed),
        loss,
        optimiser=optimiser(epochs),
        key=jax.random.key(seed),
        batch=BATCH,
    )
    jax.block_until_ready(trainer.advance(trainer.initial, np.int32(1), trainer.data))
    state, found, seconds = trainer.initial, {}, 0.0
    for epoch in sorted({*(e for e in SNAPSHOTS if e < epochs), epochs}):
        began = time.perf_counter()
        state = jax.block_until_ready(trainer.advance(state, np.int32(epoch * ROWS // BATCH), trainer.data))
        seconds += time.perf_counter() - began
        found[epoch] = np.asarray(surface(trainer.energy(state.parameters)), np.float64)
    return found, 1000 * seconds / (epochs * ROWS // BATCH)


def collapse(kind: str, loss: AbstractObjective, seed: int, epochs: int) -> float | None:
    """The epoch at which the guard of `fit` finds a collapse; None where it doesn't."""
    try:
        fit(
            start(kind, seed),
            parabola(seed),
            loss,
            optimiser=optimiser(epochs),
            steps=epochs * ROWS // BATCH,
            batch=BATCH,
            measure_every=ROWS // BATCH,
            key=jax.random.key(seed),
            run=Run(progress=False),
        )
    except Diverged as found:
        words = str(found)
        if not words.startswith("training collapsed"):
            raise
        return float(words.split("at step ")[1].split(".")[0]) * BATCH / ROWS
    return None


def row(kind: str, name: str, seeds: int, epochs: int) -> list[object]:
    loss = answer_loss(name, search=SEARCH)
    errors, left, collapses, times = [], [], [], []
    for seed in range(seeds):
        found, milliseconds = trained(kind, loss, seed, epochs)
        errors.append(error(found[epochs]))
        left.append(spread(found[epochs]) / spread(found[0]))
        collapses.append(collapse(kind, loss, seed, epochs))
        times.append(milliseconds)
    at = [epoch for epoch in collapses if epoch is not None]
    cells = [
        f"{kind}, {name}",
        float(np.median(errors)),
        max(errors),
        float(np.median(left)),
        f"{len(at)} of {seeds}" + (f", at epoch {min(at):.0f} to {max(at):.0f}" if at else ""),
        float(np.median(times)),
    ]
    print(cells, flush=True)
    return cells


def picture(epochs: int, seed: int = 0) -> None:
    """A row for each of some losses, a column for each snapshot; one scale of energies a row."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    axis = np.asarray(GRID)
    columns = sorted({*(e for e in SNAPSHOTS if e < epochs), epochs})
    figure, axes = pyplot.subplots(
        len(DRAWN), len(columns), figsize=(2.1 * len(columns), 2.2 * len(DRAWN)), sharex=True, sharey=True
    )
    for of_loss, (kind, name) in zip(axes, DRAWN, strict=True):
        found, _ = trained(kind, answer_loss(name, search=SEARCH), seed, epochs)
        for panel, epoch in zip(of_loss, columns, strict=True):
            # Above the lowest answer to each input: what is left where the surface is flat is nothing.
            height = found[epoch] - found[epoch].min(axis=1, keepdims=True)
            scale = np.quantile(found[columns[0]] - found[columns[0]].min(axis=1, keepdims=True), 0.98)
            panel.pcolormesh(axis, axis, height.T, vmin=0, vmax=scale, cmap="viridis", rasterized=True)
            panel.plot(axis, axis**2, "w--", linewidth=0.9)
            panel.plot(axis, axis[height.argmin(axis=1)], "r.", markersize=1.5)
            panel.set_title(f"epoch {epoch}, spread {spread(found[epoch]):.2g}", fontsize=8)
            panel.tick_params(labelsize=7)
        of_loss[0].set_ylabel(f"{kind}, {name}\ny", fontsize=9)
    for panel in axes[-1]:
        panel.set_xlabel("x", fontsize=9)
    figure.tight_layout()
    RESULTS.mkdir(exist_ok=True)
    figure.savefig(RESULTS / "collapse.png", dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=40)
    given = parser.parse_args()
    head = ["architecture, loss", "error, median", "largest", "spread left", "collapsed", "ms a step"]
    rows = [row(*case, given.seeds, given.epochs) for case in CASES]
    if given.write:
        picture(given.epochs)
    parts = [table(f"Y = X² after {given.epochs} epochs, {given.seeds} seeds", head, rows)]
    parts.append(
        "![Energy above the lowest answer to each x (dark: low), before and during training; dashed Y = X², red the "
        "answer of least energy](collapse.png)\n"
    )
    report("collapse", "python benchmarks/collapse.py", parts, write=given.write)


if __name__ == "__main__":
    main()
