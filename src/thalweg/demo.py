"""The main job: fit the default to 1,797 handwritten digits, and judge every answer against other methods."""

import json as json_format
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from threadpoolctl import threadpool_limits

from thalweg.data.load import load
from thalweg.errors import OutputError
from thalweg.evaluate.calibration import calibration_curve
from thalweg.evaluate.detection import auroc
from thalweg.evaluate.likelihood import bits_per_dimension
from thalweg.fitting import fit
from thalweg.model import Model
from thalweg.report.html import Section, table

#: The digit that the anomaly experiment leaves out of training; `benchmarks/anomaly.py` does all ten.
LEFT_OUT = "9"
ALPHAS = np.array([0.01, 0.05, 0.1, 0.2, 0.5])
LEVELS = 17


def run(out: str | None = None, *, json: bool = False, seed: int = 0) -> dict[str, Any]:
    """Fit, compare, print and report; about a minute and a half on two cores. Returns the figures."""
    directory = Path(out or "digits-demo")
    results_file = directory / "demo.json"
    if directory.exists() and any(directory.iterdir()) and not results_file.exists():
        raise OutputError(f"{directory} is not empty and no earlier demonstration: choose another --out")
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - began:5.1f} s] {line}", file=sys.stderr, flush=True)

    digits = load("digits")
    train, test = _split(digits.table, seed)
    say(f"fitting orderless to {len(train):,} digits; {len(test)} are held out")
    known = replace(digits, table=train, name="digits, three quarters")
    model = fit(known, target="label", seed=seed, out=directory, force=True, log=say)
    sections = []
    figures: dict[str, Any] = {"train": len(train), "test": len(test)}
    for name, compare in (
        ("likelihood", _likelihood),
        ("completion", _completion),
        ("classification", _classification),
        ("anomaly", _anomaly),
        ("calibration", _calibration),
    ):
        say(name)
        # The peers' many small products are slower on several threads than on one.
        with warnings.catch_warnings(), threadpool_limits(1):
            warnings.simplefilter("ignore")
            figures[name] = compare(model, train, test, seed)
        sections.append(_section(name, figures[name]))
    figures["seconds"] = round(time.monotonic() - began, 1)
    results_file.write_text(json_format.dumps(figures, indent=1))
    from thalweg.report.page import write_report

    fresh = replace(digits, table=test, name="digits, the held-out quarter")
    report = write_report(model, directory / "report.html", fresh, force=True, extra_sections=sections)
    _show(figures, directory, report, json)
    return figures


# --- the comparisons: each returns {title, unit, rows: [(method, value...)], better} ---------------------------------


def _likelihood(model: Model, train: pa.Table, test: pa.Table, seed: int) -> dict[str, Any]:
    """Held-out nats an image, the label unknown to all."""
    x, y = _pixels(train), _pixels(test)
    rows = {
        "thalweg orderless": float(model.energy(test.drop_columns(["label"])).mean()),
        "per-pixel logistic autoregression": _logistic_autoregression(x, y),
        "full GMM, 10 components (a bound, by dequantisation)": _gmm_bound(x, y, seed),
    }
    return {
        "title": "Held-out likelihood of a digit: 64 pixels of 17 grey levels",
        "columns": ["nats", "bits/dim"],
        "rows": {name: [nats, bits_per_dimension(nats, x.shape[1])] for name, nats in rows.items()},
        "better": "lower",
    }


def _logistic_autoregression(x: np.ndarray, y: np.ndarray) -> float:
    """A multinomial logistic regression of each pixel on those before it."""
    from sklearn.linear_model import LogisticRegression

    nats = np.zeros(len(y))
    for d in range(x.shape[1]):
        prior = (np.bincount(x[:, d].astype(int), minlength=LEVELS) + 1) / (len(x) + LEVELS)
        shares = np.tile(prior, (len(y), 1))
        seen = np.unique(x[:, d]).astype(int)
        if d and len(seen) > 1:
            peer = LogisticRegression(C=0.03, max_iter=100).fit(x[:, :d] / 4, x[:, d])
            shares = 0.01 * shares
            shares[:, seen] += 0.99 * peer.predict_proba(y[:, :d] / 4)
        nats -= np.log(shares[np.arange(len(y)), y[:, d].astype(int)])
    return float(nats.mean())


def _gmm_bound(x: np.ndarray, y: np.ndarray, seed: int) -> float:
    """A density's bound on the mass of a grey level: its mean negative log density over the level's unit bin."""
    from sklearn.mixture import GaussianMixture

    generator = np.random.default_rng(seed)
    peer = GaussianMixture(10, reg_covar=0.1, random_state=seed).fit(x + generator.random(x.shape))
    return float(-np.mean([peer.score(y + generator.random(y.shape)) for _ in range(10)]))


def _completion(model: Model, train: pa.Table, test: pa.Table, seed: int) -> dict[str, Any]:
    """Root mean squared error on the lower half of the image, seen the upper half."""
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer

    x, truth = _pixels(train), _pixels(test)
    lower = np.arange(64) >= 32
    half = test.drop_columns(
        ["label"] + [name for name, low in zip(test.column_names, lower, strict=False) if low]
    )
    holed = np.where(lower, np.nan, truth)
    guess = {"thalweg orderless": _pixels(model.complete(_with_missing(half, test)))}
    peers = {
        "mean": SimpleImputer(keep_empty_features=True),
        "KNNImputer": KNNImputer(keep_empty_features=True),
        "IterativeImputer": IterativeImputer(random_state=seed, keep_empty_features=True),
    }
    for name, peer in peers.items():
        guess[name] = peer.fit(x).transform(holed)
    errors = {
        name: float(np.sqrt(((values - truth)[:, lower] ** 2).mean())) for name, values in guess.items()
    }
    return {
        "title": "Lower half of the image from the upper half",
        "columns": ["RMSE (grey levels)"],
        "rows": {name: [error] for name, error in errors.items()},
        "better": "lower",
    }


def _classification(model: Model, train: pa.Table, test: pa.Table, seed: int) -> dict[str, Any]:
    """Accuracy of the label of least energy."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier

    labels, truth = _labels(train), _labels(test)
    x, y = _pixels(train), _pixels(test)
    predicted = np.array([str(value) for value in model.predict(test, "label").value.to_pylist()])
    rows = {"thalweg orderless": float((predicted == truth).mean())}
    for name, peer in (
        ("k nearest neighbours (5)", KNeighborsClassifier(5)),
        ("logistic regression", LogisticRegression(max_iter=1000)),
    ):
        rows[name] = float((peer.fit(x / 16, labels).predict(y / 16) == truth).mean())
    return {
        "title": "The label of least energy",
        "columns": ["accuracy"],
        "rows": {name: [value] for name, value in rows.items()},
        "better": "higher",
    }


def _anomaly(model: Model, train: pa.Table, test: pa.Table, seed: int) -> dict[str, Any]:
    """Detection of the digit that training never saw, among held-out digits."""
    from sklearn.neighbors import KernelDensity, NearestNeighbors

    known = train.filter(pa.array(_labels(train) != LEFT_OUT)).drop_columns(["label"])
    odd = _labels(test) == LEFT_OUT
    without = fit(known, seed=seed, progress=False)
    scored = without.score(test.drop_columns(["label"]))
    x, y = _pixels(known) / 16, _pixels(test) / 16
    neighbours = NearestNeighbors(n_neighbors=5).fit(x).kneighbors(y)[0][:, -1]
    density = KernelDensity(bandwidth=0.3).fit(x).score_samples(y)
    scores = {
        "thalweg orderless, score": scored.surprise,
        "thalweg orderless, energy alone": scored.energy,
        "distance to the 5th neighbour": neighbours,
        "kernel density": -density,
    }
    return {
        "title": f"Digits {LEFT_OUT} as anomalies, after training without them",
        "columns": ["AUROC"],
        "rows": {name: [auroc(values, odd)] for name, values in scores.items()},
        "better": "higher",
    }


def _calibration(model: Model, train: pa.Table, test: pa.Table, seed: int) -> dict[str, Any]:
    """The share of fresh rows flagged at each false-alarm rate, with the range expected by chance."""
    p_values = model.score(test, alpha=0.05).p_value
    shares = calibration_curve(p_values, ALPHAS)
    m = len(model.calibration.energies)
    spread = np.sqrt(ALPHAS * (1 - ALPHAS) * (1 / len(test) + 1 / m))
    return {
        "title": "False alarms on fresh rows",
        "columns": ["flagged", "chance range from", "to"],
        "rows": {
            f"alpha = {alpha:g}": [float(share), max(0.0, float(alpha - 2 * s)), float(alpha + 2 * s)]
            for alpha, share, s in zip(ALPHAS, shares, spread, strict=True)
        },
        "better": "inside",
    }


# --- helpers ---------------------------------------------------------------------------------------------------------


def _split(digits: pa.Table, seed: int) -> tuple[pa.Table, pa.Table]:
    """Three quarters to train and one to test, every digit in proportion."""
    from sklearn.model_selection import train_test_split

    index = np.arange(len(digits))
    train, test = train_test_split(index, test_size=0.25, stratify=_labels(digits), random_state=seed)
    return digits.take(np.sort(train)), digits.take(np.sort(test))


def _pixels(digits: pa.Table) -> np.ndarray:
    return np.stack([digits[name].to_numpy() for name in digits.column_names[:64]], axis=1).astype(np.float64)


def _labels(digits: pa.Table) -> np.ndarray:
    return np.array([str(value) for value in digits["label"].to_pylist()])


def _with_missing(half: pa.Table, like: pa.Table) -> pa.Table:
    """The columns of `like`, null where `half` has none."""
    columns = {
        name: half[name] if name in half.column_names else pa.nulls(len(half), like.schema.field(name).type)
        for name in like.column_names
    }
    return pa.table(columns)


def _section(name: str, result: dict[str, Any]) -> Section:
    rows = [[method, *values] for method, values in result["rows"].items()]
    body = table(["", *result["columns"]], rows, numeric=result["columns"])
    return Section(f"demo-{name}", name.capitalize(), result["title"], f"{result['better']} is better", body)


def _show(figures: dict[str, Any], directory: Path, report: Path, json: bool) -> None:
    if json:
        print(json_format.dumps(figures | {"model": str(directory), "report": str(report)}))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for result in figures.values():
        if not isinstance(result, dict):
            continue
        shown = Table(title=f"{result['title']} ({result['better']} is better)", title_justify="left")
        shown.add_column("")
        for column in result["columns"]:
            shown.add_column(column, justify="right")
        for method, values in result["rows"].items():
            shown.add_row(method, *(f"{value:.4g}" for value in values))
        console.print(shown)
    console.print(f"{figures['seconds']} s. The model is in {directory}, its report is {report}")
    console.print(f"next: thalweg explain {directory} digits --top 3")
