"""Held-out nats on scikit-learn's digits binarised at > 8: the first 1,347 rows train, the rest test.

`python benchmarks/binarised_digits.py [--write]`
"""

import sys
import time
from dataclasses import asdict

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from machine import report, table
from thalweg.data.rows import Rows
from thalweg.energy.spaces import Column, Record
from thalweg.learning.run import Run
from thalweg.models.orderless import ORDERLESS, Orderless
from thalweg.models.recipe import Problem

TRAIN = 1347
ORDERINGS = 16
#: Chosen one by one by the nats of the last tenth of the training rows, which come from other writers than the first:
#: dropout 0.5 or 0.6; width 512 or 768; 2 or 3 layers; 4,000 or 8,000 steps.
SETTINGS = {"width": 768, "dropout": 0.5, "steps": 8000, "batch": 256, "learning_rate": 1e-3}


def bits() -> tuple[np.ndarray, np.ndarray]:
    x = (load_digits().data > 8).astype(np.float32)
    return x[:TRAIN], x[TRAIN:]


def independent(train: np.ndarray, test: np.ndarray) -> float:
    p = (train.sum(axis=0) + 1) / (len(train) + 2)
    return float(-(test * np.log(p) + (1 - test) * np.log(1 - p)).sum(axis=1).mean())


def logistic_autoregression(train: np.ndarray, test: np.ndarray) -> float:
    """A fully visible belief net: one logistic regression a pixel, C = 0.3."""
    nats = np.zeros(len(test))
    for d in range(train.shape[1]):
        share = (train[:, d].sum() + 1) / (len(train) + 2)
        p = np.full(len(test), share)
        if d and 0 < train[:, d].sum() < len(train):
            peer = LogisticRegression(C=0.3, max_iter=1000).fit(train[:, :d], train[:, d])
            p = np.clip(peer.predict_proba(test[:, :d])[:, 1], 1e-6, 1 - 1e-6)
        nats -= np.where(test[:, d] > 0, np.log(p), np.log(1 - p))
    return float(nats.mean())


def bernoulli_mixture(train: np.ndarray, test: np.ndarray, k: int = 50, iterations: int = 100) -> float:
    generator = np.random.default_rng(0)
    p = 0.25 + 0.5 * generator.random((k, train.shape[1]))
    w = np.full(k, 1 / k)

    def joint(x: np.ndarray) -> np.ndarray:
        return np.log(w) + x @ np.log(p).T + (1 - x) @ np.log(1 - p).T

    for _ in range(iterations):
        logits = joint(train)
        r = np.exp(logits - np.logaddexp.reduce(logits, axis=1)[:, None])
        w = (r.sum(axis=0) + 1e-3) / (r.sum() + k * 1e-3)
        p = (r.T @ train + 0.5) / (r.sum(axis=0)[:, None] + 1)
    return float(-np.logaddexp.reduce(joint(test), axis=1).mean())


def orderless(train: np.ndarray, test: np.ndarray, **settings: object) -> tuple[float, float, float, int]:
    """Nats by one ordering (the mean over all) and by their mixture, seconds of fitting, steps.

    The defaults stop on the last tenth of the rows; a given number of steps is taken on all of them.
    """
    space = Record(tuple(Column(f"pixel_{d}", "categorical", 2, pixel=True) for d in range(train.shape[1])))
    configured = ORDERLESS.configure({"orderings": ORDERINGS, **settings})
    cut = len(train) if settings else len(train) - len(train) // 10
    rows = [Rows(x, np.ones(x.shape, bool), np.zeros(len(x), int)) for x in (train[:cut], train[cut:])]
    began = time.perf_counter()
    result = ORDERLESS.train(Problem(space, rows[0], rows[1], configured, jax.random.key(0), Run()))
    seconds = time.perf_counter() - began
    F = result.energy
    assert isinstance(F, Orderless)
    known = jnp.ones(train.shape[1], bool)

    @jax.jit
    def along(order, y):
        return jax.vmap(lambda y: F._chain_log_prob(order, y, known))(y)

    log_probs = np.stack([np.asarray(along(order, jnp.asarray(test))) for order in F.orders])
    mixture = np.logaddexp.reduce(log_probs, axis=0) - np.log(ORDERINGS)
    return float(-log_probs.mean()), float(-mixture.mean()), seconds, result.steps


def main() -> None:
    train, test = bits()
    one, mixed, seconds, steps = orderless(train, test, **SETTINGS)
    plain_one, plain_mixed, plain_seconds, plain_steps = orderless(train, test)
    began = time.perf_counter()
    logistic = logistic_autoregression(train, test)
    logistic_seconds = time.perf_counter() - began
    rows = [
        ["thalweg orderless, 16 orderings", mixed, mixed / logistic, seconds],
        ["thalweg orderless, one ordering", one, one / logistic, seconds],
        ["the same with its defaults, 16 orderings", plain_mixed, plain_mixed / logistic, plain_seconds],
        ["the same with its defaults, one ordering", plain_one, plain_one / logistic, plain_seconds],
        ["per-pixel logistic autoregression", logistic, 1.0, logistic_seconds],
        ["Bernoulli mixture, 50 components", bernoulli_mixture(train, test), "", ""],
        ["independent Bernoullis", independent(train, test), "", ""],
    ]
    settings = ", ".join(f"{k}={v}" for k, v in asdict(ORDERLESS.settings()).items())
    given = ", ".join(f"{k}={v}" for k, v in SETTINGS.items())
    parts = [
        table("Test nats a row (lower is better)", ["method", "nats", "ratio to logistic", "fit s"], rows),
        f"orderless ran {steps:,} steps on all {TRAIN:,} rows with {given}, and otherwise its defaults ({settings}); "
        f"with its defaults {plain_steps:,} steps, stopped by the last tenth of the rows. One ordering is the mean "
        "over the 16.\n",
    ]
    report("binarised_digits", "python benchmarks/binarised_digits.py", parts, write="--write" in sys.argv)


if __name__ == "__main__":
    main()
