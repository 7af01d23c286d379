"""JEM: what does it cost a classifier to be an energy too, and what does it gain?

The network of `jem` twice, with as many steps of as many rows: once as `jem` trains it, once by the likelihood of the
labels alone. *accuracy* on test rows. *AUROC*: how often a row of another kind is odder than a test row: by the energy
of the picture, F(x) = -log Σ exp f(x)_y; by how far it is from the median of training pictures; by its slope, the
length of ∂F/∂x (Grathwohl and others 2020); by how far its slopes at eight levels of noise are from those of training
pictures (Mahmood, Oliva & Styner 2021, *Multiscale score matching for out-of-distribution detection*), which a
classifier was never told of; and by the largest probability. Other kinds: noise of the shades' own frequencies, the
same pictures upside down and mirrored, and pictures of another set (Fashion-MNIST made as small as the digits; MNIST
beside Fashion-MNIST). *drawn*: the share of pictures drawn given a label that the classifier reads as it.

    THALWEG_DATA=… python benchmarks/jem.py [--write] [--sets digits,fashion_mnist] [--seeds 3] [--matching 1500]
        [--steps 300] [--rows 10000]
"""

import argparse
import sys
import time
import warnings
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pyarrow as pa
from sklearn import datasets

import tables
import thalweg
from machine import report, table
from many_answers import summary
from thalweg.data.dataset import Dataset
from thalweg.evaluate.detection import auroc
from thalweg.learning.fit import fit
from thalweg.learning.objective import AbstractObjective
from thalweg.learning.run import Run
from thalweg.models.canvas import canvas_of
from thalweg.models.conv_ebm import ConvEnergy, build, widest
from thalweg.models.jem import Settings
from thalweg.nn.initial import drawn

TESTED, DRAWN = 2000, 50
#: Levels of noise at which slopes are measured.
LEVELS = 8


class Labels(AbstractObjective):
    """The likelihood of the labels of whole pictures, and nothing else."""

    def __call__(self, energy, batch, memory, *, key):
        def of_row(y):
            return -jnp.sum(energy.log_probs(energy.features(y[canvas_of(energy.space).pixels]), y))

        return jnp.mean(jax.vmap(of_row)(batch)), (memory, {})


def pictures(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training and test pictures with their labels."""
    if name == "digits":
        x, y = datasets.load_digits(return_X_y=True)
        x = x.reshape(-1, 8, 8).astype(np.uint8)
        return x[:1400], y[:1400], x[1400:], y[1400:]
    with np.load(tables.folder() / f"{name}.npz", allow_pickle=False) as arrays:
        return arrays["x_train"], arrays["y_train"], arrays["x_test"], arrays["y_test"]


def others(name: str, test: np.ndarray) -> dict[str, np.ndarray]:
    """Pictures that are not of this set."""
    rng = np.random.default_rng(0)
    foreign = pictures("mnist" if name == "fashion_mnist" else "fashion_mnist")[2][: len(test)]
    if name == "digits":
        shrunk = np.pad(foreign, ((0, 0), (2, 2), (2, 2))).reshape(-1, 8, 4, 8, 4).mean(axis=(2, 4))
        foreign = np.rint(shrunk / 16).astype(np.uint8)
    return {
        "noise": rng.permuted(test.reshape(-1)).reshape(test.shape),
        "upside down": test[:, ::-1],
        "mirrored": test[:, :, ::-1],
        "another set": foreign,
    }


def dataset(images: np.ndarray, labels: np.ndarray) -> Dataset:
    size = images.shape[1:]
    names = [f"pixel_{i}_{j}" for i, j in np.ndindex(*size)]
    columns = dict(zip(names, images.reshape(len(images), -1).T, strict=True))
    return Dataset(pa.table(columns | {"label": [f"class {k}" for k in labels]}), "pictures", size)


@eqx.filter_jit
def _outputs(energy: ConvEnergy, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The logits of each row, and the lengths of the slopes of its energy at some levels of noise, the least first."""
    pixels = canvas_of(energy.space).pixels
    levels = jnp.geomspace(energy.blur, widest(energy.space, energy.blur), LEVELS)

    def of_picture(x, noise):
        return energy.of_picture(energy.features(x, noise), noise)

    def of_row(y):
        slopes = jax.lax.map(lambda noise: jnp.linalg.norm(jax.grad(of_picture)(y[pixels], noise)), levels)
        return energy.outputs(energy.features(y[pixels])), slopes

    return jax.lax.map(of_row, rows, batch_size=64)


class Read(NamedTuple):
    """The logits of pictures (n, k), and the lengths of the slopes of their energies at each level of noise (n, l)."""

    logits: np.ndarray
    slopes: np.ndarray


def read(energy: ConvEnergy, schema: Any, images: np.ndarray) -> Read:
    rows = schema.encode(dataset(images, np.zeros(len(images), int)).table)
    return Read(*(np.asarray(found, np.float64) for found in _outputs(energy, jnp.asarray(rows.values))))


def told(usual: np.ndarray, odd: np.ndarray) -> float:
    return auroc(np.concatenate([usual, odd]), np.repeat([False, True], [len(usual), len(odd)]))


def energy_of_picture(found: Read) -> np.ndarray:
    return -np.logaddexp.reduce(found.logits, axis=1)


def doubt(found: Read) -> np.ndarray:
    return -np.max(found.logits - np.logaddexp.reduce(found.logits, axis=1, keepdims=True), axis=1)


def oddness(found: Read, trained: Read) -> dict[str, np.ndarray]:
    """How odd pictures are, in each way; `trained` are pictures of the training set."""
    energy = energy_of_picture(found)
    return {
        "energy": energy,
        "distance of the energy from the median": np.abs(energy - np.median(energy_of_picture(trained))),
        "slope of the energy": found.slopes[:, 0],
        "slopes at levels of noise": far(found.slopes, trained.slopes),
        "largest probability": doubt(found),
    }


def far(slopes: np.ndarray, trained: np.ndarray) -> np.ndarray:
    """Squared distances of log slopes from a normal distribution of those of training pictures (Mahalanobis)."""
    logs, usual = np.log(slopes + 1e-12), np.log(trained + 1e-12)
    covariance = np.cov(usual, rowvar=False) + 1e-6 * np.eye(usual.shape[1])
    apart = logs - usual.mean(axis=0)
    return np.einsum("ni,ij,nj->n", apart, np.linalg.inv(covariance), apart)


def compare(name: str, given: argparse.Namespace) -> tuple[list[list[object]], list[list[object]]]:
    x, y, test, truth = pictures(name)
    test, truth = test[:TESTED], truth[:TESTED]
    odd = others(name, test)
    accuracies: dict[str, list[list[float]]] = {"jem": [], "classifier": []}
    found: dict[tuple[str, str], list[list[float]]] = {}
    for seed in range(given.seeds):
        some = np.random.default_rng(seed).permutation(len(x))[: given.rows]
        data = dataset(x[some], y[some])
        began = time.perf_counter()
        model = thalweg.fit(
            data,
            "jem",
            target="label",
            seed=seed,
            matching=given.matching,
            steps=given.steps,
            calibrate=False,
            progress=False,
        )
        spent, schema = time.perf_counter() - began, model.schema
        began = time.perf_counter()
        settings = Settings(target="label")
        steps = given.matching + given.steps
        schedule = optax.warmup_cosine_decay_schedule(0.0, 1e-3, steps // 10, steps)
        classifier = fit(
            build(schema.space, settings, drawn(jax.random.key(seed))),
            schema.encode(data.table).values,
            Labels(),
            optimiser=optax.chain(optax.clip_by_global_norm(10.0), optax.adam(schedule)),
            steps=steps,
            batch=settings.batch,
            averaging=0.99,
            key=jax.random.key(seed),
            run=Run(progress=False),
        ).energy
        alone = time.perf_counter() - began
        levels = np.array(schema["label"].levels)
        right = np.array([f"class {k}" for k in truth])
        accuracy = {}
        for kind, energy in (("jem", model.F), ("classifier", classifier)):
            seen, trained = read(energy, schema, test), read(energy, schema, x[some[:TESTED]])
            accuracy[kind] = float(np.mean(levels[seen.logits.argmax(axis=1)] == right))
            usual = oddness(seen, trained)
            others_seen = [oddness(read(energy, schema, rows), trained) for rows in odd.values()]
            for how in usual:
                found.setdefault((kind, how), []).append([told(usual[how], one[how]) for one in others_seen])
        accuracies["jem"].append([accuracy["jem"], drawn_right(model, classifier, seed), spent])
        accuracies["classifier"].append([accuracy["classifier"], np.nan, alone])
        print(name, seed, accuracies, found, file=sys.stderr, flush=True)
    return (
        [[kind, *summary(np.array(values))] for kind, values in accuracies.items()],
        [[*way, *summary(np.array(values))] for way, values in found.items()],
    )


def drawn_right(model: thalweg.Model, classifier: ConvEnergy, seed: int) -> float:
    label = model.schema["label"].levels[0]
    rows = model.schema.encode(model.sample(DRAWN, given={"label": label}, seed=seed))
    out = np.asarray(_outputs(classifier, jnp.asarray(rows.values))[0])
    return float(np.mean(out.argmax(axis=1) == 0))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--sets", default="digits,fashion_mnist")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--matching", type=int, default=1500)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rows", type=int, default=10_000)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    parts = []
    for name in given.sets.split(","):
        first, second = compare(name, given)
        what = f"{name}, {given.matching} + {given.steps} steps, {given.seeds} seeds"
        parts.append(table(what, ["trained as", "accuracy", "drawn, read as its label", "fit, s"], first))
        odd = list(others(name, pictures(name)[2][:2]))
        parts.append(table(f"{name}: AUROC of other pictures", ["trained as", "by", *odd], second))
    report("jem", "python benchmarks/jem.py", parts, "optax", write=given.write)


if __name__ == "__main__":
    main()
