"""Many right answers to one input: how many of them are found, how likely the data are, and what acting on it does.

Three tasks. *branches*: y = ±(0.3 + 0.5 x²), 30 % above, noise 0.05. *ring*: points of a circle of radius 1, noise
0.05; y given x. *arm*: both angles of a two-link arm (0.8 and 0.2 long, the first from 0.3 to 1.2 rad, the second from
π/2 to 3π/2) given the place of its hand, measured to 0.005; Bishop (1994), *Mixture density networks*. `particle.py`
has a fourth.

Three methods of the same width and number of hidden layers, with as many steps and rows a step: `implicit`, a mixture
density network (8 Gaussians of own deviations) and a network trained by squared error. *recall*: the share of right
answers with a found one near (0.15 of y, or of both angles), of test inputs; *precision*: the share of found answers
that lie near a right one. Found are the minima of -log p with a probability of at least 5 %, for both densities by the
same search; the network with squared error gives one. *log p*: of test rows, in nats; of squared error with the
residuals' own deviation.
*success*: the hand of the likeliest answer within 0.02 of where it was.

    python benchmarks/many_answers.py [--write] [--tasks branches,ring,arm] [--seeds 3]
"""

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from typing import NamedTuple, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

import thalweg
from machine import RESULTS, report, table
from thalweg.energy import Real, energy_of
from thalweg.inference import Search, minimise, modes
from thalweg.models.implicit import Answers
from thalweg.models.inputs import Seen

NOISE, LINKS, MEASURED = 0.05, (0.8, 0.2), 0.005
NEAR, LEAST, REACHED = 0.15, 0.05, 0.02
#: Rows, width, hidden layers, steps, rows a step.
Budget = tuple[int, int, int, int, int]
SMALL: Budget = (2000, 64, 2, 2000, 128)
GAUSSIANS = 8


class Data(NamedTuple):
    x: np.ndarray
    y: np.ndarray


class Method(Protocol):
    """A fitted density of y given x, or the pretence of one."""

    def log_p(self, data: Data) -> float: ...
    def modes(self, x: np.ndarray) -> list[np.ndarray]: ...
    def best(self, x: np.ndarray) -> np.ndarray: ...


# --- the tasks ----------------------------------------------------------------------------------------------------


def branches(n: int, rng: np.random.Generator) -> Data:
    x = rng.uniform(-1, 1, n)
    side = np.where(rng.random(n) < 0.3, 1.0, -1.0)
    return Data(x[:, None], (side * (0.3 + 0.5 * x**2) + NOISE * rng.normal(size=n))[:, None])


def ring(n: int, rng: np.random.Generator) -> Data:
    angle, radius = rng.uniform(-np.pi, np.pi, n), 1 + NOISE * rng.normal(size=n)
    return Data((radius * np.cos(angle))[:, None], (radius * np.sin(angle))[:, None])


def hand(angles: np.ndarray) -> np.ndarray:
    (a, b), first, both = LINKS, angles[:, 0], angles.sum(axis=1)
    return np.stack([a * np.cos(first) - b * np.cos(both), a * np.sin(first) - b * np.sin(both)], axis=1)


def arm(n: int, rng: np.random.Generator) -> Data:
    angles = np.stack([rng.uniform(0.3, 1.2, n), rng.uniform(np.pi / 2, 3 * np.pi / 2, n)], axis=1)
    return Data(hand(angles) + MEASURED * rng.normal(size=(n, 2)), angles)


def right_answers(task: str, x: np.ndarray) -> list[np.ndarray]:
    """All right answers to each input, (m, a)."""
    if task == "branches":
        return [np.array([[1.0], [-1.0]]) * (0.3 + 0.5 * row[0] ** 2) for row in x]
    if task == "ring":
        # Beyond the circle the likeliest is at 0.
        heights = np.sqrt(np.maximum(1 - x[:, 0] ** 2, 0))
        return [np.array([[h], [-h]]) if h > NEAR else np.zeros((1, 1)) for h in heights]
    (a, b), found = LINKS, []
    for px, py in x:
        bend = np.arccos(np.clip((px**2 + py**2 - a**2 - b**2) / (2 * a * b), -1, 1))
        each = []
        for elbow in (bend, -bend):
            first = np.arctan2(py, px) - np.arctan2(b * np.sin(elbow), a + b * np.cos(elbow))
            each.append([first, (elbow - np.pi) % (2 * np.pi)])
        inside = [s for s in each if 0.3 <= s[0] <= 1.2 and np.pi / 2 <= s[1] <= 3 * np.pi / 2]
        found.append(np.array(inside).reshape(-1, 2))
    return found


# --- the methods --------------------------------------------------------------------------------------------------


class Implicit:
    """The recipe."""

    def __init__(self, data: Data, budget: Budget, seed: int):
        _, width, layers, steps, batch = budget
        self.names = [f"x{i}" for i in range(data.x.shape[1])], [f"y{i}" for i in range(data.y.shape[1])]
        self.model = thalweg.fit(
            self._table(data.x, data.y),
            "implicit",
            target="y0",
            also=",".join(self.names[1][1:]),
            width=width,
            layers=layers,
            steps=steps,
            batch=batch,
            dropout=0.0,
            calibrate=False,
            seed=seed,
            progress=False,
        )

    def _table(self, x: np.ndarray, y: np.ndarray | None = None) -> dict[str, np.ndarray]:
        xs, ys = self.names
        answers = {} if y is None else dict(zip(ys, y.T, strict=True))
        return dict(zip(xs, x.T, strict=True)) | answers

    def log_p(self, data: Data) -> float:
        return -float(np.mean(self.model.energy(self._table(*data))))

    def modes(self, x: np.ndarray) -> list[np.ndarray]:
        found = self.model.predict(self._table(x), modes=True).modes
        answers = np.stack([found.answer[name].to_numpy() for name in self.names[1]], axis=1)
        return [answers[(found.row == i) & (found.probability >= LEAST)] for i in range(len(x))]

    def best(self, x: np.ndarray) -> np.ndarray:
        """The answers of least energy, by search."""
        rows = self.model.schema.encode(thalweg.data.load(self._table(x)).table, partial=True)
        energy = Answers(self.model.F)
        codes = np.asarray(_sought(energy, Seen(jnp.asarray(rows.values), jnp.asarray(rows.observed))))
        places = [self.model.schema.index(name) for name in self.names[1]]
        return np.stack([self.model.schema.number(i, codes[:, j]) for j, i in enumerate(places)], axis=1)


SEARCH = Search(samples=256, iterations=5)


@eqx.filter_jit
def _sought(energy: Answers, inputs: Seen) -> Array:
    start = energy.energy.box.nodes[0]
    return jax.vmap(lambda x: minimise(energy, start, x, solver=SEARCH, throw=False).value)(inputs)


class Explicit:
    """A network from x to y, standardised; a squared error, or a mixture of Gaussians."""

    def __init__(self, data: Data, budget: Budget, seed: int, *, gaussians: int):
        _, width, layers, steps, batch = budget
        self.k, self.d = gaussians, data.y.shape[1]
        self.scale = [(a.mean(axis=0), a.std(axis=0)) for a in data]
        outputs = self.d if not gaussians else gaussians * (2 * self.d + 1)
        net = eqx.nn.MLP(data.x.shape[1], outputs, width, layers + 1, jax.nn.silu, key=jax.random.key(seed))
        x, y = (jnp.asarray((a - m) / s, jnp.float32) for a, (m, s) in zip(data, self.scale, strict=True))
        optimiser = optax.chain(
            optax.clip_by_global_norm(10.0),
            optax.adamw(optax.cosine_decay_schedule(2e-3, steps), weight_decay=1e-2),
        )

        @eqx.filter_jit
        def train(net, key):
            arrays, rest = eqx.partition(net, eqx.is_inexact_array)

            def step(carry, key):
                arrays, state = carry
                rows = jax.random.randint(key, (batch,), 0, len(x))
                slope = jax.grad(
                    lambda a: jnp.mean(jax.vmap(self._loss(eqx.combine(a, rest)))(x[rows], y[rows]))
                )(arrays)
                update, state = optimiser.update(slope, state, arrays)
                return (optax.apply_updates(arrays, update), state), None

            (arrays, _), _ = jax.lax.scan(
                step, (arrays, optimiser.init(arrays)), jax.random.split(key, steps)
            )
            return eqx.combine(arrays, rest)

        self.net = train(net, jax.random.key(seed + 1))
        self.deviation = (
            np.sqrt(np.mean((self._outputs(data.x) - np.asarray(y)) ** 2, axis=0)) if not self.k else None
        )

    def _loss(self, net: eqx.Module) -> Callable[[Array, Array], Array]:
        def loss(x, y):
            return -_log_mixture(net(x), y, self.k) if self.k else jnp.sum((net(x) - y) ** 2)

        return loss

    def _inputs(self, x: np.ndarray) -> Array:
        mean, deviation = self.scale[0]
        return jnp.asarray((x - mean) / deviation, jnp.float32)

    def _outputs(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(_applied(self.net, self._inputs(x)))

    def log_p(self, data: Data) -> float:
        mean, deviation = self.scale[1]
        y, outputs = (data.y - mean) / deviation, self._outputs(data.x)
        if self.k:
            logs = jax.vmap(lambda o, y: _log_mixture(o, y, self.k))(
                jnp.asarray(outputs), jnp.asarray(y, jnp.float32)
            )
        else:
            z = (y - outputs) / self.deviation
            logs = np.sum(-(z**2) / 2 - np.log(self.deviation * np.sqrt(2 * np.pi)), axis=1)
        return float(np.mean(logs) - np.log(deviation).sum())

    def modes(self, x: np.ndarray) -> list[np.ndarray]:
        if not self.k:
            return list(self.best(x)[:, None])
        (mean, deviation), box = self.scale[1], Real((self.d,), -4.0, 4.0)
        energy = energy_of(_mixture_energy(self.k), box)
        found = [modes(energy, jnp.asarray(o), barrier=0.2) for o in self._outputs(x)]
        return [mean + deviation * f.values[f.probabilities >= LEAST] for f in found]

    def best(self, x: np.ndarray) -> np.ndarray:
        """What the network says; of a mixture the mean of the Gaussian that is highest."""
        mean, deviation = self.scale[1]
        outputs = self._outputs(x)
        if self.k:
            logits, means, deviations = (
                np.asarray(a) for a in jax.vmap(lambda o: _parts(o, self.k))(outputs)
            )
            highest = np.argmax(logits - np.log(deviations).sum(axis=2), axis=1)
            outputs = means[np.arange(len(x)), highest]
        return mean + deviation * outputs


@eqx.filter_jit
def _applied(net: eqx.Module, x: Array) -> Array:
    return jax.vmap(net)(x)


def _parts(outputs: Array, k: int) -> tuple[Array, Array, Array]:
    """Log weights (k,), means and deviations (k, d)."""
    logits, means, scales = outputs[:k], *jnp.split(outputs[k:].reshape(k, -1), 2, axis=1)
    return jax.nn.log_softmax(logits), means, jax.nn.softplus(scales) + 1e-3


def _log_mixture(outputs: Array, y: Array, k: int) -> Array:
    logits, means, deviations = _parts(outputs, k)
    return jax.nn.logsumexp(logits + jnp.sum(jax.scipy.stats.norm.logpdf(y, means, deviations), axis=1))


_ENERGIES: dict[int, Callable[[Array, Array], Array]] = {}


def _mixture_energy(k: int) -> Callable[[Array, Array], Array]:
    # The same function each time, or it would be compiled anew.
    return _ENERGIES.setdefault(k, lambda y, outputs: -_log_mixture(outputs, y, k))


METHODS: dict[str, Callable[[Data, Budget, int], Method]] = {
    "implicit": Implicit,
    "mixture density network": lambda data, budget, seed: Explicit(data, budget, seed, gaussians=GAUSSIANS),
    "squared error": lambda data, budget, seed: Explicit(data, budget, seed, gaussians=0),
}


# --- what is measured ---------------------------------------------------------------------------------------------


def found_and_right(task: str, method: Method, x: np.ndarray) -> tuple[float, float]:
    """Recall and precision of the modes."""
    right, found = right_answers(task, x), method.modes(x)
    recalled, precise = [], []
    for a, b in zip(right, found, strict=True):
        near = np.abs(a[:, None] - b[None]).max(axis=2) < NEAR
        recalled += near.any(axis=1).tolist()
        precise += near.any(axis=0).tolist()
    return float(np.mean(recalled)), float(np.mean(precise))


def reaches(method: Method, x: np.ndarray) -> float:
    return float(np.mean(np.linalg.norm(hand(method.best(x)) - x, axis=1) < REACHED))


def compare(task: str, seeds: int) -> list[list[object]]:
    draw = {"branches": branches, "ring": ring, "arm": arm}[task]
    measured: dict[str, list[list[float]]] = {name: [] for name in METHODS}
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        data, test = draw(SMALL[0], rng), draw(1000, rng)
        for name, method in METHODS.items():
            began = time.perf_counter()
            fitted = method(data, SMALL, seed)
            spent = time.perf_counter() - began
            few = test.x[:100]
            success = reaches(fitted, test.x) if task == "arm" else np.nan
            measured[name].append([*found_and_right(task, fitted, few), fitted.log_p(test), success, spent])
            print(task, seed, name, measured[name][-1], file=sys.stderr, flush=True)
            if seed == 0 and task != "arm":
                PICTURES[task, name] = fitted, data
    return [[task, name, *summary(np.array(found))] for name, found in measured.items()]


PICTURES: dict[tuple[str, str], tuple[Method, Data]] = {}


def summary(found: np.ndarray) -> list[str]:
    """Mean ± standard error over the seeds."""
    error = found.std(axis=0, ddof=1) / len(found) ** 0.5 if len(found) > 1 else np.zeros(found.shape[1])
    pairs = zip(found.mean(axis=0), error, strict=True)
    return ["" if np.isnan(mean) else f"{mean:.3g} ± {e:.2g}" for mean, e in pairs]


def picture() -> None:
    """The density that each method has learnt, and the answers that it finds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    tasks = sorted({task for task, _ in PICTURES})
    figure, axes = plt.subplots(len(tasks), len(METHODS), figsize=(10, 3.2 * len(tasks)), squeeze=False)
    for (task, name), (fitted, data) in PICTURES.items():
        at = axes[tasks.index(task), list(METHODS).index(name)]
        x = np.linspace(data.x.min(), data.x.max(), 60)[:, None]
        at.scatter(data.x, data.y, s=1, color="0.75")
        for place, found in zip(x[:, 0], fitted.modes(x), strict=True):
            at.scatter(np.full(len(found), place), found[:, 0], s=8, color="tab:red")
        at.set(title=f"{task}: {name}", xlabel="x", ylabel="y")
    figure.tight_layout()
    figure.savefig(RESULTS / "many_answers.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--tasks", default="branches,ring,arm")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    lines = [line for task in given.tasks.split(",") for line in compare(task, given.seeds)]
    columns = ["task", "method", "recall", "precision", "log p, nats", "success", "fit, s"]
    title = f"{SMALL[0]} rows, width {SMALL[1]}, {SMALL[3]} steps of {SMALL[4]} rows; {given.seeds} seeds"
    if PICTURES and given.write:
        picture()
    parts = [table(title, columns, lines)]
    report("many_answers", "python benchmarks/many_answers.py", parts, "optax", write=given.write)


if __name__ == "__main__":
    main()
