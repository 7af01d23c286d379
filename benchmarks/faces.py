"""Faces of people whom training never saw: `siamese` beside eigenfaces and raw pixels, on the ORL faces.

400 pictures of 40 people (`orl_faces.npz`), averaged over 4×4 pixels to 28×23. The people are cut into four folds; a
fold of ten is the test, the other thirty train, and nothing of the ten is seen before: 100 pictures, 450 pairs of one
person and 4,500 of two. Recall@1: the nearest of the other 99 pictures is of the same person. Recall@1 from one
picture: the nearest of ten pictures, one of each person, in turn of all ten. Equal error rate: verification of all
pairs by distance.

Eigenfaces are the principal components of the training pictures, as many as verify the training people best;
Fisherfaces linear discriminants after 100 components. The settings of `siamese` (a linear map; pictures are moved by
two pixels, mirrored, lit otherwise) were chosen on divisions of the thirty people that train in the first fold.

    python benchmarks/faces.py [--write] [--keep FILE]
"""

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pyarrow as pa
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

import tables
import thalweg
from keeping import kept
from machine import RESULTS, report, table
from thalweg.evaluate.retrieval import equal_error_rate

FOLDS = 4
COMPONENTS = (5, 10, 20, 40, 80, 150)
VARIED = {"shift": 2, "mirror": True, "light": 0.2}
LINEAR = {"network": "linear", "steps": 400, **VARIED}

Embed = Callable[[np.ndarray], np.ndarray]


def faces() -> tuple[np.ndarray, np.ndarray]:
    """Pictures (400, 28, 23) and people."""
    with np.load(tables.folder() / "orl_faces.npz", allow_pickle=False) as content:
        x, people = content["x"], content["y"]
    return x.reshape(len(x), 28, 4, 23, 4).mean(axis=(2, 4)).astype(np.float32), people


def siamese(**settings: object) -> Callable[[np.ndarray, np.ndarray, int], Embed]:
    def fitted(x: np.ndarray, people: np.ndarray, seed: int) -> Embed:
        names = pa.array([f"person {p}" for p in people])
        model = thalweg.fit(
            thalweg.data.load(x).table.append_column("who", names),
            "siamese",
            target="who",
            seed=seed,
            calibrate=False,
            progress=False,
            **settings,
        )
        return lambda pictures: model.encode(pictures).z

    return fitted


def raw(x: np.ndarray, people: np.ndarray, seed: int) -> Embed:
    return lambda pictures: pictures.reshape(len(pictures), -1)


def eigenfaces(x: np.ndarray, people: np.ndarray, seed: int) -> Embed:
    flat = x.reshape(len(x), -1)
    pca = PCA(max(COMPONENTS)).fit(flat)
    z = pca.transform(flat)
    k = min(COMPONENTS, key=lambda k: verification(z[:, :k], people))
    return lambda pictures: pca.transform(pictures.reshape(len(pictures), -1))[:, :k]


def fisherfaces(x: np.ndarray, people: np.ndarray, seed: int) -> Embed:
    pca = PCA(100).fit(x.reshape(len(x), -1))
    lda = LinearDiscriminantAnalysis().fit(pca.transform(x.reshape(len(x), -1)), people)
    return lambda pictures: lda.transform(pca.transform(pictures.reshape(len(pictures), -1)))


METHODS: dict[str, Callable[[np.ndarray, np.ndarray, int], Embed]] = {
    "siamese, InfoNCE": siamese(**LINEAR),
    "siamese, triplets": siamese(loss="triplet", **LINEAR),
    "siamese, contrastive": siamese(loss="contrastive", **LINEAR),
    "eigenfaces (PCA)": eigenfaces,
    "Fisherfaces (LDA)": fisherfaces,
    "raw pixels": raw,
}


def distances(z: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(np.sum((z[:, None] - z[None]) ** 2, axis=2), 0))


def verification(z: np.ndarray, people: np.ndarray) -> float:
    i, j = np.triu_indices(len(z), 1)
    return equal_error_rate(distances(z)[i, j], people[i] == people[j])


def judged(z: np.ndarray, people: np.ndarray) -> tuple[float, float, float]:
    """Recall@1, recall@1 from one picture of each, equal error rate."""
    d = distances(z)
    nearest = (d + np.where(np.eye(len(d), dtype=bool), np.inf, 0)).argmin(axis=1)
    single = []
    for turn in range(10):
        known = np.array([np.flatnonzero(people == p)[turn] for p in np.unique(people)])
        others = np.setdiff1d(np.arange(len(people)), known)
        single.append(np.mean(people[known][d[np.ix_(others, known)].argmin(axis=1)] == people[others]))
    return float(np.mean(people[nearest] == people)), float(np.mean(single)), verification(z, people)


def picture(x: np.ndarray, people: np.ndarray, embeddings: dict[str, np.ndarray]) -> None:
    """A row a face: the face and its three nearest of other days, by each method; a frame where it is someone else."""
    shown = [np.flatnonzero(people == p)[0] for p in np.unique(people)][:8]
    columns = 1 + 3 * len(embeddings)
    figure, axes = plt.subplots(len(shown), columns, figsize=(columns * 0.8, len(shown) * 0.98))
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    for line, face in zip(axes, shown, strict=True):
        line[0].imshow(x[face], cmap="gray")
        for i, z in enumerate(embeddings.values()):
            d = distances(z)[face]
            d[face] = np.inf
            for axis, other in zip(line[1 + 3 * i :], np.argsort(d)[:3], strict=False):
                axis.imshow(x[other], cmap="gray")
                wrong = people[other] != people[face]
                axis.spines[:].set(color="crimson" if wrong else "white", linewidth=3 if wrong else 1)
    axes[0, 0].set_title("face", fontsize=8)
    for i, name in enumerate(embeddings):
        axes[0, 2 + 3 * i].set_title(name, fontsize=8)
    figure.subplots_adjust(0.01, 0.01, 0.99, 0.95, 0.05, 0.05)
    figure.savefig(RESULTS / "faces.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--folds", default=",".join(map(str, range(FOLDS))))
    parser.add_argument("--keep", type=Path, help="a file of what is measured already")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    x, people = faces()
    order = np.random.default_rng(0).permutation(40)
    embeddings: dict[str, np.ndarray] = {}
    found: dict[str, list[list[float]]] = {name: [] for name in METHODS}
    folds = [int(fold) for fold in given.folds.split(",")]
    for fold in folds:
        test = np.isin(people, order[fold * 10 : (fold + 1) * 10])
        for name, method in METHODS.items():

            def measure(name=name, method=method, test=test, fold=fold) -> list[float]:
                started = time.perf_counter()
                z = method(x[~test], people[~test], fold)(x[test])
                if fold == 0:
                    embeddings[name] = z
                return [*judged(z, people[test]), time.perf_counter() - started]

            found[name].append(kept(given.keep, [name, fold], measure))
            print(fold, name, *(f"{value:.4f}" for value in found[name][-1]), file=sys.stderr, flush=True)
        chosen = ("siamese, InfoNCE", "eigenfaces (PCA)", "raw pixels")
        if fold == 0 and given.write and set(chosen) <= set(embeddings):
            picture(x[test], people[test], {name: embeddings[name] for name in chosen})
    values = {name: np.array(runs) for name, runs in found.items()}
    lines = [
        [
            name,
            *(
                f"{runs[:, i].mean():.3f} ± {runs[:, i].std(ddof=1) / np.sqrt(len(folds)):.3f}"
                for i in range(3)
            ),
            float(runs[:, 3].mean()),
        ]
        for name, runs in values.items()
    ]
    base = values["eigenfaces (PCA)"][:, 2]
    apart = [
        [
            name,
            f"{np.mean(runs[:, 2] - base):+.3f} ± {np.std(runs[:, 2] - base, ddof=1) / np.sqrt(len(folds)):.3f}",
        ]
        for name, runs in values.items()
        if name != "eigenfaces (PCA)"
    ]
    parts = [
        f"Means over {len(folds)} folds of ten people with their standard errors. Seconds on a busy machine.",
        "",
        table(
            "People never seen",
            ["method", "recall@1", "recall@1 from one picture", "equal error rate", "seconds"],
            lines,
        ),
        table("Equal error rate less that of eigenfaces, fold by fold", ["method", "difference"], apart),
        "![a face of the test in each line, and its three nearest by each method; framed in red where it is another "
        "person](faces.png)",
    ]
    report("faces", "python benchmarks/faces.py", parts, write=given.write)


if __name__ == "__main__":
    main()
