"""Anomalies with each of the ten digits left out in turn, and completion of hidden pixels, on scikit-learn's digits.

`python benchmarks/digits_questions.py [--write] [--quick]`
"""

import sys
import time
import warnings

import numpy as np
import pyarrow as pa
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KernelDensity, NearestNeighbors

import thalweg
from machine import report, table
from thalweg.data import load
from thalweg.evaluate.detection import auroc

HIDDEN = {"lower half": 0.5, "10 % at random": 0.1, "30 % at random": 0.3, "50 % at random": 0.5}


def digits() -> tuple[pa.Table, np.ndarray, np.ndarray]:
    table = load("digits").table
    labels = np.array([str(value) for value in table["label"].to_pylist()])
    pixels = table.drop_columns(["label"])
    return pixels, matrix(pixels), labels


def matrix(table: pa.Table) -> np.ndarray:
    return np.stack([column.to_numpy() for column in table.columns], axis=1).astype(np.float64)


def anomalies(classes: list[str]) -> list[list[object]]:
    """One line a digit left out: AUROC of ours and of two peers on the held-out quarter."""
    pixels, x, labels = digits()
    train, test = train_test_split(np.arange(len(x)), test_size=0.25, stratify=labels, random_state=0)
    lines: list[list[object]] = []
    for left_out in classes:
        known = train[labels[train] != left_out]
        odd = labels[test] == left_out
        ours = {}
        for recipe in ("orderless", "gmm", "pca", "kmeans"):
            model = thalweg.fit(pixels.take(known), recipe, progress=False, seed=0)
            scores = model.score(pixels.take(test))
            ours[recipe] = auroc(scores.surprise, odd)
            if recipe == "orderless":
                ours["its energy alone"] = auroc(scores.energy, odd)
        a, b = x[known] / 16, x[test] / 16
        distance = NearestNeighbors(n_neighbors=5).fit(a).kneighbors(b)[0].mean(axis=1)
        density = -KernelDensity(bandwidth=0.3).fit(a).score_samples(b)
        mixture = -GaussianMixture(10, reg_covar=1e-3, random_state=0).fit(a).score_samples(b)
        peers = (auroc(values, odd) for values in (mixture, distance, density))
        lines.append([left_out, *ours.values(), *peers])
        print(lines[-1], file=sys.stderr, flush=True)
    means = [float(np.mean([line[i] for line in lines])) for i in range(1, len(lines[0]))]
    return [*lines, ["mean", *means]]


def completion() -> list[list[object]]:
    """RMSE in grey levels over the hidden pixels of the held-out quarter."""
    pixels, x, labels = digits()
    train, test = train_test_split(np.arange(len(x)), test_size=0.25, stratify=labels, random_state=0)
    generator = np.random.default_rng(0)
    models = {
        name: thalweg.fit(pixels.take(train), name, progress=False) for name in ("orderless", "gmm", "pca")
    }
    peers = {
        "mean": SimpleImputer(keep_empty_features=True),
        "KNNImputer": KNNImputer(keep_empty_features=True),
        "IterativeImputer": IterativeImputer(random_state=0, keep_empty_features=True),
    }
    fitted = {name: peer.fit(x[train]) for name, peer in peers.items()}
    lines = []
    for name, share in HIDDEN.items():
        half = np.broadcast_to(np.arange(64) >= 32, (len(test), 64))
        hidden = half if name == "lower half" else generator.random((len(test), 64)) < share
        holed = np.where(hidden, np.nan, x[test])
        frame = pa.table(
            {c: pa.array(holed[:, i], from_pandas=True) for i, c in enumerate(pixels.column_names)}
        )
        guesses = {f"thalweg {k}": matrix(model.complete(frame)) for k, model in models.items()}
        guesses |= {k: peer.transform(holed) for k, peer in fitted.items()}
        lines.append([name, *(float(np.sqrt(((g - x[test])[hidden] ** 2).mean())) for g in guesses.values())])
    return [["hidden", *guesses], *lines]


def main() -> None:
    warnings.simplefilter("ignore")
    classes = ["9"] if "--quick" in sys.argv else [str(i) for i in range(10)]
    began = time.perf_counter()
    found = anomalies(classes)
    header = [
        "left out",
        "orderless",
        "its energy alone",
        "gmm",
        "pca",
        "kmeans",
        "scikit-learn GMM, 10",
        "5 nearest neighbours",
        "kernel density",
    ]
    filled = completion()
    parts = [
        table("AUROC of a digit that training never saw (higher is better)", header, found),
        table("RMSE of hidden pixels in grey levels 0–16 (lower is better)", filled[0], filled[1:]),
        f"{time.perf_counter() - began:.0f} s in all.\n",
    ]
    report("digits_questions", "python benchmarks/digits_questions.py", parts, write="--write" in sys.argv)


if __name__ == "__main__":
    main()
