"""Missing cells filled in: every recipe beside the mean, KNNImputer and IterativeImputer, on nine tables.

Rows are split 70/30. Of both parts 10, 30 or 50 % of the cells are hidden at random; every method is fitted on the
training rows with their holes and fills the test rows. Tables are drawn down to 5,000 rows for every method alike. The
error is the root mean square over the hidden test cells, each column in units of its own deviation in training.

    python benchmarks/imputation.py [--write] [--recipes gmm] [--tables wine,casp] [--shares 0.3]
"""

import argparse
import sys
import time
import warnings
from collections.abc import Callable

import numpy as np
from scipy.stats import rankdata
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer
from sklearn.model_selection import train_test_split

import tables
import thalweg
from machine import report, table
from thalweg.models import RECIPES

NAMES = ("wine", "breast cancer", "diabetes", "digits", "casp", "smtp", "celeba", "cover", "http")
MOST = 5_000
Filler = Callable[[np.ndarray, np.ndarray], np.ndarray]


def ours(recipe: str) -> Filler:
    def fill(train: np.ndarray, test: np.ndarray) -> np.ndarray:
        model = thalweg.fit(tables.frame(train), recipe, seed=0, progress=False)
        answer = model.complete(tables.frame(test))
        return np.stack([column.to_numpy().astype(float) for column in answer.columns], axis=1)

    return fill


def theirs(imputer: object) -> Filler:
    return lambda train, test: imputer.fit(train).transform(test)  # type: ignore[attr-defined]


PEERS: dict[str, Filler] = {
    "mean": theirs(SimpleImputer()),
    "KNNImputer": theirs(KNNImputer()),
    "IterativeImputer": theirs(IterativeImputer(random_state=0)),
}


def problem(name: str, share: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training rows with holes, test rows with holes, the whole test rows, and the columns' deviations."""
    x = tables.numbers(name)
    generator = np.random.default_rng(0)
    x = x[generator.permutation(len(x))[:MOST]]
    train, test = train_test_split(x, test_size=0.3, random_state=0)
    varies = train.std(axis=0) > 0
    train, test = train[:, varies], test[:, varies]
    holes = [np.where(generator.random(part.shape) < share, np.nan, part) for part in (train, test)]
    # Both imputers drop a column of which nothing is left.
    kept = ~np.isnan(holes[0]).all(axis=0)
    return holes[0][:, kept], holes[1][:, kept], test[:, kept], train.std(axis=0)[kept]


def compare(name: str, share: float, fillers: dict[str, Filler]) -> tuple[list[float], list[float]]:
    train, holes, whole, deviation = problem(name, share)
    hidden = np.isnan(holes)
    errors, seconds = [], []
    for filler in fillers.values():
        started = time.perf_counter()
        filled = filler(train, holes)
        seconds.append(time.perf_counter() - started)
        errors.append(float(np.sqrt(np.mean((((filled - whole) / deviation)[hidden]) ** 2))))
    return errors, seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--recipes", default="orderless,gmm,pca,kmeans")
    parser.add_argument("--tables", default=",".join(NAMES))
    parser.add_argument("--shares", default="0.1,0.3,0.5")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    fillers = {recipe: ours(recipe) for recipe in given.recipes.split(",") if recipe in RECIPES} | PEERS
    lines, ranks, times = [], [], []
    for name in given.tables.split(","):
        for share in map(float, given.shares.split(",")):
            errors, seconds = compare(name, share, fillers)
            lines.append([f"{name}, {share:.0%}", *errors])
            ranks.append(rankdata(np.round(errors, 4)))
            times.append(seconds)
            print(lines[-1], file=sys.stderr, flush=True)
    lines.append(["**mean rank**", *map(float, np.mean(ranks, axis=0))])
    lines.append(["mean seconds, fit and fill", *map(float, np.mean(times, axis=0))])
    parts = [table("Normalised root mean square error", ["table and share hidden", *fillers], lines)]
    report("imputation", "python benchmarks/imputation.py", parts, write=given.write)


if __name__ == "__main__":
    main()
