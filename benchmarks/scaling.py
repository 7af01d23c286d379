"""How fit and energy grow: with devices (1, 2 and 4 on the same processor), with rows and with columns.

Devices are forced on one host (`--xla_force_host_platform_device_count`), so they share its cores: what is seen is the
share lost to dividing and gathering, not a gain. Every measurement runs in a process of its own.

    python benchmarks/scaling.py [--write] [--most 10000000]
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import jax
import numpy as np
import pyarrow.parquet as pq

import tables
import thalweg
from machine import report, table
from thalweg.learning.parallel import mesh_of
from throughput import rows

STEPS = 300
FILES, FILE_ROWS = 8, 250_000


def measure(devices: int, recipe: str, n: int, columns: int) -> dict[str, float]:
    """Seconds of a fit and of the energies of its rows, second calls; in this process."""
    data = tables.frame(rows(n, columns, 0))
    settings = {"steps": STEPS, "orderings": 1, "batch": 256} if recipe == "orderless" else {}
    mesh = mesh_of(devices) if devices > 1 else None
    fits = []
    for _ in range(2):
        started = time.perf_counter()
        model = thalweg.fit(data, recipe, seed=0, progress=False, mesh=mesh, **settings)
        fits.append(time.perf_counter() - started)
    steps = model.history[-1]["seconds"] if recipe == "orderless" else fits[-1]
    model.energy(data)
    started = time.perf_counter()
    model.energy(data)
    return {
        "devices": jax.device_count(),
        "fit": fits[-1],
        "steps": steps,
        "energy": time.perf_counter() - started,
    }


def apart(devices: int, recipe: str, n: int, columns: int) -> dict[str, float]:
    """`measure` in a process that sees so many devices."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    command = [sys.executable, __file__, "--measure", str(devices), recipe, str(n), str(columns)]
    done = subprocess.run(
        command, env={**os.environ, "XLA_FLAGS": flags}, capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["devices"] == devices
    print(recipe, devices, n, columns, found, file=sys.stderr, flush=True)
    return found


def by_devices() -> list[list[object]]:
    lines: list[list[object]] = []
    for devices in (1, 2, 4):
        found = apart(devices, "orderless", 20_000, 16)
        pace = STEPS / found["steps"]
        first = float(lines[0][1]) if lines else pace  # type: ignore[arg-type]
        lines.append([devices, pace, f"{1 - pace / first:.0%}"])
    return lines


def by_shards() -> list[list[object]]:
    """A folder of Parquet files scored by one, two and four processes at once, each its `--shard`."""
    lines: list[list[object]] = []
    quiet = subprocess.DEVNULL
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "rows"
        folder.mkdir()
        for i in range(FILES):
            pq.write_table(tables.frame(rows(FILE_ROWS, 16, 1 + i)), folder / f"{i}.parquet")
        thalweg.fit(tables.frame(rows(20_000, 16, 0)), "gmm", seed=0, progress=False).save(f"{name}/model")
        for processes in (1, 1, 2, 4):  # the first compiles, and keeps it
            command = [sys.executable, "-m", "thalweg", "score", f"{name}/model", str(folder), "--quiet"]
            out = ["--out", f"{name}/{len(lines)}-{processes}", "--shard"]
            started = time.perf_counter()
            running = [
                subprocess.Popen([*command, *out, f"{i}/{processes}"], stdout=quiet, stderr=quiet)
                for i in range(processes)
            ]
            assert {process.wait() for process in running} == {0}
            seconds = time.perf_counter() - started
            lines.append([processes, seconds, f"{FILES * FILE_ROWS / seconds:,.0f}"])
            print(lines[-1], file=sys.stderr, flush=True)
            shutil.rmtree(out[1])
    return lines[1:]


def growth(sizes: list[tuple[int, int]]) -> list[list[object]]:
    lines: list[list[object]] = []
    for n, columns in sizes:
        line: list[object] = [f"{n:,} × {columns}"]
        for recipe in ("pca", "kmeans", "gmm", "orderless"):
            found = apart(1, recipe, n, columns)
            line += [found["fit"], f"{n / found['energy']:,.0f}"]
        lines.append(line)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--most", type=int, default=10_000_000)
    parser.add_argument("--measure", nargs=4)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    if given.measure:
        devices, recipe, n, columns = given.measure
        print(json.dumps(measure(int(devices), recipe, int(n), int(columns))))
        return
    powers = [int(n) for n in 10.0 ** np.arange(3, 8) if n <= given.most]
    columns = ["rows × columns"]
    for recipe in ("pca", "kmeans", "gmm", f"orderless, {STEPS} steps"):
        columns += [f"{recipe}: fit s", "energies, rows/s"]
    parts = [
        table(
            "orderless on 20,000 rows × 16, by devices",
            ["devices", "steps/s", "lost"],
            by_devices(),
        ),
        table(
            f"gmm scores {FILES} Parquet files of {FILE_ROWS:,} rows × 16, start included",
            ["processes", "s", "rows/s"],
            by_shards(),
        ),
        table("By rows", columns, growth([(n, 16) for n in powers])),
        table("By columns", columns, growth([(5_000, c) for c in (4, 16, 64, 400)])),
    ]
    report("scaling", f"python benchmarks/scaling.py --most {given.most}", parts, write=given.write)


if __name__ == "__main__":
    main()
