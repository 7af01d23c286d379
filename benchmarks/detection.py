"""Digits on cluttered canvases at three scales: average precision and FROC of `detector`, beside two baselines.

Canvases of 192×192 hold two to six MNIST digits, drawn 1, 1.6 and 2.5 times as large as they are, among pieces of other
digits, strokes, and noise on a background of any shade. Training canvases are made of training digits, test canvases of
test digits. `detector` learns from windows cut out of the training canvases, then twice more with its own false alarms
there as background, 1,200 steps each time. Beside it slide over the same windows, with the same suppression:

* the same network as a plain classifier of the ten digits, which has no energy of nothing: a box is as probable as the
  largest share of its softmax;
* scikit-image's HOG with scikit-learn's linear SVM, on the same windows with the same false alarms (its own) added.

Average precision at an intersection over union of 0.5, mean over the ten labels; FROC of boxes with the right label.

    THALWEG_DATA=… python benchmarks/detection.py [--write] [--seeds 3] [--canvases 400] [--tested 150]
"""

import argparse
import os
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from PIL import Image, ImageDraw
from skimage.feature import hog
from sklearn.svm import LinearSVC

import thalweg
from machine import RESULTS, report, table
from thalweg.data.boxes import Boxes, overlaps
from thalweg.data.crops import windows
from thalweg.data.pictures import open_pictures
from thalweg.data.resample import resized
from thalweg.energy import Categorical
from thalweg.energy.capabilities import AbstractFewAnswers, AbstractSliding
from thalweg.evaluate.detected import average_precision, curve
from thalweg.inference.suppression import suppress
from thalweg.learning.answers import answer_loss
from thalweg.learning.fit import fit
from thalweg.learning.rows import Pairs
from thalweg.learning.run import Run
from thalweg.nn.initial import drawn
from thalweg.nn.windows import WindowNetwork
from thalweg.questions.detect import WindowSearch, detect
from thalweg.questions.pyramid import levels
from thalweg.report.boxes import draw

SIDE, WINDOW = 192, 28
SCALES = (1.0, 1.6, 2.5)
#: Areas of boxes of each scale, for `areas`.
AREAS = ((0, 36**2), (36**2, 57**2), (57**2, np.inf))
#: The least probability of a box that counts for curves, and of a false alarm that is learnt from.
LEAST, ALARM = 0.01, 0.1
RATES = (0.1, 0.2, 0.5, 1.0, 2.0)
#: Rounds of learning, and the steps of each.
ROUNDS, STEPS = 3, 1200
LABELS = tuple("0123456789")


def digits(part: str) -> tuple[np.ndarray, np.ndarray]:
    arrays = np.load(Path(os.environ["THALWEG_DATA"]) / "mnist.npz", allow_pickle=False)
    return arrays[f"x_{part}"], arrays[f"y_{part}"]


def canvas(
    x: np.ndarray, y: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """A canvas, the places of its digits and what they are."""
    image = _clutter(x, rng)
    places: list[np.ndarray] = []
    labels = []
    for _ in range(rng.integers(2, 7)):
        scale = SCALES[rng.integers(3)]
        size = round(WINDOW * scale)
        for _ in range(30):
            corner = rng.integers(0, SIDE - size + 1, 2)
            place = np.array([*corner, size, size], float)
            if not places or overlaps(np.array(places), place).max() == 0:
                break
        else:
            continue
        i = rng.integers(len(x))
        _paste(image, _scaled(x[i], size), place, rng.uniform(0.6, 1.0))
        places.append(place)
        labels.append(str(y[i]))
    noisy = image + rng.normal(0, 12, image.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8), np.array(places), labels


def _clutter(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Strokes and pieces of digits on a slope of dark shades."""
    page = Image.new("L", (SIDE, SIDE))
    pen = ImageDraw.Draw(page)
    for _ in range(rng.integers(3, 7)):
        start, bend = rng.uniform(0, SIDE, 2), rng.uniform(0, 2 * np.pi)
        turns = np.cumsum(rng.normal(0, 0.5, 6)) + bend
        steps = rng.uniform(6, 18) * np.stack([np.cos(turns), np.sin(turns)], axis=1)
        line = np.cumsum(np.concatenate([start[None], steps]), axis=0)
        pen.line([tuple(p) for p in line], fill=int(rng.integers(90, 256)), width=int(rng.integers(2, 6)))
    image = np.asarray(page, np.float64).copy()
    for _ in range(rng.integers(10, 20)):
        size = int(rng.integers(6, 11))
        top, left = rng.integers(4, WINDOW - 4 - size, 2)
        piece = x[rng.integers(len(x))][top : top + size, left : left + size]
        side = round(size * SCALES[rng.integers(3)])
        place = np.array([*rng.integers(0, SIDE - side, 2), side, side])
        _paste(image, np.rot90(_scaled(piece, side), rng.integers(4)), place, rng.uniform(0.4, 1.0))
    across, down = np.meshgrid(*2 * [np.linspace(0, 1, SIDE)])
    return np.maximum(image, rng.uniform(0, 60) + rng.uniform(0, 40) * across + rng.uniform(0, 40) * down)


def _scaled(piece: np.ndarray, side: int) -> np.ndarray:
    return resized(piece[..., None], (side, side))[..., 0]


def _paste(image: np.ndarray, piece: np.ndarray, place: np.ndarray, ink: float) -> None:
    x, y, width, height = place.astype(int)
    part = image[y : y + height, x : x + width]
    np.maximum(part, ink * piece, out=part)


def canvases(x: np.ndarray, y: np.ndarray, n: int, seed: int) -> tuple[np.ndarray, Boxes]:
    rng = np.random.default_rng(seed)
    made = [canvas(x, y, rng) for _ in range(n)]
    picture = np.repeat(np.arange(n), [len(labels) for _, _, labels in made])
    labels = np.array([label for _, _, own in made for label in own], object)
    return np.stack([image for image, _, _ in made]), Boxes(
        picture, np.concatenate([p for _, p, _ in made]), labels
    )


@dataclass
class Found:
    """What a way to detect found, and what it took."""

    boxes: Boxes
    training: float
    seconds: float


def of_detector(train: np.ndarray, boxes: Boxes, test: np.ndarray, seed: int) -> tuple[Found, Found]:
    """With windows on and beside the boxes alone; and after two more rounds, each with all false alarms before it."""
    began, hard, found = time.perf_counter(), None, []
    for round_ in range(ROUNDS):
        learnt = windows(train, boxes, (WINDOW, WINDOW), hard=hard, seed=seed)
        model = thalweg.fit(
            learnt.to_dataset(), "detector", target="label", steps=STEPS, seed=seed, progress=False
        )
        print(f"  round {round_ + 1}: {len(learnt.labels)} windows", flush=True)
        if round_ in (0, ROUNDS - 1):
            training = time.perf_counter() - began
            found.append(
                _timed(lambda pictures, m=model: m.detect(pictures, threshold=LEAST), test, training)
            )
            began += time.perf_counter() - began - training
        hard = together(hard, model.detect(train, threshold=ALARM)) if round_ < ROUNDS - 1 else hard
    return found[0], found[-1]


def together(before: Boxes | None, new: Boxes) -> Boxes:
    """The places of both."""
    if before is None:
        return Boxes(new.picture, new.place)
    return Boxes(np.concatenate([before.picture, new.picture]), np.concatenate([before.place, new.place]))


class Plain(AbstractFewAnswers, AbstractSliding):
    """The same network over the ten digits, and no energy of nothing."""

    network: WindowNetwork
    space: Categorical = Categorical((), len(LABELS))
    nothing: int = len(LABELS)
    mean: float = 40.0
    deviation: float = 60.0

    @property
    def window(self):
        return self.network.window

    @property
    def stride(self):
        return self.network.stride

    def answer_energies(self, x=None):
        return -self.network((x - self.mean) / self.deviation)

    def __call__(self, y, x=None):
        return self.answer_energies(x)[y.astype(jnp.int32)]

    def slide(self, picture):
        energies = -self.network.slide((picture - self.mean) / self.deviation)
        return energies, jnp.float32(jnp.inf), jnp.float32(1.0)


def of_classifier(train: np.ndarray, boxes: Boxes, test: np.ndarray, seed: int) -> Found:
    began = time.perf_counter()
    learnt = windows(train, boxes, (WINDOW, WINDOW), negatives=0, seed=seed)
    labels = np.searchsorted(LABELS, learnt.labels).astype(np.float32)
    shape = (WINDOW, WINDOW, 1)
    network = WindowNetwork(shape, 10, channels=8, halvings=2, units=64, initial=drawn(jax.random.key(seed)))
    steps = STEPS
    result = fit(
        Plain(network),
        Pairs(learnt.pixels.astype(np.float32)[..., None], labels),
        answer_loss("nll"),
        optimiser=optax.adamw(
            optax.warmup_cosine_decay_schedule(0.0, 2e-3, steps // 20, steps), weight_decay=1e-3
        ),
        steps=steps,
        averaging=0.99,
        key=jax.random.key(seed),
        run=Run(progress=False),
    )
    training = time.perf_counter() - began

    def find(pictures):
        return detect(result.energy, open_pictures(pictures), LABELS, WindowSearch(threshold=0.5))

    return _timed(find, test, training)


def of_histograms(train: np.ndarray, boxes: Boxes, test: np.ndarray, seed: int) -> Found:
    began, hard = time.perf_counter(), None
    for round_ in range(2):
        learnt = windows(train, boxes, (WINDOW, WINDOW), hard=hard, seed=seed)
        features = np.stack([_blocks(pixels).reshape(-1) for pixels in learnt.pixels])
        machine = LinearSVC(C=0.1, random_state=seed).fit(features, learnt.labels)
        hard = _by_histograms(machine, train, least=0.0) if round_ == 0 else hard
    training = time.perf_counter() - began
    return _timed(lambda pictures: _by_histograms(machine, pictures, least=-0.8), test, training)


def _blocks(pixels: np.ndarray) -> np.ndarray:
    """Normalised blocks of 2×2 cells of 4×4 pixels: (rows, columns, 36)."""
    found = hog(pixels, 9, (4, 4), (2, 2), feature_vector=False)
    return found.reshape(*found.shape[:2], -1)


def _by_histograms(machine: LinearSVC, pictures: np.ndarray, least: float) -> Boxes:
    """The windows in which a digit is ahead of the background by at least so much, without overlaps."""
    blocks = WINDOW // 4 - 1
    classes = machine.classes_.tolist()
    nothing = classes.index("background")
    found = []
    for number, picture in enumerate(pictures):
        lines = []
        for h, w in levels(picture.shape, (WINDOW, WINDOW, 1), 1.0, np.inf, 1.2):
            cells = _blocks(resized(picture[..., None], (h, w))[..., 0])
            views = np.lib.stride_tricks.sliding_window_view(cells, (blocks, blocks), axis=(0, 1))
            rows, columns = views.shape[:2]
            scores = machine.decision_function(np.moveaxis(views, 2, -1).reshape(rows * columns, -1))
            ahead = np.delete(scores, nothing, axis=1) - scores[:, nothing, None]
            best, margin = ahead.argmax(axis=1), ahead.max(axis=1)
            i, j = np.divmod(np.arange(rows * columns), columns)
            sides = (4 * j * SIDE / w, 4 * i * SIDE / h, *2 * [np.full(len(i), WINDOW * SIDE / w)])
            lines.append(np.stack([*sides, best, margin], axis=1)[margin >= least])
        together = np.concatenate(lines)
        kept = together[suppress(together[:, :4], -together[:, 5], 0.3)]
        found.append(np.column_stack([np.full(len(kept), number), kept]))
    all_ = np.concatenate(found)
    labels = np.array(np.delete(classes, nothing), object)[all_[:, 5].astype(int)]
    return Boxes(all_[:, 0].astype(int), all_[:, 1:5], labels, probability=all_[:, 6])


def _timed(find: Any, test: np.ndarray, training: float) -> Found:
    find(test[:2])
    began = time.perf_counter()
    boxes = find(test)
    return Found(boxes, training, (time.perf_counter() - began) / len(test))


def of_seed(train: Any, test: Any, seed: int, n: int) -> dict[str, Found]:
    pictures, boxes = canvases(*train, n, 1000 + seed)
    first, last = of_detector(pictures, boxes, test[0], seed)
    return {
        "detector": last,
        "detector, first round": first,
        "plain classifier": of_classifier(pictures, boxes, test[0], seed),
        "HOG and linear SVM": of_histograms(pictures, boxes, test[0], seed),
    }


def spread(values: list[float]) -> str:
    return f"{np.mean(values):.3f} ± {np.std(values):.3f}"


def by_coco(found: Boxes, truth: Boxes) -> float:
    """The same average precision by pycocotools, whose sum is over 101 recalls; here over 10,001."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    assert truth.label is not None
    assert found.label is not None
    assert found.probability is not None
    images = [{"id": int(i)} for i in np.unique(truth.picture)]
    known = [
        {
            "id": k + 1,
            "image_id": int(i),
            "category_id": int(c),
            "bbox": list(p),
            "area": p[2] * p[3],
            "iscrowd": 0,
        }
        for k, (i, c, p) in enumerate(zip(truth.picture, truth.label, truth.place, strict=True))
    ]
    theirs = COCO()
    theirs.dataset = {"images": images, "annotations": known, "categories": [{"id": c} for c in range(10)]}
    theirs.createIndex()
    rows = zip(found.picture, found.label, found.place, found.probability, strict=True)
    lines = [
        {"image_id": int(i), "category_id": int(c), "bbox": list(p), "score": float(s)} for i, c, p, s in rows
    ]
    judge = COCOeval(theirs, theirs.loadRes(lines), "bbox")
    judge.params.iouThrs, judge.params.recThrs = np.array([0.5]), np.linspace(0, 1, 10_001)
    judge.params.maxDets = [10_000] * 3
    judge.evaluate()
    judge.accumulate()
    return float(np.mean(judge.eval["precision"][0, :, :, 0, -1]))


def pictures(test: np.ndarray, found: Boxes, name: str) -> None:
    """The first canvases with the boxes of at least one half."""
    figure, axes = plt.subplots(2, 4, figsize=(16, 8))
    for i, axis in enumerate(axes.flat):
        own = found.of(i)
        axis.imshow(np.asarray(draw(test[i][..., None], own[own.probability >= 0.5], LABELS)))
        axis.axis("off")
    figure.tight_layout(pad=0.2)
    figure.savefig(RESULTS / f"{name}.png", dpi=60)
    plt.close(figure)


def curves(found: dict[str, list[Found]], truth: Boxes, n: int, name: str) -> None:
    """FROC of every way: mean over the seeds."""
    figure, axis = plt.subplots(figsize=(6, 4))
    rates = np.geomspace(0.02, 5, 60)
    for way, runs in found.items():
        reached = [curve(run.boxes, truth, n).sensitivity(tuple(rates)) for run in runs]
        axis.semilogx(rates, np.mean(reached, axis=0), label=way)
    axis.set(xlabel="false boxes a canvas", ylabel="digits found and read", ylim=(0, 1))
    axis.grid(alpha=0.3)
    axis.legend(loc="lower right", fontsize=8)
    figure.tight_layout()
    figure.savefig(RESULTS / f"{name}.png", dpi=90)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--canvases", type=int, default=400)
    parser.add_argument("--tested", type=int, default=150)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    test, truth = canvases(*digits("test"), given.tested, 2)
    found: dict[str, list[Found]] = {}
    for seed in range(given.seeds):
        for way, run in of_seed(digits("train"), (test, truth), seed, given.canvases).items():
            found.setdefault(way, []).append(run)
            print(seed, way, average_precision(run.boxes, truth), run.training, run.seconds, flush=True)
    precise, reached = [], []
    for way, runs in found.items():
        by_area = [
            spread([average_precision(run.boxes, truth, areas=areas) for run in runs])
            for areas in ((0, np.inf), *AREAS)
        ]
        boxes = spread([average_precision(run.boxes, truth, labelled=False) for run in runs])
        training = float(np.mean([run.training for run in runs]))
        precise.append([way, *by_area, boxes, training, 1000 * float(np.mean([run.seconds for run in runs]))])
        sensitivity = np.array([curve(run.boxes, truth, len(test)).sensitivity(RATES) for run in runs])
        reached.append([way, *(spread(list(column)) for column in sensitivity.T)])
    if given.write:
        pictures(test, found["detector"][0].boxes, "detection-boxes")
        curves(found, truth, len(test), "detection-froc")
    own = found["detector"][0].boxes
    peer = [
        ["thalweg.evaluate.detected", average_precision(own, truth)],
        ["pycocotools", by_coco(own, truth)],
    ]
    scales = [f"scale {scale:g}" for scale in SCALES]
    head = ["way", "all", *scales, "boxes, whatever the label", "training, s", "a canvas, ms"]
    title = f"{given.tested} test canvases, {len(truth)} digits, {given.seeds} seeds: mean ± deviation"
    parts = [
        f"{title}.\n",
        table("Average precision at IoU 0.5", head, precise),
        table("Digits found and read at so many false boxes a canvas", ["way", *map(str, RATES)], reached),
        table("The same boxes judged twice (detector, first seed)", ["by", "average precision"], peer),
    ]
    report(
        "detection", "python benchmarks/detection.py", parts, "scikit-image", "pycocotools", write=given.write
    )


if __name__ == "__main__":
    main()
