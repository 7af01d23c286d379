"""Rows drawn from a model: can a classifier tell them from real ones, and does it learn from them what real ones teach?

Half of a labelled table (at most 5,000 rows of it) is drawn anew, as many rows as it has; the other half judges.
*told apart*: AUROC of gradient boosting, five-fold, on drawn rows and as many real ones of the other half: 0.5 is
perfect. *teaches*: accuracy on the other half of gradient boosting trained on the drawn rows. The bootstrap draws real
rows again.

    python benchmarks/synthetic.py [--write] [--tables wine]
"""

import argparse
import sys
import time
import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd
import pyarrow as pa
from copulas.multivariate import GaussianMultivariate
from sklearn import datasets
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import cross_val_predict, train_test_split

import tables
import thalweg
from machine import report, table
from thalweg.evaluate.detection import auroc

NAMES = ("wine", "breast cancer", "satellite", "magic.gamma")
MOST = 10_000
#: Numbers and labels in, as many of both out.
Generator = Callable[[np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray]]


def labelled(name: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    loaders = {"wine": datasets.load_wine, "breast cancer": datasets.load_breast_cancer}
    x, y = loaders[name](return_X_y=True) if name in loaders else tables.anomalies(name, seed, MOST)
    return np.asarray(x, np.float64), np.asarray(y).astype(int)


def bootstrap(x: np.ndarray, y: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    drawn = np.random.default_rng(seed).integers(len(x), size=len(x))
    return x[drawn], y[drawn]


def ours(recipe: str) -> Generator:
    def draw(x: np.ndarray, y: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        rows = tables.frame(x).append_column("label", pa.array([f"class {label}" for label in y]))
        drawn = thalweg.fit(rows, recipe, seed=seed, progress=False).sample(len(x), seed=seed)
        labels = [int(label.split()[1]) for label in drawn.column("label").to_pylist()]
        return np.stack([drawn.column(f"x{i}").to_numpy() for i in range(x.shape[1])], axis=1), np.array(
            labels
        )

    return draw


def mixtures(x: np.ndarray, y: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """One mixture a class, its number of components by the Bayesian information criterion."""
    drawn = []
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    for label in np.unique(y):
        own = (x[y == label] - mean) / deviation
        fitted = [
            GaussianMixture(k, reg_covar=1e-3, random_state=seed).fit(own)
            for k in (1, 2, 5, 10)
            if k < len(own)
        ]
        best = min(fitted, key=lambda model: model.bic(own))
        drawn.append(best.sample(len(own))[0] * deviation + mean)
    return np.concatenate(drawn), np.sort(y)


def copula(x: np.ndarray, y: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The Gaussian copula of SDV, one a class."""
    drawn = []
    for label in np.unique(y):
        own = pd.DataFrame(x[y == label], columns=[f"x{i}" for i in range(x.shape[1])])
        model = GaussianMultivariate(random_state=seed)
        model.fit(own)
        drawn.append(model.sample(len(own)).to_numpy())
    return np.concatenate(drawn), np.sort(y)


GENERATORS: dict[str, Generator] = {
    "bootstrap": bootstrap,
    "orderless": ours("orderless"),
    "gmm": ours("gmm"),
    "scikit-learn GMM a class": mixtures,
    "Gaussian copula a class": copula,
}


def told_apart(real: np.ndarray, drawn: np.ndarray, seed: int) -> float:
    n = min(len(real), len(drawn))
    rows = np.concatenate([real[:n], drawn[np.random.default_rng(seed).permutation(len(drawn))[:n]]])
    is_drawn = np.arange(2 * n) >= n
    judge = HistGradientBoostingClassifier(random_state=seed)
    return auroc(cross_val_predict(judge, rows, is_drawn, cv=5, method="predict_proba")[:, 1], is_drawn)


def compare(name: str, seeds: int) -> list[list[object]]:
    found: dict[str, list[list[float]]] = {method: [] for method in GENERATORS}
    real: list[float] = []
    for seed in range(seeds):
        x, y = labelled(name, seed)
        a, b, ya, yb = train_test_split(x, y, test_size=0.5, stratify=y, random_state=seed)
        real.append(HistGradientBoostingClassifier(random_state=seed).fit(a, ya).score(b, yb))
        for method, generator in GENERATORS.items():
            started = time.perf_counter()
            drawn, labels = generator(a, ya, seed)
            spent = time.perf_counter() - started
            teaches = HistGradientBoostingClassifier(random_state=seed).fit(drawn, labels).score(b, yb)
            apart = told_apart(np.column_stack([b, yb]), np.column_stack([drawn, labels]), seed)
            found[method].append([apart, teaches, spent])
    lines: list[list[object]] = [
        [name, method, *map(float, np.mean(values, axis=0))] for method, values in found.items()
    ]
    return [*lines, [name, "the real rows", "", float(np.mean(real)), ""]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--tables", default=",".join(NAMES))
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    lines: list[list[object]] = []
    for name in given.tables.split(","):
        lines += compare(name, given.seeds)
        print(*lines[-len(GENERATORS) - 1 :], sep="\n", file=sys.stderr, flush=True)
    columns = ["table", "rows drawn by", "told apart, AUROC", "teaches, accuracy", "s, fit and draw"]
    report(
        "synthetic",
        "python benchmarks/synthetic.py",
        [table("Drawn rows, mean of the seeds", columns, lines)],
        "copulas",
        write=given.write,
    )


if __name__ == "__main__":
    main()
