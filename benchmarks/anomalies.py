"""Anomalies in the 22 tables of ADBench: every recipe beside scikit-learn's and PyOD's detectors.

Rows are split 70/30, stratified, and training sees the anomalies without their labels; tables of more than 10,000 rows
are drawn down to so many, for every method alike. Mean AUROC on the 30 % over three seeds.

    python benchmarks/anomalies.py [--write] [--recipes gmm,pca] [--tables glass,WBC] [--seeds 1] [--keep FILE]

With `--keep` what a table gave is added to a file, and what is there already is not measured again: a run that was
ended goes on, and several, each with some of the tables, work side by side.
"""

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pyod.models.copod import COPOD
from pyod.models.ecod import ECOD
from sklearn.ensemble import IsolationForest
from sklearn.model_selection import train_test_split
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors
from sklearn.preprocessing import MinMaxScaler
from sklearn.svm import OneClassSVM

import tables
import thalweg
from machine import report, table
from thalweg.evaluate.detection import auroc
from thalweg.models import RECIPES

Scorer = Callable[[np.ndarray, np.ndarray, int], np.ndarray]


def ours(recipe: str) -> Scorer:
    def score(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
        model = thalweg.fit(tables.frame(train), recipe, seed=seed, progress=False)
        return model.score(tables.frame(test)).surprise

    return score


def neighbours(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    return NearestNeighbors(n_neighbors=5).fit(train).kneighbors(test)[0][:, -1]


def scikit(make: Callable[[int], object]) -> Scorer:
    return lambda train, test, seed: -make(seed).fit(train).score_samples(test)  # type: ignore[attr-defined]


def pyod(make: Callable[[], object]) -> Scorer:
    return lambda train, test, seed: make().fit(train).decision_function(test)  # type: ignore[attr-defined]


PEERS: dict[str, Scorer] = {
    "IsolationForest": scikit(lambda seed: IsolationForest(random_state=seed)),
    "LOF": scikit(lambda seed: LocalOutlierFactor(n_neighbors=20, novelty=True)),
    "OneClassSVM": scikit(lambda seed: OneClassSVM()),
    "5-NN": neighbours,
    "ECOD": pyod(ECOD),
    "COPOD": pyod(COPOD),
}


def compare(name: str, scorers: dict[str, Scorer], seeds: int) -> tuple[dict[str, float], dict[str, float]]:
    """Mean AUROC and mean seconds of each method on one table."""
    values: dict[str, list[float]] = {method: [] for method in scorers}
    seconds: dict[str, list[float]] = {method: [] for method in scorers}
    for seed in range(seeds):
        x, odd = tables.anomalies(name, seed)
        train, test, _, truth = train_test_split(x, odd, test_size=0.3, stratify=odd, random_state=seed)
        scaler = MinMaxScaler().fit(train)
        for method, scorer in scorers.items():
            own = method in RECIPES
            a, b = (train, test) if own else (scaler.transform(train), scaler.transform(test))
            started = time.perf_counter()
            values[method].append(auroc(scorer(a, b, seed), truth))
            seconds[method].append(time.perf_counter() - started)
    return (
        {method: float(np.mean(found)) for method, found in values.items()},
        {method: float(np.mean(spent)) for method, spent in seconds.items()},
    )


def kept(
    file: Path | None, name: str, scorers: dict[str, Scorer], seeds: int
) -> tuple[dict[str, float], dict[str, float]]:
    """`compare`, unless the file has it from the same methods and seeds."""
    asked = [name, list(scorers), seeds]
    if file is not None and file.exists():
        for line in map(json.loads, file.read_text().splitlines()):
            if line["asked"] == asked:
                return line["values"], line["seconds"]
    values, seconds = compare(name, scorers, seeds)
    if file is not None:
        with file.open("a") as out:
            out.write(json.dumps({"asked": asked, "values": values, "seconds": seconds}) + "\n")
    return values, seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--recipes", default=",".join(RECIPES))
    parser.add_argument("--tables", default="")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    scorers = {recipe: ours(recipe) for recipe in given.recipes.split(",")} | PEERS
    names = given.tables.split(",") if given.tables else tables.anomaly_names()
    lines, times = [], []
    for name in names:
        values, seconds = kept(given.keep, name, scorers, given.seeds)
        lines.append([name, *values.values()])
        times.append(list(seconds.values()))
        print(
            " ".join(f"{v:.3f}" if isinstance(v, float) else v for v in lines[-1]),
            file=sys.stderr,
            flush=True,
        )
    means = np.mean([line[1:] for line in lines], axis=0)
    spent = np.mean(times, axis=0)
    lines.append(["**mean**", *map(float, means)])
    lines.append(["mean seconds, fit and score", *map(float, spent)])
    parts = [
        table("AUROC, mean of the seeds", ["table", *scorers], lines),
        f"Best of ours {means[: len(scorers) - len(PEERS)].max():.4f}, "
        f"best of the peers {means[-len(PEERS) :].max():.4f}.",
    ]
    report("anomalies", "python benchmarks/anomalies.py", parts, "pyod", write=given.write)


if __name__ == "__main__":
    main()
