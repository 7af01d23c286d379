"""Restricted Boltzmann machines: 16 hidden units on binarised digits with the exact log Z, 500 on binarised MNIST.

Digits: pixels above 8 are 1; the first 1,347 rows train, the rest test. Every objective trains the same machine from
the same start, with the same weight decay of .03: chosen among 0, .03, .1 and .3 by what PCD-5 and pseudo-likelihood
make of the last 199 of the training rows, trained on the others. Beside them scikit-learn's BernoulliRBM (stochastic
maximum likelihood). MNIST: pixels above 127 are 1 (one fixed binarisation by a threshold), 60,000 rows train; log Z is
bracketed by annealing from both sides, for machines that were trained for longer and longer: the sharper the
modes, the fewer chains find their way. Weight decay .1 there: after 5,000 steps on the first 50,000 rows the others had
92.3 nats with a bracket of 1.0 (4,000 temperatures); no decay and a rate of .001 100.4 and .9; CD-5 no bracket at all.

    THALWEG_DATA=… python benchmarks/rbm.py [--write] [--part digits|mnist] [--minutes 1 2] [--seeds 3] [--only NCE]
"""

import argparse
import os
import time
import warnings
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.neural_network import BernoulliRBM

from machine import report, table
from thalweg.energy import AbstractDensity, AbstractEnergy, Binary, Offset
from thalweg.evaluate.annealing import log_partition
from thalweg.learning.exact import ExactLikelihood
from thalweg.learning.fit import fit
from thalweg.learning.neighbours import MinimumProbabilityFlow, PseudoLikelihood, RatioMatching
from thalweg.learning.noise import NoiseContrastive
from thalweg.learning.run import Run
from thalweg.learning.samples import ContrastiveDivergence
from thalweg.models.rbm import RBM, rbm
from thalweg.models.visible import Independent
from thalweg.sampling import Gibbs

QUIET = Run(progress=False)
#: Of the large machine. Without it modes grow sharp, few chains of annealing find them, and the bracket is wide.
MNIST_DECAY = 0.1
STEPS, DECAY, TEMPERATURES = (1_000, 4_000), 0.03, 20_000


def digits() -> tuple[np.ndarray, np.ndarray]:
    bits = (load_digits().data > 8).astype(np.float32)
    return bits[:1347], bits[1347:]


class Mixture(AbstractDensity):
    """A mixture of so many densities of independent bits."""

    space: Binary = eqx.field(static=True)
    log_weights: jax.Array
    logits: jax.Array

    def log_prob(self, y: jax.Array, x: object = None) -> jax.Array:
        parts = jnp.sum(y * self.logits - jax.nn.softplus(self.logits), axis=1)
        return jax.nn.logsumexp(self.log_weights + parts)

    def sample(self, x: object = None, *, key: jax.Array) -> jax.Array:
        part, bits = jax.random.split(key)
        logits = self.logits[jax.random.categorical(part, self.log_weights)]
        return jax.random.bernoulli(bits, jax.nn.sigmoid(logits)).astype(jnp.float32)


def mixture(rows: np.ndarray, parts: int = 20, iterations: int = 100) -> Mixture:
    """By expectation maximisation from random responsibilities; each part is smoothed by two bits, one of each kind."""
    shares = np.random.default_rng(0).dirichlet(np.full(parts, 0.1), len(rows))
    for _ in range(iterations):
        counts = shares.sum(axis=0)
        rates = (shares.T @ rows + 1) / (counts[:, None] + 2)
        logits, log_weights = np.log(rates / (1 - rates)), np.log((counts + 1) / (counts + 1).sum())
        logs = log_weights + rows @ logits.T + np.log(1 - rates).sum(axis=1)
        shares = np.exp(logs - logs.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
    return Mixture(Binary((64,)), jnp.asarray(log_weights, jnp.float32), jnp.asarray(logits, jnp.float32))


@eqx.filter_jit
def nats(machine: RBM, rows: jax.Array) -> jax.Array:
    """The exact negative log likelihood of a row on average."""
    return jnp.mean(jax.vmap(machine)(rows)) + machine.log_partition()


def objectives(space: Binary, base: jax.Array, rows: np.ndarray) -> dict[str, object]:
    noise = Independent(space, base, jnp.zeros_like(base))
    return {
        "maximum likelihood, exact": ExactLikelihood(),
        "PCD-1": ContrastiveDivergence(Gibbs(), 1, "persistent", chains=128),
        "PCD-5": ContrastiveDivergence(Gibbs(), 5, "persistent", chains=128),
        "CD-1": ContrastiveDivergence(Gibbs(), 1),
        "CD-10": ContrastiveDivergence(Gibbs(), 10),
        "pseudo-likelihood": PseudoLikelihood(),
        "ratio matching": RatioMatching(),
        "minimum probability flow": MinimumProbabilityFlow(),
        "NCE, independent noise": NoiseContrastive(noise, 10),
        "NCE, noise of 20 parts": NoiseContrastive(mixture(rows), 10),
    }


def trained(
    machine: AbstractEnergy,
    objective: object,
    rows: np.ndarray,
    steps: int,
    rate: float,
    decay: float,
    seed: int,
) -> AbstractEnergy:
    schedule = optax.cosine_decay_schedule(rate, steps)
    return fit(
        machine,
        rows,
        objective,
        # A constant beside the machine (noise-contrastive estimation's) is no weight.
        optimiser=optax.adamw(
            schedule, weight_decay=decay, mask=lambda p: jax.tree.map(lambda a: a.ndim > 0, p)
        ),
        steps=steps,
        batch=128,
        averaging=0.99,
        key=jax.random.key(seed),
        run=QUIET,
    ).energy


def on_digits(seeds: int, only: str) -> str:
    train, test = digits()
    space = Binary((64,))
    base = rbm(space, 16, key=jax.random.key(0), rows=train).base
    lines: list[list[object]] = []
    for name, objective in objectives(space, base, train).items():
        if only not in name:
            continue
        line: list[object] = [name]
        for steps in STEPS:
            found, began = [], time.perf_counter()
            for seed in range(seeds):
                start = rbm(space, 16, key=jax.random.key(seed), rows=train, scale=0.05)
                energy: AbstractEnergy = start
                if isinstance(objective, NoiseContrastive):
                    energy = Offset(start, start.log_partition())
                machine = trained(energy, objective, train, steps, 0.02, DECAY, seed)
                machine = machine.energy if isinstance(machine, Offset) else machine
                found.append([float(nats(machine, jnp.asarray(part))) for part in (train, test)])
            mean, spread = np.mean(found, axis=0), np.std(found, axis=0)
            line += [mean[0], f"{mean[1]:.2f} ± {spread[1]:.2f}", (time.perf_counter() - began) / seeds]
            print(name, steps, mean, flush=True)
        lines.append(line)
    for iterations in (50, 300):
        found, began = [], time.perf_counter()
        for seed in range(seeds):
            peer = BernoulliRBM(16, learning_rate=0.05, n_iter=iterations, random_state=seed).fit(train)
            parts = (peer.components_, peer.intercept_hidden_, peer.intercept_visible_)
            weights, hidden, visible = (jnp.asarray(a, jnp.float32) for a in parts)
            machine = RBM(space, weights, hidden, visible, jnp.zeros(64), jnp.zeros(64))
            found.append([float(nats(machine, jnp.asarray(part))) for part in (train, test)])
        mean, spread = np.mean(found, axis=0), np.std(found, axis=0)
        seconds = (time.perf_counter() - began) / seeds
        cells: list[object] = [mean[0], f"{mean[1]:.2f} ± {spread[1]:.2f}", seconds]
        if iterations == 50:
            lines.append(["scikit-learn BernoulliRBM, 50 and 300 passes", *cells])
        else:
            lines[-1] += cells
    head = ["objective"]
    for steps in STEPS:
        head += [f"{steps:,} steps: train", "test", "s"]
    return table(f"Digits, 16 hidden units: exact nats a row, mean of {seeds} seeds", head, lines)


def on_mnist(minutes: list[float]) -> str:
    arrays = np.load(Path(os.environ["THALWEG_DATA"]) / "mnist.npz", allow_pickle=False)
    train = (arrays["x_train"].reshape(60_000, 784) > 127).astype(np.float32)
    test = (arrays["x_test"].reshape(10_000, 784) > 127).astype(np.float32)
    start = rbm(Binary((784,)), 500, key=jax.random.key(0), rows=train)
    objective = ContrastiveDivergence(Gibbs(), 1, "persistent", chains=128)

    def timed(steps: int) -> tuple[RBM, float]:
        began = time.perf_counter()
        machine = trained(start, objective, train, steps, 0.003, MNIST_DECAY, 0)
        return machine, time.perf_counter() - began

    # A thousand steps without what compilation takes, each time.
    pace = -timed(200)[1] + timed(1_200)[1]
    lines, remarks = [], []
    for share in minutes:
        steps = int(share * 60 / pace * 1_000)
        machine, seconds = timed(steps)
        began = time.perf_counter()
        found = log_partition(machine, key=jax.random.key(1), chains=100, temperatures=TEMPERATURES)
        of_log_z = time.perf_counter() - began
        free = [_mean_energy(machine, rows) for rows in (train[:10_000], test)]
        nats = [free[0] + found.value, *(free[1] + at for at in (found.value, found.lower, found.upper))]
        lines.append([steps, seconds, *nats, found.upper - found.lower, of_log_z])
        remarks.append(f"{steps:,} steps: {found}.")
        print(lines[-1], remarks[-1], flush=True)
    head = ["steps", "s", "train", "test nats", "at least", "at most", "width", "s of log Z"]
    heading = "MNIST above 127, 500 hidden units, PCD-1: nats a row, bracketed"
    return table(heading, head, lines) + "\n" + "\n\n".join(remarks) + "\n"


def _mean_energy(machine: RBM, rows: np.ndarray) -> float:
    return float(np.mean(jax.jit(jax.vmap(machine))(jnp.asarray(rows)), dtype=np.float64))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--part", choices=("digits", "mnist"))
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 2])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="objectives on digits whose names hold this")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    command = "python benchmarks/rbm.py"
    if given.part != "mnist":
        report("rbm_digits", command, [on_digits(given.seeds, given.only)], write=given.write)
    if given.part != "digits":
        report("rbm_mnist", command, [on_mnist(given.minutes)], write=given.write)


if __name__ == "__main__":
    main()
