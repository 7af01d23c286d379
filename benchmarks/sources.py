"""Sources that were mixed: a square product of experts (independent component analysis) beside FastICA.

Independent Laplace or Student-t sources, 3,000 rows, times a random matrix with normal entries; Amari error of the
filters (0: a scaled permutation of the true ones, 1 at worst), median and largest of `--problems` matrices. Neither
side is told the kind of the sources. Mixtures 0 to 11 with Student-t sources chose how `products` trains; all others,
and the Laplace sources, were only looked at.

    python benchmarks/sources.py [--write] [--problems 6]
"""

import argparse
import time
import warnings

import numpy as np
from sklearn.decomposition import FastICA

import thalweg
from machine import report, table

ROWS, FIRST = 3_000, 100


def amari(filters: np.ndarray, mixing: np.ndarray) -> float:
    """How far filters · mixing is from a scaled permutation."""
    p = np.abs(filters @ mixing)
    rows, columns = p / p.max(axis=1, keepdims=True), p / p.max(axis=0, keepdims=True)
    d = len(p)
    return float((rows.sum() + columns.sum() - 2 * d) / (2 * d * (d - 1)))


def of_products(x: np.ndarray) -> np.ndarray:
    model = thalweg.fit(x, "products", experts=1.0, progress=False, calibrate=False)
    return np.asarray(model.F.filters) / [column.std for column in model.schema.columns]


def of_peer(x: np.ndarray) -> np.ndarray:
    return FastICA(whiten="unit-variance", random_state=0, max_iter=1000).fit(x).components_


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--problems", type=int, default=6)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    lines = []
    for name, draw in {
        "Laplace": lambda rng, shape: rng.laplace(size=shape),
        "Student-t, 5 degrees": lambda rng, shape: rng.standard_t(5, size=shape),
        "Student-t, 3 degrees": lambda rng, shape: rng.standard_t(3, size=shape),
    }.items():
        for d in (2, 4, 8):
            line: list[object] = [name, d]
            for way in (of_products, of_peer):
                found, began = [], time.perf_counter()
                for seed in range(FIRST, FIRST + given.problems):
                    rng = np.random.default_rng(seed)
                    mixing = rng.normal(size=(d, d))
                    found.append(amari(way(draw(rng, (ROWS, d)) @ mixing.T), mixing))
                seconds = (time.perf_counter() - began) / given.problems
                line += [float(np.median(found)), max(found), seconds]
            print(line, flush=True)
            lines.append(line)
    head = ["sources", "dimensions", "products: median", "largest", "s", "FastICA: median", "largest", "s"]
    parts = [table(f"Amari error, {given.problems} mixtures", head, lines)]
    report("sources", "python benchmarks/sources.py", parts, write=given.write)


if __name__ == "__main__":
    main()
