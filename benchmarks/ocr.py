"""Letters of handwritten words: chains of labels over several networks, by several losses, and letters by themselves.

`ocr_letters.npz` of the folder THALWEG_DATA: 6,877 words, 52,152 letters of 16×8 pixels, ten folds. Small protocol:
train on one fold, test on the nine others. Large: train on nine, test on one. Settings were chosen on a fifth of the
words of fold 0 (`--select`), never on a test fold. Peers: scikit-learn's logistic regression and linear support vector
machine of single letters.

    python benchmarks/ocr.py [--write] [--protocols small,large] [--models linear] [--folds 0,1,2] [--some 0,1,2]
        [--keep FILE] [--select]
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from keeping import kept
from machine import report, table
from thalweg.data import load
from thalweg.data.rows import Rows
from thalweg.data.schema import Schema
from thalweg.learning.run import Run
from thalweg.models.crf import CRF, LabelChain
from thalweg.models.recipe import Problem
from thalweg.models.sequences import laid_out

#: Each: is it a chain, and settings of `crf` beside.
CONV = {"network": "conv", "channels": "32", "width": "256", "layers": "1", "dropout": "0.3", "shift": "1"}
MODELS: dict[str, tuple[bool, dict[str, str]]] = {
    "linear, letters alone": (False, {"network": "linear", "ridge": "3"}),
    "linear chain, NLL (CRF)": (True, {"network": "linear", "ridge": "3"}),
    "linear chain, hinge (structural SVM)": (
        True,
        {"network": "linear", "loss": "hinge", "ridge": "10"},
    ),
    "convolutional, letters alone": (False, CONV),
    "convolutional chain": (True, CONV),
    "convolutional and recurrent chain": (True, {**CONV, "recurrent": "128"}),
}
#: Passes over the letters: of a linear network, of others in the small and in the large protocol.
PASSES = {"linear": (100, 30), "conv": (60, 14)}


def letters() -> tuple[Schema, Rows, np.ndarray]:
    """The letters as rows, and the fold of each."""
    folder = os.environ.get("THALWEG_DATA")
    if not folder:
        sys.exit("THALWEG_DATA is not set: it names the folder with ocr_letters.npz")
    with np.load(Path(folder) / "ocr_letters.npz") as data, tempfile.TemporaryDirectory() as made:
        x = np.unpackbits(data["images"], axis=1).reshape(-1, 16, 8)
        path = Path(made) / "letters.npz"
        np.savez(path, x=x, y=data["labels"], offsets=data["word_offsets"])
        dataset = load(str(path))
        fold = np.repeat(data["fold"], np.diff(data["word_offsets"]))
    schema = Schema.infer(dataset, target="label")
    return schema, schema.encode(dataset.table, name=dataset.name), fold


def trained(
    schema: Schema, rows: Rows, chained: bool, given: dict[str, str], passes: float, seed: int
) -> tuple[LabelChain, float]:
    """The energy, and the seconds that it took."""
    target = schema.space.names.index("label")
    if not chained:
        rows = replace(rows, sequence=np.arange(len(rows)))
    settings = CRF.configure({"target": "label", **given})
    steps = int(passes * len(laid_out(rows, target, together=True).y) / settings.batch)
    settings = CRF.settle(replace(settings, steps=max(steps, 300)), schema, len(rows))
    empty = rows[:0]
    started = time.perf_counter()
    run = Run(progress=False)
    result = CRF.train(Problem(schema.space, rows, empty, settings, jax.random.key(seed), run))
    return result.energy.energy, time.perf_counter() - started


@jax.jit
def _best(energy: LabelChain, x: Any) -> jax.Array:
    return jax.lax.map(lambda x: energy.chain(x).best()[0][0], x, batch_size=16)


def accuracy(energy: LabelChain, schema: Schema, rows: Rows, chained: bool) -> float:
    """The share of letters that are right."""
    target = schema.space.names.index("label")
    if not chained:
        rows = replace(rows, sequence=np.arange(len(rows)))
    pairs = laid_out(rows, target, together=True)
    return float(np.mean((np.asarray(_best(energy, pairs.x)) == pairs.y)[np.asarray(pairs.x.mask)]))


def parts(fold: np.ndarray, i: int, protocol: str) -> tuple[np.ndarray, np.ndarray]:
    """The rows to train on and to test on."""
    one = fold == i
    return (one, ~one) if protocol == "small" else (~one, one)


def passes_of(given: dict[str, str], protocol: str) -> float:
    return PASSES["linear" if given["network"] == "linear" else "conv"][protocol == "large"]


def measured(models: list[str], protocol: str, given: argparse.Namespace) -> list[list[object]]:
    schema, rows, fold = letters()

    def one(name: str, i: int) -> tuple[float, float]:
        chained, settings = MODELS[name]
        train, test = parts(fold, i, protocol)
        energy, took = trained(schema, rows[train], chained, settings, passes_of(settings, protocol), i)
        return accuracy(energy, schema, rows[test], chained), took

    found: list[list[object]] = []
    for name in models:
        folds = given.folds if name.startswith("linear") else given.some
        runs = []
        for i in map(int, folds.split(",")):
            runs.append(kept(given.keep, [protocol, name, i], lambda name=name, i=i: one(name, i)))
            print(protocol, i, name, *runs[-1], file=sys.stderr, flush=True)
        found.append(_row(name, *zip(*runs, strict=True)))
    return found


def _row(name: str, shares: Sequence[float], seconds: Sequence[float]) -> list[object]:
    spread = f"{np.std(shares):.4f}" if len(shares) > 1 else ""
    return [name, f"{np.mean(shares):.4f}", spread, len(shares), float(np.mean(seconds))]


#: scikit-learn, of single letters.
PEERS = {
    "LogisticRegression, letters alone": lambda: LogisticRegression(C=0.1, max_iter=200),
    "LinearSVC, letters alone": lambda: LinearSVC(C=0.1),
}


def peers(protocol: str, given: argparse.Namespace) -> list[list[object]]:
    schema, rows, fold = letters()
    target = schema.space.names.index("label")
    x = np.delete(rows.values, target, axis=1)
    y = rows.values[:, target].astype(int)

    def one(name: str, i: int) -> tuple[float, float]:
        train, test = parts(fold, i, protocol)
        started = time.perf_counter()
        peer = PEERS[name]().fit(x[train], y[train])
        took = time.perf_counter() - started
        return float(np.mean(peer.predict(x[test]) == y[test])), took

    found: list[list[object]] = []
    for name in PEERS:
        runs = [
            kept(given.keep, [protocol, name, i], lambda name=name, i=i: one(name, i))
            for i in map(int, given.folds.split(","))
        ]
        found.append(_row(name, *zip(*runs, strict=True)))
    return found


def select(models: list[str], changes: list[dict[str, str]]) -> None:
    """Accuracies on a fifth of the words of fold 0, trained on the rest of it."""
    schema, rows, fold = letters()
    rows = rows[fold == 0]
    word = np.unique(rows.sequence, return_inverse=True)[1]
    held = np.random.default_rng(0).random(word.max() + 1)[word] < 0.2
    for name in models:
        chained, given = MODELS[name]
        for change in changes:
            both = {**given, **change}
            passes = float(both.pop("passes", passes_of(given, "small")))
            energy, took = trained(schema, rows[~held], chained, both, passes, 0)
            share = accuracy(energy, schema, rows[held], chained)
            print(f"{name} {change}: {share:.4f} in {took:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="keep the results in benchmarks/results")
    parser.add_argument("--protocols", default="small,large")
    parser.add_argument("--models", default="", help="those whose name begins so; ; between several")
    parser.add_argument("--folds", default="0,1,2,3,4,5,6,7,8,9", help="of linear models")
    parser.add_argument("--some", default="0,1,2", help="folds of convolutional models")
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--keep", type=Path, help="a file of what is measured already")
    parser.add_argument("--select", nargs="*", help="changes to try, as ridge=1,steps=300")
    given = parser.parse_args()
    models = [name for name in MODELS if any(name.startswith(m) for m in given.models.split(";"))]
    if given.select is not None:
        select(models, [dict(item.split("=") for item in c.split(",") if item) for c in given.select or [""]])
        return
    columns = ["", "letters right", "deviation over folds", "folds", "s a fit"]
    found = []
    for protocol in given.protocols.split(","):
        title = {"small": "Train on one fold, test on nine", "large": "Train on nine folds, test on one"}
        rows = (peers(protocol, given) if given.peers else []) + measured(models, protocol, given)
        found.append(table(title[protocol], columns, rows))
    report("ocr", "python benchmarks/ocr.py", found, write=given.write)


if __name__ == "__main__":
    main()
