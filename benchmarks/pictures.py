"""Pictures of 28×28: does `conv-ebm` train untouched, what does it find odd, what does it fill in, what does it draw?

Fashion-MNIST and MNIST, default settings, each seed by itself. Anomalies: how often a row of another kind has the
higher energy than a test row (AUROC), and how often it lies farther from the median energy of training rows (a row may
be too simple to be usual); beside them the error of a PCA with 50 components and the distance to the tenth nearest of
10,000 training rows. Letters are those of `ocr_letters.npz`, 16×8 bits drawn 16×16 in the middle of a black picture; a
constant picture has one shade, black to white. The lower half of test pictures is filled in from the upper one: PSNR in
dB, of each picture, then averaged. Pictures drawn, cleaned, filled in: `results/pictures-NAME.png`.

    THALWEG_DATA=… python benchmarks/pictures.py [--write] [--seeds 5] [--rows 60000] [--steps 300] [--matching 1500]
        [--tested 1000] [--completed 64] [--sets fashion_mnist,mnist]
    python benchmarks/pictures.py [--write] --sets digits [--seeds 3]
"""

import argparse
import os
import time
import warnings
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
import pyarrow as pa
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

import thalweg
from machine import RESULTS, report, table
from thalweg.data import load
from thalweg.errors import Diverged
from thalweg.evaluate.detection import auroc

SIDE = 28
HIDDEN = np.arange(SIDE * SIDE) >= SIDE * SIDE // 2
NEIGHBOURS = 10
#: Rows that nearest neighbours are looked for among, and pictures that are drawn.
MEMORY, DRAWN = 10_000, 16
#: Sweeps of the chains that fill in, the least that is allowed: they start at near pictures.
SWEEPS = 256


def pictures(name: str) -> tuple[np.ndarray, np.ndarray]:
    arrays = np.load(Path(os.environ["THALWEG_DATA"]) / f"{name}.npz", allow_pickle=False)
    return arrays["x_train"], arrays["x_test"]


def letters(n: int) -> np.ndarray:
    arrays = np.load(Path(os.environ["THALWEG_DATA"]) / "ocr_letters.npz", allow_pickle=False)
    bits = np.unpackbits(arrays["images"], axis=1).reshape(-1, 16, 8)
    some = bits[:: max(1, len(bits) // n)][:n].repeat(2, axis=2) * np.uint8(255)
    return np.pad(some, ((0, 0), (6, 6), (6, 6)))


def others(name: str, n: int) -> dict[str, np.ndarray]:
    """Rows that are not of this set."""
    rng = np.random.default_rng(0)
    other = "mnist" if name == "fashion_mnist" else "fashion_mnist"
    shades = np.linspace(0, 255, n).astype(np.uint8)
    return {
        other: pictures(other)[1][:n],
        "letters": letters(n),
        "noise": rng.integers(0, 256, (n, SIDE, SIDE)).astype(np.uint8),
        "constant": np.broadcast_to(shades[:, None, None], (n, SIDE, SIDE)).copy(),
    }


def flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).astype(np.float64)


class Odd:
    """How odd rows are, by several measures, learnt from training rows."""

    def __init__(self, train: np.ndarray):
        rows = flat(train[:MEMORY]) / 255
        self.pca = PCA(50, random_state=0).fit(rows)
        self.near = NearestNeighbors(n_neighbors=NEIGHBOURS).fit(rows)

    def error(self, images: np.ndarray) -> np.ndarray:
        rows = flat(images) / 255
        return ((self.pca.inverse_transform(self.pca.transform(rows)) - rows) ** 2).sum(axis=1)

    def distance(self, images: np.ndarray) -> np.ndarray:
        return self.near.kneighbors(flat(images) / 255)[0][:, -1]


def told(usual: np.ndarray, odd: np.ndarray) -> float:
    return auroc(np.concatenate([usual, odd]), np.repeat([False, True], [len(usual), len(odd)]))


def trained(
    train: np.ndarray, seed: int, settings: dict[str, int]
) -> tuple[thalweg.Model | None, list[object]]:
    """The model, and what is to be said of its training."""
    began = time.perf_counter()
    try:
        model = thalweg.fit(train, "conv-ebm", seed=seed, progress=False, **settings)
    except Diverged as error:
        return None, [f"ended: {error}", time.perf_counter() - began, *[""] * 4]
    end = model.history[-1]
    touched = "untouched" if end["rate"] == 1 else f"step size {end['rate']:.2g} by the guard"
    last = model.history[-max(1, len(model.history) // 5) :]
    means = [float(np.mean([record[name] for record in last])) for name in ("gap", "spread", "told_apart")]
    return model, [touched, time.perf_counter() - began, *means, max(r["leap"] for r in model.history)]


def of_energy(model: thalweg.Model, images: np.ndarray) -> np.ndarray:
    return np.asarray(model.energy(images))


def of_anomalies(models: list[thalweg.Model], name: str, tested: int) -> list[list[object]]:
    train, test = pictures(name)
    odd, peers = others(name, tested), Odd(train)
    energies = [{k: of_energy(m, a) for k, a in {"": test[:tested], **odd}.items()} for m in models]
    middles = [float(np.median(of_energy(m, train[:tested]))) for m in models]
    lines: list[list[object]] = []
    for kind, rows in odd.items():
        high = [told(e[""], e[kind]) for e in energies]
        far = [told(abs(e[""] - m), abs(e[kind] - m)) for e, m in zip(energies, middles, strict=True)]
        measures = (peers.error, peers.distance)
        lines.append(
            [kind, *map(_of_seeds, (high, far)), *(told(how(test[:tested]), how(rows)) for how in measures)]
        )
        print(name, lines[-1], flush=True)
    return lines


def _of_seeds(values: list[float]) -> str:
    return f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def holed(images: np.ndarray) -> pa.Table:
    """The table of the pictures without their lower halves."""
    values = np.where(HIDDEN, np.nan, flat(images))
    names = load(images[:1]).table.column_names
    return pa.table({c: pa.array(values[:, i], from_pandas=True) for i, c in enumerate(names)})


def filled(model: thalweg.Model, rows: pa.Table, **options: int) -> np.ndarray:
    columns = model.complete(rows, **options).columns
    return np.stack([column.to_numpy() for column in columns], axis=1).astype(np.float64)


def psnr(guess: np.ndarray, truth: np.ndarray) -> np.ndarray:
    errors = ((guess - truth)[:, HIDDEN] ** 2).mean(axis=1)
    return 10 * np.log10(255**2 / np.maximum(errors, 1e-9))


def of_completion(
    models: list[thalweg.Model], name: str, completed: int
) -> tuple[list[list[object]], dict[str, np.ndarray]]:
    train, test = pictures(name)
    truth, rows = flat(test[:completed]), holed(test[:completed])
    memory = flat(train[:MEMORY])
    near = NearestNeighbors(n_neighbors=NEIGHBOURS).fit(memory[:, ~HIDDEN])
    index = near.kneighbors(truth[:, ~HIDDEN])[1]
    linear = thalweg.fit(train[:MEMORY], "pca", progress=False, calibrate=False)
    guesses = {
        "mean": np.broadcast_to(memory.mean(axis=0), truth.shape),
        "nearest": memory[index[:, 0]],
        f"mean of {NEIGHBOURS} nearest": memory[index].mean(axis=1),
        "pca": filled(linear, rows),
    }
    lines: list[list[object]] = [[k, f"{psnr(g, truth).mean():.2f}"] for k, g in guesses.items()]
    began = time.perf_counter()
    found = [filled(model, rows, steps=SWEEPS) for model in models]
    each = (time.perf_counter() - began) / completed / max(1, len(models))
    means = [float(psnr(g, truth).mean()) for g in found]
    lines.append([f"conv-ebm, {each:.2g} s a picture", _of_seeds(means)])
    print(name, lines, flush=True)
    shown = {"test pictures": truth, "conv-ebm from the upper half": found[0], "pca": guesses["pca"]}
    return lines, shown


def drawn(model: thalweg.Model, test: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
    """Draws of chains from noise, and where chains of as many sweeps are that start at test pictures."""
    draws = model.sample(DRAWN, seed=seed)
    from_noise = np.stack([column.to_numpy() for column in draws.columns], axis=1).astype(np.float64)
    return {
        "drawn, from noise": from_noise,
        "after 1,000 sweeps from test pictures": wandered(model, test[:DRAWN]),
    }


def wandered(model: thalweg.Model, images: np.ndarray, sweeps: int = 1000) -> np.ndarray:
    F = model.F
    codes = jax.numpy.asarray(model.schema.encode(load(images).table).values)
    free = jax.numpy.zeros(codes.shape[1], bool)

    def chain(y: jax.Array, key: jax.Array) -> jax.Array:
        def sweep(i: jax.Array, y: jax.Array) -> jax.Array:
            return F.gibbs(y, free, beta=1.0, key=jax.random.fold_in(key, i))

        return F.cleaned(jax.lax.fori_loop(0, sweeps, sweep, y))

    ends = jax.jit(jax.vmap(chain))(codes, jax.random.split(jax.random.key(0), len(codes)))
    found, named = flat(images), load(images[:1]).table.column_names
    places = [named.index(column.name) for column in F.space.columns]
    found[:, places] = np.asarray(ends)
    return found


def of_digits(seeds: int) -> list[str]:
    """The 8×8 digits with their labels: what is read, and what is told from them."""
    digits, lines = load("digits"), []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(digits))
        train, test = (digits.table.take(part) for part in (order[:1400], order[1400:]))
        began = time.perf_counter()
        model = thalweg.fit(train, "conv-ebm", target="label", seed=seed, progress=False)
        seconds = time.perf_counter() - began
        read = np.asarray(model.predict(test).value.to_pylist()) == np.asarray(test["label"].to_pylist())
        grid = np.stack([test[name].to_numpy() for name in test.column_names[:64]], axis=1).reshape(-1, 8, 8)
        mixed = np.stack([rng.permutation(column) for column in grid.reshape(-1, 64).T], axis=1)
        kinds = [grid, mixed.reshape(grid.shape), grid[:, :, ::-1], grid[:, ::-1]]
        energies = [np.asarray(model.energy(without_label(test, images))) for images in kinds]
        found = [told(energies[0], other) for other in energies[1:]]
        right = [
            np.mean(np.asarray(model.predict(model.sample(40, given={"label": k})).value.to_pylist()) == k)
            for k in range(10)
        ]
        lines.append(
            [seed, seconds, model.history[-1]["rate"], float(read.mean()), *found, float(np.mean(right))]
        )
        print("digits", lines[-1], flush=True)
    head = ["seed", "s", "rate by the guard", "labels read", "independent pixels", "mirrored", "upside down"]
    head.append("draws given a label that are read as it")
    return [table("digits: 1,400 rows train; AUROC of other rows against the other digits", head, lines)]


def without_label(test: pa.Table, images: np.ndarray) -> pa.Table:
    """Pictures in the table of digits, of no known label."""
    flat = images.reshape(len(images), -1)
    for i, name in enumerate(test.column_names[:64]):
        test = test.set_column(i, test.schema.field(name), pa.array(flat[:, i]))
    return test.set_column(64, test.schema.field("label"), pa.nulls(len(flat), test["label"].type))


def shown(name: str, rows: dict[str, np.ndarray]) -> None:
    """A picture of rows of pictures beside the results."""
    figure, axes = plt.subplots(len(rows), 1, figsize=(6, 0.55 * len(rows)), dpi=80)
    for axis, (title, images) in zip(axes, rows.items(), strict=True):
        some = np.clip(images[:DRAWN], 0, 255).reshape(-1, SIDE, SIDE)
        axis.imshow(np.concatenate(list(some), axis=1), cmap="gray", vmin=0, vmax=255)
        axis.set_title(title, fontsize=7, loc="left", pad=2)
        axis.axis("off")
    RESULTS.mkdir(exist_ok=True)
    figure.tight_layout(pad=0.3)
    figure.savefig(RESULTS / f"pictures-{name}.png")
    plt.close(figure)


def of_set(name: str, given: argparse.Namespace) -> list[str]:
    train, test = pictures(name)
    settings = {k: getattr(given, k) for k in ("steps", "matching") if getattr(given, k) is not None}
    models, lines = [], []
    for seed in range(given.seeds):
        model, line = trained(train[: given.rows], seed, settings)
        models += [model] if model else []
        lines.append([seed, *line])
        print(name, lines[-1], flush=True)
    said = " ".join(f"{k}={v}" for k, v in settings.items()) or "default settings"
    heading = f"{name}: training on {min(given.rows, len(train)):,} rows, {said}"
    columns = ["seed", "guard", "s", "gap, nats", "spread, nats", "told apart", "largest leap, nats"]
    parts = [table(heading, columns, lines)]
    if not models:
        return parts
    odd = of_anomalies(models, name, given.tested)
    columns = ["rows of", "energy", "far from the median energy", "PCA error", f"{NEIGHBOURS} nearest"]
    parts.append(
        table(
            f"{name}: AUROC against {given.tested:,} test rows, mean (least to most) of seeds", columns, odd
        )
    )
    completed, rows = of_completion(models, name, given.completed)
    heading = (
        f"{name}: lower half of {given.completed} test pictures filled in, PSNR in dB (higher is better)"
    )
    parts.append(table(heading, ["", "dB"], completed))
    if given.write:
        shown(name, {**rows, **drawn(models[0], test)})
        parts.append(f"![{name}](pictures-{name}.png)\n")
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--sets", default="fashion_mnist,mnist")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--tested", type=int, default=1000)
    parser.add_argument("--completed", type=int, default=64)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--matching", type=int)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    command = "python benchmarks/pictures.py"
    if given.sets == "digits":
        report("pictures_digits", command, of_digits(given.seeds), write=given.write)
        return
    parts = [part for name in given.sets.split(",") for part in of_set(name, given)]
    report("pictures", command, parts, write=given.write)


if __name__ == "__main__":
    main()
