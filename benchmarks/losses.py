r"""Digits under each of the ten losses: the same convolutional network, told right from wrong in ten ways.

MNIST, `--rows` training digits, of which `fit` holds some out for early stopping and for \(\beta\); all test digits are
judged. The recipe is `classifier` with its default settings but for the steps. Errors; the expected calibration error
with the energies as they were learnt (\(\beta = 1\)) and with the \(\beta\) that was fitted to held-out rows; that
\(\beta\). A loss that lets all energies become equal ends with the guard's word, which is printed.

    THALWEG_DATA=… python benchmarks/losses.py [--write] [--seeds 3] [--rows 10000] [--steps 1500]
"""

import argparse
import os
import time
import warnings
from pathlib import Path

import numpy as np
from scipy.special import log_softmax

import thalweg
from machine import report, table
from thalweg.data.crops import Windows
from thalweg.data.dataset import Dataset
from thalweg.errors import Diverged
from thalweg.evaluate.classification import calibration_error
from thalweg.learning.answers import LOSSES


def digits(rows: int, seed: int) -> tuple[Dataset, Dataset, np.ndarray]:
    """Training digits drawn by the seed, all test digits, and what these are."""
    arrays = np.load(Path(os.environ["THALWEG_DATA"]) / "mnist.npz", allow_pickle=False)
    some = np.random.default_rng(seed).permutation(len(arrays["x_train"]))[:rows]
    train = Windows(arrays["x_train"][some], arrays["y_train"][some].astype(str)).to_dataset()
    test = Windows(arrays["x_test"], arrays["y_test"].astype(str)).to_dataset()
    return train, test, arrays["y_test"].astype(int)


def of_loss(loss: str, seed: int, rows: int, steps: int) -> dict[str, float] | str:
    train, test, truth = digits(rows, seed)
    began = time.perf_counter()
    try:
        model = thalweg.fit(
            train, "classifier", target="label", loss=loss, steps=steps, seed=seed, progress=False
        )
    except Diverged as error:
        return str(error)
    seconds = time.perf_counter() - began
    shares = model.predict(test).probabilities
    beta = float(model.F.beta)
    # What was learnt, at the temperature 1: p^(1/beta), normalised.
    learnt = np.exp(log_softmax(np.log(np.maximum(shares, 1e-300)) / beta, axis=1))
    return {
        "error, %": 100 * float(np.mean(shares.argmax(axis=1) != truth)),
        "ECE, %": 100 * calibration_error(learnt, truth),
        "ECE with beta, %": 100 * calibration_error(shares, truth),
        "beta": beta,
        "training, s": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--losses", default=",".join(LOSSES))
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    lines: list[list[object]] = []
    head: list[str] = []
    for loss in given.losses.split(","):
        runs = [of_loss(loss, seed, given.rows, given.steps) for seed in range(given.seeds)]
        good = [run for run in runs if isinstance(run, dict)]
        print(loss, *runs, flush=True)
        if good:
            head = list(good[0])
            cells = [[run[name] for run in good] for name in head]
            words = "" if len(good) == len(runs) else f"{len(runs) - len(good)} ended by the guard"
            lines.append([loss, *(f"{np.mean(cell):.3g} ± {np.std(cell):.2g}" for cell in cells), words])
        else:
            lines.append([loss, *[""] * 5, f"ended by the guard: {runs[0]}"])
    title = f"MNIST, {given.rows:,} rows, {given.steps:,} steps, {given.seeds} seeds: mean ± deviation"
    parts = [table(title, ["loss", *head, ""], lines)]
    report("losses", "python benchmarks/losses.py", parts, write=given.write)


if __name__ == "__main__":
    main()
