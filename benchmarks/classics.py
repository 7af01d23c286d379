"""Optimum and time of `pca`, `kmeans` and `gmm` beside scikit-learn's, from the same starts.

    python benchmarks/classics.py                 digits; casp too where THALWEG_DATA is set
    python benchmarks/classics.py --mnist         the 60,000 digits of MNIST too (minutes)
    python benchmarks/classics.py --write         and results/classics.md

The optimum is the mean energy of a row: nats for pca and gmm, the squared distance for kmeans. "first" is a
first call with its compilation, "again" and scikit-learn's the best of up to five more.
"""

import argparse
import os
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import sklearn
from sklearn.cluster import KMeans, kmeans_plusplus
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from thalweg.models import em, kmeans, pca
from thalweg.models.gaussian import double_precision
from thalweg.models.gmm import initial_parameters

RESULTS = Path(__file__).parent / "results" / "classics.md"
HEADER = "| data | model | ours | scikit-learn | relative difference | first s | again s | scikit-learn s | ratio |"
ITERATIONS = 20


@dataclass
class Line:
    data: str
    model: str
    ours: float
    theirs: float
    first: float
    again: float
    reference: float

    def __str__(self) -> str:
        difference = abs(self.ours / self.theirs - 1)
        return (
            f"| {self.data} | {self.model} | {self.ours:.6g} | {self.theirs:.6g} | {difference:.1e} | "
            f"{self.first:.2f} | {self.again:.3f} | {self.reference:.3f} | {self.again / self.reference:.2f} |"
        )


def timed(function: Callable[[], float], repeats: int = 1) -> tuple[float, float]:
    """The value, and the least time of `repeats` calls (one where a call is slow)."""
    times: list[float] = []
    while len(times) < repeats and sum(times) < 3:
        start = time.perf_counter()
        value = function()
        times.append(time.perf_counter() - start)
    return value, min(times)


def compare(data: str, model: str, ours: Callable[[], float], theirs: Callable[[], float]) -> Line:
    _, first = timed(ours)
    value, again = timed(ours, 5)
    expected, reference = timed(theirs, 5)
    return Line(data, model, value, expected, first, again, reference)


def principal_components(data: str, values: np.ndarray) -> Line:
    q = min(20, values.shape[1] // 2)
    n = len(values)

    def ours() -> float:
        found = pca.principal(values)
        return pca.mean_energy(found, pca.maximum(found, q))

    def theirs() -> float:
        fitted = PCA(q, svd_solver="covariance_eigh").fit(values)
        # The likelihood's maximum divides by n, scikit-learn by n - 1.
        variances = fitted.explained_variance_ * (n - 1) / n
        noise, e = fitted.noise_variance_ * (n - 1) / n, values.shape[1]
        return float(0.5 * (e * np.log(2 * np.pi) + np.log(variances).sum() + (e - q) * np.log(noise) + e))

    return compare(data, f"pca {q}", ours, theirs)


def k_means(data: str, values: np.ndarray) -> Line:
    start = kmeans_plusplus(values, 10, random_state=0)[0]

    def ours() -> float:
        return float(kmeans.lloyd(jnp.asarray(values), None, jnp.asarray(start)).energy)

    def theirs() -> float:
        return KMeans(10, init=start, n_init=1).fit(values).inertia_ / len(values)

    return compare(data, "kmeans 10", ours, theirs)


def mixtures(data: str, values: np.ndarray, ridge: float) -> Iterator[Line]:
    labels = KMeans(10, n_init=1, random_state=0).fit(values).labels_
    for form, name in (("full", "full"), ("diagonal", "diag"), ("tied", "tied")):
        with double_precision():
            initial = initial_parameters(
                jnp.asarray(values, jnp.float64), jax.nn.one_hot(labels, 10), form=form, ridge=ridge
            )
            initial = jax.tree.map(np.asarray, initial)

        def ours(form=form, initial=initial) -> float:
            cells = em.split(values, np.ones(values.shape, bool), 10, form)
            with double_precision():
                start = jax.tree.map(jnp.asarray, initial)
                trace = em.expectation_maximisation(
                    cells, start, form=form, ridge=ridge, iterations=ITERATIONS, tolerance=0
                )
                return -float(trace.curve[trace.step - 1])

        def theirs(name=name, form=form, initial=initial) -> float:
            mixture = GaussianMixture(
                10,
                covariance_type=name,
                weights_init=np.exp(initial.log_weights),
                means_init=initial.means,
                precisions_init=precisions(initial.factors, form),
                reg_covar=ridge,
                max_iter=ITERATIONS,
                tol=0,
            )
            with warnings.catch_warnings():
                # That it has not converged after so many steps is what was asked for.
                warnings.simplefilter("ignore", ConvergenceWarning)
                return -mixture.fit(values.astype(np.float64)).lower_bound_

        yield compare(data, f"gmm 10 {form}, {ITERATIONS} steps", ours, theirs)


def precisions(factors: np.ndarray, form: str) -> np.ndarray:
    if form == "diagonal":
        return 1 / factors**2
    return np.linalg.inv(factors @ np.swapaxes(factors, -1, -2))


def standardised(values: np.ndarray) -> np.ndarray:
    values = values[:, values.std(axis=0) > 0]
    # Row after row, as a table comes from a file; a selection of columns leaves column after column.
    return np.ascontiguousarray((values - values.mean(axis=0)) / values.std(axis=0), np.float32)


def tables(mnist: bool) -> Iterator[tuple[str, np.ndarray]]:
    yield "digits", standardised(load_digits().data)
    folder = os.environ.get("THALWEG_DATA")
    if not folder:
        print("THALWEG_DATA is not set: digits only")
        return
    yield "casp", standardised(np.load(Path(folder) / "casp.npz")["x"].astype(np.float64))
    if mnist:
        pixels = np.load(Path(folder) / "mnist.npz")["x_train"].reshape(60_000, -1).astype(np.float32) / 255
        yield "mnist", pixels - pixels.mean(axis=0)


def lines(mnist: bool) -> Iterator[Line]:
    for data, values in tables(mnist):
        yield principal_components(data, values)
        yield k_means(data, values)
        if data != "mnist":
            yield from mixtures(data, values, ridge=1e-3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mnist", action="store_true", help="MNIST too")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    asked = parser.parse_args()
    rows = [HEADER, "|" + "---|" * 9]
    print("\n".join(rows))
    for line in lines(asked.mnist):
        rows.append(str(line))
        print(line, flush=True)
    if asked.write:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(f"# Classics beside scikit-learn\n\n{about()}\n\n" + "\n".join(rows) + "\n")


def about() -> str:
    """The machine, the versions, and what the columns say."""
    device = jax.devices()[0]
    load = os.getloadavg()[0]
    return (
        f"{os.cpu_count()} cores ({platform.machine()}, {device.platform}), other work on them at the time "
        f"(load {load:.0f}). Python {platform.python_version()}, jax {jax.__version__}, scikit-learn "
        f"{sklearn.__version__}, numpy {np.__version__}.\n\n{__doc__.split(chr(10) * 2)[-1].strip()} The ratio is "
        "again / scikit-learn; below 1 we are faster. Same start on both sides; the ridge of gmm is 1e-3."
    )


if __name__ == "__main__":
    main()
