"""Rows scored a second by each recipe from Parquet on the command line; `scaling.py` has rows and columns.

The table is made: correlated, skewed and two-humped columns, and a column of counts. A model is fitted on 20,000 rows;
then `thalweg score` reads Parquet and writes Parquet in a process of its own, whose memory is its own largest. Peers
score the same rows from memory. Compiling is tracing, lowering and XLA's own.

    python benchmarks/throughput.py [--write] [--rows 5000000] [--recipes gmm,pca]
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import jax
import numpy as np
import pyarrow.parquet as pq
from sklearn.ensemble import IsolationForest
from sklearn.mixture import GaussianMixture

import tables
import thalweg
from machine import report, table
from thalweg.models import RECIPES

COLUMNS = 16
PIECE = 500_000
#: Rows that the scoring models are fitted on.
FITTED = 20_000
#: What JAX calls the events of compiling.
COMPILING = ("jaxpr_trace_duration", "jaxpr_to_mlir_module_duration", "backend_compile_duration")


def rows(n: int, columns: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    mix = np.random.default_rng(columns).normal(size=(columns, columns)) / columns**0.5
    x = generator.normal(size=(n, columns)) @ mix
    x[:, ::3] = np.exp(x[:, ::3])
    x[:, 1::3] += 3 * np.sign(x[:, 1::3])
    x[:, -1] = generator.poisson(np.exp(np.clip(x[:, 0], None, 3) / 3))
    return x


def write(path: Path, n: int) -> None:
    writer = None
    for start in range(0, n, PIECE):
        piece = tables.frame(rows(min(PIECE, n - start), COLUMNS, 1 + start))
        writer = writer or pq.ParquetWriter(path, piece.schema)
        writer.write_table(piece)
    assert writer is not None
    writer.close()


def alone(*words: object) -> tuple[float, float]:
    """Seconds and MB of a command of `thalweg` in a process of its own."""
    command = [sys.executable, "-m", "thalweg", *map(str, words), "--quiet", "--force"]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    # Not ru_maxrss, which a child has from its parent; here the peak grows until the process ends.
    peak = 0
    while process.poll() is None:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
        peak = max(peak, int(found[1]) if found else 0)
        time.sleep(0.05)
    assert process.returncode == 0, command
    return time.perf_counter() - started, peak / 1024


def fitted(data: Path, recipe: str) -> float:
    """Seconds of a fit in this process."""
    started = time.perf_counter()
    thalweg.fit(str(data), recipe, seed=0, progress=False)
    return time.perf_counter() - started


def fits(recipes: list[str], folder: Path) -> list[list[object]]:
    """A fit by each recipe, which leaves its model in `folder`: in this process twice, then in one of its own."""
    spent: list[float] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: spent.append(seconds) if event.endswith(COMPILING) else None
    )
    lines: list[list[object]] = []
    data = folder / "train.parquet"
    write(data, FITTED)
    for recipe in recipes:
        spent.clear()
        first = fitted(data, recipe)
        compiled = sum(spent)
        again = fitted(data, recipe)
        _, memory = alone("fit", data, "--recipe", recipe, "--out", folder / recipe)
        lines.append([recipe, first, compiled, again, f"{memory:,.0f}"])
        print(lines[-1], file=sys.stderr, flush=True)
    return lines


def from_parquet(recipes: list[str], folder: Path, most: int) -> list[list[object]]:
    lines: list[list[object]] = []
    for n in (most // 5, most):
        data = folder / f"{n}.parquet"
        write(data, n)
        for recipe in recipes:
            words = ("score", folder / recipe, data, "--out", folder / "scores.parquet")
            alone(*words)  # compiles, and keeps it
            seconds, memory = alone(*words)
            lines.append([recipe, f"{n:,}", seconds, f"{n / seconds:,.0f}", f"{memory:,.0f}"])
            print(lines[-1], file=sys.stderr, flush=True)
        data.unlink()
    return lines


def peers(n: int = 200_000) -> list[list[object]]:
    train, test = rows(FITTED, COLUMNS, 0), rows(n, COLUMNS, 1)
    lines: list[list[object]] = []
    for peer in (GaussianMixture(10, random_state=0), IsolationForest(random_state=0)):
        started = time.perf_counter()
        peer.fit(train)
        fitted = time.perf_counter() - started
        started = time.perf_counter()
        peer.score_samples(test)
        lines.append([type(peer).__name__, fitted, f"{n / (time.perf_counter() - started):,.0f}"])
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--recipes", default=",".join(RECIPES))
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    recipes = given.recipes.split(",")
    with tempfile.TemporaryDirectory() as name:
        learned, answered = fits(recipes, Path(name)), from_parquet(recipes, Path(name), given.rows)
    parts = [
        table(
            f"`fit` of {FITTED:,} rows, 16 columns; MB of a process of its own",
            ["recipe", "first s", "of which compiling s", "again s", "MB"],
            learned,
        ),
        table(
            "`thalweg score` from Parquet to Parquet, 16 columns, a process each, start included",
            ["recipe", "rows", "s", "rows/s", "MB"],
            answered,
        ),
        table("Peers from memory, 16 columns", ["peer", "fit s (20,000 rows)", "rows/s"], peers()),
    ]
    report("throughput", "python benchmarks/throughput.py", parts, "pyarrow", write=given.write)


if __name__ == "__main__":
    main()
