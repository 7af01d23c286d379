r"""Couplings of a 10×10 spin glass from its samples: every objective on finite spaces, against sample size and time.

The truth is \(p(s) \propto \exp(\sum_{i<j} J_{ij} s_i s_j)\), \(s \in \{-1, 1\}^{100}\), on the square lattice with
open borders: 180 couplings between neighbours from \(N(0, \sigma^2)\), no fields. \(\sigma = \sqrt{10}/2 = 1.58\) is
variance 10 in the convention \(x^\top Jx\), x in {0, 1}, of Sohl-Dickstein, Battaglino & DeWeese (2011), *Minimum
probability flow learning*, with their fields that leave every bit at 1/2; \(\sigma = 0.5\) is a warmer glass, where no
coupling is frozen. Nothing is told of the lattice: all 4,950 couplings and 100 fields are learnt, from 0.

Samples are the library's own: 64 chains of parallel tempering over 12 temperatures, two sweeps of Gibbs by block a
step, four steps between draws, 2,000 before the first. Mixing is checked by split R-hat and the effective sample size
of the energy, and by the correlations of the 180 pairs of neighbours: their deviation from those of 200,000
independent exact draws (the transfer matrix makes them on this lattice), in standard errors, beside that of as many
exact draws.

Error: root mean square over all couplings; relative to that of J = 0. Every objective has the same ridge on the
couplings, a normal prior of deviation `--prior` shared over the rows (without it a pair that never differs in 1,000
rows has no finite coupling). Seconds are of training alone, compilation apart. L-BFGS takes all rows at each of at
most 200 steps; Adam, and contrastive divergence, batches of 256. Plain peer: scikit-learn's LogisticRegression of each
bit on the others (the same prior), both estimates of a coupling averaged. No method was tuned on the error.

    python benchmarks/spin_glass.py [--write] [--sizes 1000 5000 20000] [--sigmas 0.5 1.58] [--seconds 30]
"""

import argparse
import math
import time
import warnings
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.linear_model import LogisticRegression

from curves import Curve, at, stays, timed
from machine import RESULTS, report, table
from thalweg.energy import Binary
from thalweg.evaluate.diagnostics import bulk_ess, split_r_hat
from thalweg.learning.neighbours import MinimumProbabilityFlow, PseudoLikelihood, RatioMatching
from thalweg.learning.objective import AbstractObjective
from thalweg.learning.penalty import Ridge
from thalweg.learning.samples import ContrastiveDivergence
from thalweg.learning.trainer import Trainer
from thalweg.models.ising import Graph, Ising, ising, square_lattice
from thalweg.sampling import Gibbs, ParallelTempering, sample

SIDE = 10
EDGES = square_lattice(SIDE, SIDE)
SPACE = Binary((SIDE * SIDE,))
#: Adam's largest step, falling to 0 by the last; rows, and chains, of a step.
RATE, STEPS, BATCH = 0.02, 4_000, 256
UPPER = np.triu_indices(SIDE * SIDE, 1)


def glass(sigma: float, seed: int) -> tuple[Ising, np.ndarray]:
    """The model of the lattice, and its couplings as a matrix."""
    graph = Graph.of(EDGES, SIDE * SIDE)
    couplings = sigma * np.random.default_rng(seed).normal(size=len(EDGES))
    truth = Ising(SPACE, jnp.asarray(couplings, jnp.float32), jnp.zeros(SIDE * SIDE), graph)
    return truth, np.asarray(truth.matrix, np.float64)


class Transfer:
    """The lattice row by row: a row has 2^10 states, so sums over all of them are exact."""

    def __init__(self, matrix: np.ndarray):
        states = 2.0 * ((np.arange(1 << SIDE)[:, None] >> np.arange(SIDE)) & 1) - 1
        index = np.arange(SIDE * SIDE).reshape(SIDE, SIDE)
        along = [matrix[row[:-1], row[1:]] for row in index]
        self.states = states
        self.within = [(states[:, :-1] * states[:, 1:]) @ j for j in along]
        self.across = [matrix[a, b] for a, b in pairwise(index)]

    def forwards(self) -> list[np.ndarray]:
        """The log weight of all rows so far, by the state of the last."""
        found = [self.within[0]]
        for j, within in zip(self.across, self.within[1:], strict=True):
            found.append(self._step(found[-1], j) + within)
        return found

    def _step(self, message: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Sum over the row before, a bit at a time, since the bonds between rows do not share bits."""
        largest = message.max()
        weights = np.exp(message - largest).reshape((2,) * SIDE)
        for bit in range(SIDE):
            axis = SIDE - 1 - bit  # the first bit is the last axis
            bond = np.exp(np.array([[j[bit], -j[bit]], [-j[bit], j[bit]]]))
            weights = np.moveaxis(np.tensordot(bond, weights, (1, axis)), 0, axis)
        return np.log(weights.reshape(-1)) + largest

    def sample(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Independent draws: the last row, then each row given the one after it."""
        messages = self.forwards()
        rows = [self._draw(np.broadcast_to(messages[-1], (count, 1 << SIDE)), rng)]
        for j, message in zip(self.across[::-1], messages[-2::-1], strict=True):
            rows.append(self._draw(message + (self.states[rows[-1]] * j) @ self.states.T, rng))
        return self.states[np.stack(rows[::-1], axis=1)].reshape(count, -1)

    def _draw(self, logits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        found = []
        for part in np.array_split(logits, max(1, len(logits) // 1000)):
            weights = np.cumsum(np.exp(part - part.max(axis=1, keepdims=True)), axis=1)
            at = rng.random((len(part), 1)) * weights[:, -1:]
            found.append((weights < at).sum(axis=1))
        return np.concatenate(found)


def drawn(truth: Ising, matrix: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, list[object]]:
    """Rows of the glass by parallel tempering, shuffled; and how they compare with exact draws."""
    kernel = ParallelTempering(Gibbs(2), levels=12)
    began = time.perf_counter()
    chains = 64
    kept = -(-max(count, 20_000) // chains)
    found = sample(
        truth, key=jax.random.key(seed), kernel=kernel, chains=chains, warmup=2000, steps=4 * kept, thin=4
    )
    seconds = time.perf_counter() - began
    rng = np.random.default_rng(seed)
    rows = rng.permutation(np.asarray(found.draws).reshape(-1, SIDE * SIDE))[:count]
    transfer = Transfer(matrix)
    a, b = np.array(EDGES).T

    def bonds(s: np.ndarray) -> np.ndarray:
        return (s[:, a] * s[:, b]).mean(axis=0)

    exact = bonds(np.concatenate([transfer.sample(20_000, rng) for _ in range(10)]))
    scale = np.sqrt(np.maximum(1 - exact**2, 20 / 200_000) * (1 / count + 1 / 200_000))
    ours = np.abs(bonds(2 * rows - 1) - exact) / scale
    fresh = np.abs(bonds(transfer.sample(count, rng)) - exact) / scale
    energies = np.asarray(found.energies, np.float64)[..., None]
    cells = [
        split_r_hat(energies)[0],
        bulk_ess(energies)[0],
        np.sqrt(np.mean(ours**2)),
        np.sqrt(np.mean(fresh**2)),
        ours.max(),
        fresh.max(),
        seconds,
    ]
    return rows.astype(np.float32), [*map(float, cells)]


def couplings_of(energy: Ising) -> jax.Array:
    """Each coupling once, as far as a sum of squares can tell."""
    return energy.matrix / np.sqrt(2).astype(np.float32)


#: Objective, whether all rows are taken at each step by L-BFGS (else Adam on batches), and chains.
WAYS: dict[str, tuple[AbstractObjective, bool]] = {
    "minimum probability flow, L-BFGS": (MinimumProbabilityFlow(), True),
    "minimum probability flow, Adam": (MinimumProbabilityFlow(), False),
    "pseudo-likelihood, L-BFGS": (PseudoLikelihood(), True),
    "pseudo-likelihood, Adam": (PseudoLikelihood(), False),
    "ratio matching, L-BFGS": (RatioMatching(), True),
    "PCD-1": (ContrastiveDivergence(Gibbs(), 1, "persistent", chains=BATCH), False),
    "CD-1": (ContrastiveDivergence(Gibbs(), 1), False),
    "CD-10": (ContrastiveDivergence(Gibbs(), 10), False),
}
PEER = "scikit-learn LogisticRegression"


def error(couplings: np.ndarray, truth: np.ndarray) -> float:
    """Root mean square error of J."""
    return float(np.sqrt(np.mean((couplings - truth)[UPPER] ** 2)))


def curve(
    objective: AbstractObjective, whole: bool, rows: np.ndarray, truth: np.ndarray, prior: float, limit: float
) -> Curve:
    """(seconds, error) while training, until `limit` seconds or its last step."""
    last = 200 if whole else STEPS
    optimiser = optax.lbfgs(memory_size=20) if whole else optax.adam(optax.cosine_decay_schedule(RATE, STEPS))
    trainer = Trainer(
        ising(SPACE),
        rows,
        Ridge(objective, 1 / (len(rows) * prior**2), couplings_of),
        optimiser=optimiser,
        key=jax.random.key(0),
        batch=len(rows) if whole else BATCH,
    )
    found, _ = timed(trainer, lambda energy: error(np.asarray(energy.matrix), truth), steps=last, limit=limit)
    return found


def by_site(rows: np.ndarray, truth: np.ndarray, prior: float) -> Curve:
    """Pseudo-likelihood a bit at a time, by scikit-learn."""
    s = 2.0 * rows - 1
    began, found = time.perf_counter(), np.zeros_like(truth)
    for i in range(s.shape[1]):
        # The log odds of a bit are 2 J·s, and the prior is on J.
        peer = LogisticRegression(C=4 * prior**2, max_iter=1000).fit(np.delete(s, i, axis=1), s[:, i] > 0)
        found[i, np.arange(s.shape[1]) != i] = peer.coef_[0] / 2
    seconds = time.perf_counter() - began
    return [(seconds, error((found + found.T) / 2, truth))]


def compared(sigma: float, rows: np.ndarray, truth: np.ndarray, given) -> dict[str, Curve]:
    found = {}
    for name, (objective, whole) in WAYS.items():
        found[name] = curve(objective, whole, rows, truth, given.prior, given.seconds)
        print(
            f"{sigma:g} {len(rows):,} {name}: {found[name][-1][1]:.4f} after {found[name][-1][0]:.1f} s",
            flush=True,
        )
    found[PEER] = by_site(rows, truth, given.prior)
    print(
        f"{sigma:g} {len(rows):,} {PEER}: {found[PEER][-1][1]:.4f} after {found[PEER][-1][0]:.1f} s",
        flush=True,
    )
    return found


def tabled(sigma: float, found: dict[int, dict[str, Curve]], truth: np.ndarray) -> str:
    lines = []
    norm = error(np.zeros_like(truth), truth)
    for name in (*WAYS, PEER):
        line: list[object] = [name]
        for n in found:
            of = found[n][name]
            line += [of[-1][1], f"{of[-1][1] / norm:.3f}", at(of, 1.0), stays(of), of[-1][0]]
        lines.append(line)
    head = ["way"]
    for n in found:
        head += [f"{n:,} rows: RMSE of J", "relative", "after 1 s", "s to 1.1 ×", "s"]
    return table(f"Couplings of deviation {sigma:g} (RMSE of J = 0: {norm:.4f})", head, lines)


def picture(found: dict[float, dict[int, dict[str, Curve]]]) -> None:
    """Error against time, a panel for each glass, of its largest sample."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(found), figsize=(5.5 * len(found), 4), squeeze=False)
    for axis, (sigma, by_size) in zip(axes[0], found.items(), strict=True):
        n = max(by_size)
        for i, (name, of) in enumerate(by_size[n].items()):
            axis.plot(*zip(*of, strict=True), "o" if len(of) == 1 else "-", color=f"C{i}", label=name)
        axis.set(xscale="log", yscale="log", xlabel="seconds of training", ylabel="RMSE of J")
        axis.set_title(f"σ = {sigma:g}, {n:,} rows", fontsize=10)
        axis.grid(alpha=0.3, which="both")
    axes[0, -1].legend(fontsize=7)
    figure.tight_layout()
    RESULTS.mkdir(exist_ok=True)
    figure.savefig(RESULTS / "spin_glass.png", dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 5_000, 20_000])
    parser.add_argument("--sigmas", type=float, nargs="+", default=[0.5, round(math.sqrt(10) / 2, 3)])
    parser.add_argument("--prior", type=float, default=3.0)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    mixing, parts, found = [], [], {}
    for sigma in given.sigmas:
        truth, matrix = glass(sigma, given.seed)
        rows, cells = drawn(truth, matrix, max(given.sizes), given.seed)
        mixing.append([sigma, *cells])
        print(mixing[-1], flush=True)
        found[sigma] = {n: compared(sigma, rows[:n], matrix, given) for n in given.sizes}
        parts.append(tabled(sigma, found[sigma], matrix))
    head = [
        "deviation of J",
        "split R-hat",
        "ESS of the energy",
        "z of 180 correlations, rms",
        "of exact draws",
    ]
    head += ["largest", "of exact draws", "s"]
    parts.append(table(f"Mixing of {max(given.sizes):,} draws by parallel tempering", head, mixing))
    if given.write:
        picture(found)
    report("spin_glass", "python benchmarks/spin_glass.py", parts, write=given.write)


if __name__ == "__main__":
    main()
