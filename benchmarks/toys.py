r"""Two-dimensional toys whose density is known, learnt by every objective that suits numbers: exact KL on a grid.

Data: 10,000 draws of each toy (`thalweg.data.toys`), in a box that holds all but 1e-4 of its mass. Energy: the network
of `mlp-ebm` (two layers of 128 smooth units), once alone in the box (beside a constant) and once beside the mixture of
ten Gaussians that the recipe fits first. KL(truth ‖ model) is summed over 256 × 256 points, for truth and model alike
normalised on that grid. Seconds are of training alone (fitting the mixture included, compiling apart).

"Of it in masses" is the part of the last KL that lies in how much each separate part of the toy (ring, Gaussian, arm)
holds. The settings were chosen on rings and eight_gaussians; pinwheel, two_moons and checkerboard were only looked at.

    python benchmarks/toys.py [--write] [--toys rings pinwheel] [--seconds 30] [--ways NCE]
"""

import argparse
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from curves import Curve, below, timed
from machine import RESULTS, report, table
from thalweg.data.rows import Rows
from thalweg.data.toys import TOYS
from thalweg.energy.base import AbstractDensity
from thalweg.energy.spaces import Column, Record
from thalweg.learning.exact import ExactLikelihood
from thalweg.learning.noise import NoiseContrastive
from thalweg.learning.objective import AbstractObjective
from thalweg.learning.run import Run
from thalweg.learning.samples import ContrastiveDivergence
from thalweg.learning.scores import DenoisingScoreMatching, ScoreMatching, SlicedScoreMatching
from thalweg.learning.trainer import Trainer
from thalweg.models import background
from thalweg.models.embedding import Embedding
from thalweg.models.mlp_ebm import Bent, Settings, build
from thalweg.models.recipe import Problem
from thalweg.models.relaxation import steps_of_numbers
from thalweg.nn.initial import drawn

ROWS, SIDE = 10_000, 256
CHOSEN, OTHERS = ("rings", "eight_gaussians"), ("pinwheel", "two_moons", "checkerboard")
QUIET = Run(progress=False)


class Flat(AbstractDensity):
    """The uniform density of a box."""

    embedding: Embedding

    @property
    def space(self) -> Record:
        return self.embedding.space

    def log_prob(self, y, x=None):
        lower, upper = self.space.bounds()
        return jnp.float32(-np.sum(np.log(upper - lower)))

    def sample(self, x=None, *, key):
        return self.space.draw(key=key)

    def over(self, embedding: Embedding) -> "Flat":
        return replace(self, embedding=embedding)


@dataclass(frozen=True)
class Toy:
    """A toy in its box: draws, the points of the grid, the area of each, and the log density there."""

    rows: np.ndarray
    space: Record
    points: np.ndarray
    area: float
    log_p: np.ndarray

    @classmethod
    def of(cls, name: str) -> "Toy":
        density = TOYS[name]()
        keys = jax.random.split(jax.random.key(0), 2 * ROWS)
        drawn_rows = np.asarray(jax.vmap(lambda key: density.sample(key=key))(keys))
        low, high = drawn_rows.min() - 0.4, drawn_rows.max() + 0.4
        if name == "checkerboard":
            low, high = -4.4, 4.4
        rows = drawn_rows[:ROWS]
        columns = [
            Column(f"y{i}", "real", lower=float(low), upper=float(high), center=float(c), spread=float(s))
            for i, (c, s) in enumerate(zip(rows.mean(axis=0), rows.std(axis=0), strict=True))
        ]
        axis = low + (high - low) * (np.arange(SIDE) + 0.5) / SIDE
        points = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2).astype(np.float32)
        area = ((high - low) / SIDE) ** 2
        log_p = np.asarray(jax.vmap(density.log_prob)(jnp.asarray(points)), np.float64)
        log_p -= np.logaddexp.reduce(log_p) + math.log(area)
        return cls(rows, Record(tuple(columns)), points, area, log_p)

    def log_q(self, energy) -> np.ndarray:
        """The log density of an energy on the grid."""
        energies = np.asarray(_energies(energy, jnp.asarray(self.points)), np.float64)
        return -energies - np.logaddexp.reduce(-energies) - math.log(self.area)

    def kl(self, energy) -> float:
        """KL(truth ‖ model), nats."""
        weights = np.exp(self.log_p) * self.area
        inside = weights > 0
        return float(np.sum(weights[inside] * (self.log_p - self.log_q(energy))[inside]))


@eqx.filter_jit
def _energies(energy, points):
    return jax.lax.map(jax.vmap(energy), points.reshape(SIDE, SIDE, 2)).reshape(-1)


def start(toy: Toy, mixture: bool, settings: Settings) -> tuple[Bent, float]:
    """The network before training, and the seconds that its background took."""
    embedding = Embedding(toy.space, "column")
    began = time.perf_counter()
    beside: AbstractDensity = Flat(embedding)
    if mixture:
        rows = Rows(toy.rows, np.ones(toy.rows.shape, bool), np.zeros(len(toy.rows), int))
        problem = Problem(toy.space, rows, rows[:0], settings, jax.random.key(0), QUIET)
        beside = background.fitted(problem, settings.components)
    return build(beside, settings, drawn(jax.random.key(1))), time.perf_counter() - began


@dataclass(frozen=True)
class Way:
    """An objective for an energy, and how long and how fast it is trained."""

    objective: Callable[[Bent], AbstractObjective]
    steps: int
    rate: float = 5e-3
    decay: float = 1e-4


def chains(start: str, steps: int) -> Callable[[Bent], AbstractObjective]:
    def of(energy: Bent) -> AbstractObjective:
        return ContrastiveDivergence(steps_of_numbers(energy.space, 0.15), steps, start, chains=2048)

    return of


WAYS = {
    "maximum likelihood": Way(lambda energy: ExactLikelihood(64), 1200),
    "NCE": Way(lambda energy: NoiseContrastive(energy.background, 4), 3000),
    "CD-10": Way(chains("data", 10), 2000),
    "PCD-10": Way(chains("persistent", 10), 2000),
    "score matching": Way(lambda energy: ScoreMatching(), 2000),
    "sliced score matching": Way(lambda energy: SlicedScoreMatching(), 3000),
    "denoising, σ = 0.1": Way(lambda energy: DenoisingScoreMatching((0.1,)), 4000),
    "denoising, σ = 0.05": Way(lambda energy: DenoisingScoreMatching((0.05,)), 4000),
    "denoising, σ from 1 to 0.05": Way(
        lambda energy: DenoisingScoreMatching((1.0, 0.05), falling=3500), 4000
    ),
}


def trained(toy: Toy, way: Way, mixture: bool, limit: float) -> tuple[Curve, Bent]:
    settings = Settings()
    energy, spent = start(toy, mixture, settings)
    schedule = optax.cosine_decay_schedule(way.rate, way.steps)
    trainer = Trainer(
        energy,
        toy.rows,
        way.objective(energy),
        optimiser=optax.chain(optax.clip_by_global_norm(10.0), optax.adamw(schedule, weight_decay=way.decay)),
        key=jax.random.key(2),
        batch=256,
        averaging=0.99,
    )
    return timed(trainer, toy.kl, steps=way.steps, limit=limit, growth=1.4, began_with=spent)


def of_masses(toy: Toy, energy: Bent, parts: np.ndarray) -> float:
    """The share of KL that lies in how much each of the separate `parts` of the toy holds."""
    p, q = (np.bincount(parts, np.exp(log) * toy.area) for log in (toy.log_p, toy.log_q(energy)))
    return float(np.sum(p[p > 0] * np.log(p[p > 0] / q[p > 0])))


#: Which part of a toy a point belongs to: the nearest ring, Gaussian, arm, moon or square.
PARTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "rings": lambda y: np.clip(np.round(np.linalg.norm(y, axis=1)), 1, 3).astype(int),
    "eight_gaussians": lambda y: np.round(np.arctan2(y[:, 1], y[:, 0]) * 4 / np.pi).astype(int) % 8,
    "pinwheel": lambda y: (
        np.round((np.arctan2(y[:, 1], y[:, 0]) - 0.6 * np.linalg.norm(y, axis=1)) * 5 / (2 * np.pi)).astype(
            int
        )
        % 5
    ),
    "two_moons": lambda y: (
        np.argmin(np.linalg.norm(y[:, None] - TOYS["two_moons"]().centres()[None], axis=2), axis=1) // 64
    ),
    "checkerboard": lambda y: (np.floor(y / 2).clip(-2, 1).astype(int) + 2) @ np.array([1, 4]),
}


def picture(name: str, toy: Toy, found: dict[str, Bent]) -> None:
    """The energies beside the true one, 12 nats deep."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    panels = {"truth": toy.log_p} | {way: toy.log_q(energy) for way, energy in found.items()}
    figure, axes = pyplot.subplots(2, -(-len(panels) // 2), figsize=(2.1 * -(-len(panels) // 2), 4.6))
    extent = (toy.points.min(), toy.points.max()) * 2
    for axis in axes.flat:
        axis.axis("off")
    for axis, (title, log) in zip(axes.flat, panels.items(), strict=False):
        energy = np.clip(toy.log_p.max() - log, 0, 12).reshape(SIDE, SIDE)[::2, ::2]
        axis.imshow(energy, origin="lower", extent=extent, cmap="magma_r")
        axis.set_title(title, fontsize=7)
    figure.tight_layout()
    RESULTS.mkdir(exist_ok=True)
    figure.savefig(RESULTS / f"toys_{name}.png", dpi=70)
    pyplot.close(figure)


def on_toy(name: str, given: argparse.Namespace) -> list[list[object]]:
    toy, lines, last = Toy.of(name), [], {}
    for way in WAYS:
        if given.ways and way not in given.ways:
            continue
        line: list[object] = [name, way]
        for mixture in (False, True) if given.mixture else (False,):
            curve, energy = trained(toy, WAYS[way], mixture, given.seconds)
            when, best = min(curve, key=lambda point: point[1])
            masses = of_masses(toy, energy, PARTS[name](toy.points))
            line += [best, when, below(curve, 0.05), curve[-1][1], masses]
            last[f"{way}{', mixture' if mixture else ''}"] = energy
            print(line, flush=True)
        lines.append(line)
    if given.write:
        picture(name, toy, last)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--toys", nargs="+", choices=list(PARTS), default=[*CHOSEN, *OTHERS])
    parser.add_argument("--ways", nargs="+", choices=list(WAYS))
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--mixture", action="store_true", help="also beside the mixture of mlp-ebm")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    head = ["toy", "objective"]
    for beside in ("alone", "beside the mixture") if given.mixture else ("alone",):
        head += [f"{beside}: least KL", "after, s", "s to 0.05", "last KL", "of it in masses"]
    lines = [line for name in given.toys for line in on_toy(name, given)]
    parts = [table(f"KL from the truth in nats, {ROWS:,} rows", head, lines)]
    report("toys", "python benchmarks/toys.py", parts, write=given.write)


if __name__ == "__main__":
    main()
