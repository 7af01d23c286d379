"""Partners found among pictures that training never saw, by `two-tower`; and the graph of neighbours.

Emoji: 3,786 signs drawn by two hands (`emoji_pairs_32.npz`, Google's and Twitter's), averaged to 16×16 pixels in
colour; a fifth of the signs, drawn by the seed, is the test. For each drawing of the test by one hand, the one by the
other is looked for among all of the test. Beside it stand the distance of raw pixels, as they are and at zero mean
and length 1, and canonical correlations of the training pairs (50 components of each hand).

Coarse and sharp: MNIST, 4×4 means of a digit (each of 7×7 pixels) beside the digit itself; 5,000 pairs train, 2,000
are the test. Here raw pixels can do it: the mean of the sharp one is the coarse one. That is the reference, not a
peer.

The index: embeddings of length 1 in 64 dimensions, clustered as those of classes are; recall@10 of the graph against
all products, and the seconds of both for 1,000 rows.

    python benchmarks/retrieval.py [--write] [--seeds 3]
"""

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
from sklearn.cross_decomposition import CCA
from sklearn.decomposition import PCA

import tables
import thalweg
from machine import RESULTS, report, table
from thalweg.evaluate.retrieval import recall_at
from thalweg.questions.retrieve import Index, _graph

SETTINGS = {"first": "left", "network": "conv", "channels": 8, "layers": 1, "size": 64, "batch": 128}
SIZES = (1_000, 10_000, 100_000)

Pictures = np.ndarray
#: From training pairs to the order of candidates for each picture of the first kind, and for each of the second.
Method = Callable[[Pictures, Pictures, Pictures, Pictures, int], tuple[np.ndarray, np.ndarray]]


def emoji() -> tuple[Pictures, Pictures]:
    with np.load(tables.folder() / "emoji_pairs_32.npz", allow_pickle=False) as content:
        both = [content[name].astype(np.float32) for name in ("google", "twitter")]
    google, twitter = (x.reshape(len(x), 16, 2, 16, 2, 3).mean(axis=(2, 4)) for x in both)
    return google, twitter


def coarse_and_sharp(n: int) -> tuple[Pictures, Pictures]:
    with np.load(tables.folder() / "mnist.npz", allow_pickle=False) as content:
        sharp = content["x_train"][:n].astype(np.float32)
    coarse = sharp.reshape(n, 4, 7, 4, 7).mean(axis=(2, 4))
    return coarse.repeat(7, axis=1).repeat(7, axis=2)[..., None], sharp[..., None]


def split(n: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    order = np.random.default_rng(seed).permutation(n)
    cut = int(share * n)
    return order[cut:], order[:cut]


def two_tower(steps: int) -> Method:
    def found(a, b, test_a, test_b, seed):
        model = thalweg.fit(
            np.concatenate([a, b], axis=2),
            "two-tower",
            steps=steps,
            seed=seed,
            calibrate=False,
            progress=False,
            **SETTINGS,
        )
        z = model.encode(np.concatenate([test_a, test_b], axis=2)).z
        return orders(*np.split(z, 2, axis=1))

    return found


def pixels(whitened: bool) -> Method:
    def found(a, b, test_a, test_b, seed):
        u, v = (x.reshape(len(x), -1) for x in (test_a, test_b))
        if whitened:
            u, v = (x - x.mean(axis=1, keepdims=True) for x in (u, v))
            u, v = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9) for x in (u, v))
        return orders(u, v)

    return found


def correlations(a, b, test_a, test_b, seed):
    first, second = (PCA(100, random_state=seed).fit(x.reshape(len(x), -1)) for x in (a, b))
    u, v = (p.transform(x.reshape(len(x), -1)) for p, x in ((first, a), (second, b)))
    cca = CCA(50, max_iter=2000).fit(u, v)
    u, v = cca.transform(
        *(p.transform(x.reshape(len(x), -1)) for p, x in ((first, test_a), (second, test_b)))
    )
    return orders(*(x / np.linalg.norm(x, axis=1, keepdims=True) for x in (u, v)))


def orders(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The candidates of each row by distance, either way."""
    squares = np.sum(u**2, axis=1)[:, None] - 2 * u @ v.T + np.sum(v**2, axis=1)[None]
    return np.argsort(squares, axis=1)[:, :10], np.argsort(squares.T, axis=1)[:, :10]


def index(rows: int, seed: int = 0) -> list[object]:
    """Recall@10 of the graph, and seconds to build it and to search either way."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(rows // 20, 64))
    u = (
        centers[rng.integers(0, len(centers), rows + 1000)] + 0.5 * rng.normal(size=(rows + 1000, 64))
    ).astype(np.float32)
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    seconds = [time.perf_counter()]
    graph = Index(u[:rows], 0, 1.0, _graph(u[:rows]))
    seconds.append(time.perf_counter())
    approximate, _ = graph.nearest(u[rows:], 10)
    seconds.append(time.perf_counter())
    exact, _ = Index(u[:rows], 0, 1.0).nearest(u[rows:], 10)
    seconds.append(time.perf_counter())
    recall = float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact, approximate, strict=True)]))
    return [
        f"{rows:,}",
        recall,
        *(f"{after - before:.3f}" for before, after in pairwise(seconds)),
    ]


def picture(test_a: Pictures, test_b: Pictures, order: np.ndarray) -> None:
    """Twelve drawings of the test, their partners, and the five nearest; a frame where it is another sign."""
    shown = np.linspace(0, len(test_a) - 1, 12).astype(int)
    figure, axes = plt.subplots(len(shown), 7, figsize=(6, 9.6))
    for line, sign in zip(axes, shown, strict=True):
        pictures = [test_a[sign], test_b[sign], *test_b[order[sign, :5]]]
        for i, (axis, drawn) in enumerate(zip(line, pictures, strict=True)):
            axis.imshow(np.clip(drawn / 255, 0, 1))
            axis.set(xticks=[], yticks=[])
            right = i < 2 or order[sign, i - 2] == sign
            axis.spines[:].set(
                color="seagreen" if i >= 2 and right else "lightgrey", linewidth=3 if i >= 2 and right else 1
            )
    for axis, title in zip(axes[0], ("Google", "Twitter", "nearest", "2", "3", "4", "5"), strict=True):
        axis.set_title(title, fontsize=8)
    figure.subplots_adjust(0.01, 0.01, 0.99, 0.97, 0.05, 0.05)
    figure.savefig(RESULTS / "retrieval.png", dpi=100)


def compared(
    pairs: tuple[Pictures, Pictures], share: float, methods: dict[str, Method], seeds: int, write: bool
) -> list:
    """A line a method: recall@1 and @10 either way, and seconds."""
    runs: dict[str, list[list[float]]] = {name: [] for name in methods}
    for seed in range(seeds):
        train, test = split(len(pairs[0]), share, seed)
        parts = [x[rows] for rows in (train, test) for x in pairs]
        for name, method in methods.items():
            started = time.perf_counter()
            there, back = method(*parts, seed)
            right = np.arange(len(test))
            values = [recall_at(order, right, k) for order in (there, back) for k in (1, 10)]
            runs[name].append([*values, time.perf_counter() - started])
            print(seed, name, *(f"{value:.3f}" for value in runs[name][-1]), file=sys.stderr, flush=True)
            if write and seed == 0 and name == "two-tower":
                picture(parts[2], parts[3], there)
    lines = []
    for name, found in runs.items():
        values = np.array(found)
        error = values.std(axis=0, ddof=1) / np.sqrt(seeds) if seeds > 1 else None
        cells = [
            f"{mean:.3f}" + ("" if error is None else f" ± {error[i]:.3f}")
            for i, mean in enumerate(values.mean(axis=0)[:4])
        ]
        lines.append([name, *cells, float(values[:, 4].mean())])
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    header = ["method", "recall@1, there", "@10", "recall@1, back", "@10", "seconds"]
    drawn = emoji()
    methods = {
        "two-tower": two_tower(800),
        "canonical correlations": correlations,
        "pixels": pixels(False),
        "pixels, zero mean and length 1": pixels(True),
    }
    of_emoji = compared(drawn, 0.2, methods, given.seeds, given.write)
    methods = {
        "two-tower": two_tower(400),
        "canonical correlations": correlations,
        "pixels (the reference)": pixels(False),
    }
    of_digits = compared(coarse_and_sharp(7000), 2 / 7, methods, 1, False)
    parts = [
        table(
            f"Emoji: {len(drawn[0]) // 5} signs never seen, from Google's hand to Twitter's and back",
            header,
            of_emoji,
        ),
        "![twelve drawings of the test in Google's hand, the same in Twitter's, and the five nearest of Twitter's; the "
        "right one framed in green](retrieval.png)",
        "",
        table("Coarse to sharp and back: 2,000 digits never seen, one seed", header, of_digits),
        table(
            "The graph of neighbours against all products, 1,000 rows",
            ["candidates", "recall@10", "seconds to build", "to search the graph", "to search exactly"],
            [index(rows) for rows in SIZES],
        ),
    ]
    report("retrieval", "python benchmarks/retrieval.py", parts, "faiss-cpu", write=given.write)


if __name__ == "__main__":
    main()
