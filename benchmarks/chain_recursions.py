"""Forward–backward and Viterbi along chains: matrix products with a check, against logarithms in PyTorch and hmmlearn.

256 chains of 100 places and 32 labels, one table of transitions: the log-sum-exp over all labellings, its gradient in
all scores (the marginals), and the best labelling. "torch" is the recursion that libraries of structured prediction
write, a log-sum-exp over pairs of labels at every place, with autograd's gradient. hmmlearn walks in C++ along one
chain after another. "far apart" are scores of hundreds of nats, where products do not serve and ours goes by
logarithms. All are held to the list of all labellings on chains of 6 places and 4 labels.

    python benchmarks/chain_recursions.py [--write] [--repeats 7]
"""

import argparse
import itertools
import time
import warnings
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import torch
from hmmlearn.base import BaseHMM
from scipy.special import logsumexp

from machine import report, table
from thalweg.energy.chain import Chain

BATCH, LENGTH, LABELS = 256, 100, 32
TASKS = ("log-sum-exp", "with gradient", "best labelling")


def scores(
    batch: int, length: int, labels: int, spread: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logarithms of probabilities of emissions, transitions and starts, so that a hidden Markov model can have them."""
    rng = np.random.default_rng(0)
    places = spread * rng.normal(size=(batch, length, labels))
    after, start = spread * rng.normal(size=(labels, labels)), rng.normal(size=labels)
    after -= logsumexp(after, axis=1, keepdims=True)
    return places, after, start - logsumexp(start)


def ours(places: np.ndarray, after: np.ndarray, start: np.ndarray) -> dict[str, Callable]:
    u = jnp.asarray(-places, jnp.float32)
    t = jnp.asarray(-np.concatenate([after, start[None]]), jnp.float32)
    length, labels = u.shape[1:]
    mask, starts, end = jnp.ones(length, bool), jnp.arange(length) == 0, jnp.zeros(labels)

    def over(function: Callable) -> Callable:
        def batched(u, t):
            return jax.vmap(lambda u: function(Chain(u, t, end, mask, starts, 1)))(u)

        return batched

    log_z = over(lambda chain: -chain.free_energy())
    gradient = jax.grad(lambda u, t: -jnp.sum(log_z(u, t)), argnums=(0, 1))
    functions = (log_z, gradient, over(lambda chain: chain.best()[0][0]))
    return {task: _ready(jax.jit(f), u, t) for task, f in zip(TASKS, functions, strict=True)}


def _ready(function: Callable, *arguments: jax.Array) -> Callable:
    return lambda: jax.block_until_ready(function(*arguments))


def in_torch(places: np.ndarray, after: np.ndarray, start: np.ndarray) -> dict[str, Callable]:
    u, t, s = (torch.tensor(a, dtype=torch.float32) for a in (places, after, start))

    def log_z(u, t):
        alpha = s + u[:, 0]
        for i in range(1, u.shape[1]):
            alpha = torch.logsumexp(alpha[:, :, None] + t, dim=1) + u[:, i]
        return torch.logsumexp(alpha, dim=1)

    def value():
        with torch.no_grad():
            return log_z(u, t)

    def gradient():
        a, b = u.clone().requires_grad_(), t.clone().requires_grad_()
        return torch.autograd.grad(log_z(a, b).sum(), (a, b))

    def best():
        with torch.no_grad():
            alpha, back = s + u[:, 0], []
            for i in range(1, u.shape[1]):
                alpha, chosen = torch.max(alpha[:, :, None] + t, dim=1)
                alpha = alpha + u[:, i]
                back.append(chosen)
            path = [alpha.argmax(dim=1)]
            for chosen in reversed(back):
                path.append(chosen.gather(1, path[-1][:, None])[:, 0])
            return torch.stack(path[::-1], dim=1)

    return dict(zip(TASKS, (value, gradient, best), strict=True))


class Given(BaseHMM):
    """A hidden Markov model whose "observations" are the logarithms of their own probabilities."""

    def _compute_log_likelihood(self, x):
        return x

    def _check(self):
        pass


def in_hmmlearn(places: np.ndarray, after: np.ndarray, start: np.ndarray) -> dict[str, Callable]:
    batch, length, labels = places.shape
    x, lengths = places.reshape(-1, labels), [length] * batch
    model = Given(n_components=labels)
    model.startprob_, model.transmat_, model.n_features = np.exp(start), np.exp(after), labels
    found = (
        lambda: model.score(x, lengths),
        lambda: model.predict_proba(x, lengths).reshape(places.shape),
        lambda: model.decode(x, lengths)[1].reshape(batch, length),
    )
    return dict(zip(TASKS, found, strict=True))


def milliseconds(function: Callable, repeats: int) -> float:
    """The least of some runs after one that compiles."""
    function()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return 1000 * min(times)


def compared(repeats: int) -> list[list[object]]:
    rows: list[list[object]] = []
    for name, spread in (("", 1.0), (", far apart", 300.0)):
        given = scores(BATCH, LENGTH, LABELS, spread)
        sides = [ours(*given), in_torch(*given), in_hmmlearn(*given)]
        for task in TASKS:
            took = [milliseconds(side[task], repeats) for side in sides]
            rows.append([task + name, *took, took[1] / took[0], took[2] / took[0]])
    return rows


def costs(repeats: int) -> list[list[object]]:
    rows: list[list[object]] = []
    sizes = [(n, LABELS) for n in (25, 50, 100, 200, 400)] + [(LENGTH, k) for k in (4, 8, 16, 64, 128)]
    for length, labels in sizes:
        functions = ours(*scores(BATCH, length, labels))
        rows.append([length, labels, *(milliseconds(functions[task], repeats) for task in TASKS)])
    return rows


def agreement() -> list[list[object]]:
    """The largest differences from the list of all labellings."""
    rows: list[list[object]] = []
    for spread in (1.0, 300.0):
        given = places, after, start = scores(8, 6, 4, spread)
        paths = np.array(list(itertools.product(range(4), repeat=6)))
        pairs = after[paths[:, :-1], paths[:, 1:]].sum(axis=1)
        each = start[paths[:, 0]] + pairs + places[:, np.arange(6), paths].sum(axis=2)
        log_z = logsumexp(each, axis=1)
        shares = np.exp(each - log_z[:, None])
        marginals = np.einsum("bp,ptv->btv", shares, np.eye(4)[paths])
        best = paths[each.argmax(axis=1)]
        for name, side in (("ours", ours), ("torch", in_torch), ("hmmlearn", in_hmmlearn)):
            found = side(*given)
            value, slopes = np.asarray(found[TASKS[0]]()), found[TASKS[1]]()
            slopes = np.asarray(slopes if name == "hmmlearn" else slopes[0])
            off = abs(value - log_z.sum()) if value.ndim == 0 else np.abs(value - log_z).max()
            right = np.mean(np.asarray(found[TASKS[2]]()) == best)
            rows.append([name, spread, float(off), float(np.abs(slopes - marginals).max()), float(right)])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="keep the results in benchmarks/results")
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args()
    warnings.filterwarnings("ignore", category=RuntimeWarning)
    sizes = f"{BATCH} chains of {LENGTH} places and {LABELS} labels"
    columns = ["", "ours, ms", "torch, ms", "hmmlearn, ms", "torch / ours", "hmmlearn / ours"]
    parts = [
        table(f"{sizes}; hmmlearn has marginals of places alone", columns, compared(given.repeats)),
        table(
            f"{BATCH} chains, ours", ["places", "labels", *(f"{t}, ms" for t in TASKS)], costs(given.repeats)
        ),
        table(
            "Against the list of all labellings, 8 chains of 6 places and 4 labels",
            ["", "spread of scores, nats", "log-sum-exp off by", "marginals off by", "labels right"],
            agreement(),
        ),
    ]
    report(
        "chain_recursions",
        "python benchmarks/chain_recursions.py",
        parts,
        "torch",
        "hmmlearn",
        write=given.write,
    )


if __name__ == "__main__":
    main()
