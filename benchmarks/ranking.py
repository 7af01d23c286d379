"""Decoys of proteins in the order of their quality: `ranker` under three losses beside LightGBM's LambdaRank.

The table of 45,730 decoys (`casp.npz`: nine physical measurements, and how far the decoy is from the true fold) holds
many decoys that are nearly the same, which a test must not share with training. So it is without its exact
duplicates, and divided into 40 families by k-means on all nine measurements; a fifth of the families, drawn by the
seed, is the test. Within a family the rows, sorted by their surface (the first measurement), are cut into queries of
40. Relevance is 0 to 4 by quantiles of the distance among training rows (50 %, 70 %, 85 % and 95 % are worse). A
tenth of the training queries says when to stop, for every method. NDCG@10 has exponential gains, in LightGBM's
training too; queries without anything relevant are left out of the means. Three nearest neighbours stand beside, to
show how much is looked up.

    python benchmarks/ranking.py [--write] [--seeds 0,1,2,3,4] [--keep FILE]
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import lightgbm
import numpy as np
import pyarrow as pa
from sklearn.cluster import KMeans
from sklearn.neighbors import KNeighborsRegressor

import tables
import thalweg
from keeping import kept
from machine import report, table
from thalweg.evaluate.ranking import average_precision, mean_over_lists, ndcg

#: Families of decoys, and rows of a query.
FAMILIES, ROWS = 40, 40
WORSE = (0.5, 0.7, 0.85, 0.95)
#: Relevance from which a row counts as relevant in average precision.
RELEVANT = 2
LEAVES = (15, 63)

Split = tuple[np.ndarray, np.ndarray, np.ndarray]  # measurements, relevance, query


def splits(seed: int) -> tuple[Split, Split]:
    """Training and test queries."""
    casp = np.unique(tables.numbers("casp"), axis=0)
    distance, x = casp[:, 0], casp[:, 1:]
    family = KMeans(FAMILIES, n_init=1, random_state=0).fit_predict((x - x.mean(axis=0)) / x.std(axis=0))
    query, count = np.empty(len(x), int), 0
    for rows in (np.flatnonzero(family == f) for f in range(FAMILIES)):
        for part in np.array_split(rows[np.argsort(x[rows, 0])], max(1, len(rows) // ROWS)):
            query[part], count = count, count + 1
    test = np.isin(family, np.random.default_rng(seed).permutation(FAMILIES)[: FAMILIES // 5])
    limits = np.quantile(-distance[~test], WORSE)
    relevance = np.searchsorted(limits, -distance, side="right")
    return tuple((x[part], relevance[part], query[part]) for part in (~test, test))  # type: ignore[return-value]


def frame(split: Split) -> pa.Table:
    x, relevance, query = split
    return (
        tables.frame(x)
        .append_column("query", pa.array(query))
        .append_column("relevance", pa.array(relevance))
    )


def ours(loss: str) -> Callable[[Split, Split, int], np.ndarray]:
    def scores(train: Split, test: Split, seed: int) -> np.ndarray:
        model = thalweg.fit(
            frame(train),
            "ranker",
            target="relevance",
            query="query",
            loss=loss,
            calibrate=False,
            seed=seed,
            progress=False,
        )
        return -model.energy(frame(test))

    return scores


def boosted(train: Split, test: Split, seed: int) -> np.ndarray:
    """LambdaRank on trees, its number of leaves and of trees chosen on the queries held out."""
    x, relevance, query = train
    aside = np.isin(
        query, np.random.default_rng(seed).permutation(np.unique(query))[: len(np.unique(query)) // 10]
    )

    def dataset(part: np.ndarray) -> lightgbm.Dataset:
        rows = np.flatnonzero(part)[np.argsort(query[part], kind="stable")]
        return lightgbm.Dataset(x[rows], relevance[rows], group=np.unique(query[rows], return_counts=True)[1])

    best = None
    for leaves in LEAVES:
        fitted = lightgbm.train(
            {
                "objective": "lambdarank",
                "metric": "ndcg",
                "eval_at": [10],
                "lambdarank_truncation_level": 13,
                "num_leaves": leaves,
                "learning_rate": 0.05,
                "seed": seed,
                "verbosity": -1,
            },
            dataset(~aside),
            num_boost_round=1000,
            valid_sets=[dataset(aside)],
            callbacks=[lightgbm.early_stopping(50, verbose=False)],
        )
        value = fitted.best_score["valid_0"]["ndcg@10"]
        if best is None or value > best[0]:
            best = value, fitted
    assert best is not None
    return best[1].predict(test[0])


def neighbours(train: Split, test: Split, seed: int) -> np.ndarray:
    """The mean relevance of the three nearest rows."""
    scale = train[0].std(axis=0)
    return KNeighborsRegressor(3).fit(train[0] / scale, train[1]).predict(test[0] / scale)


METHODS: dict[str, Callable[[Split, Split, int], np.ndarray]] = {
    "ranker, lambda-rank": ours("lambda-rank"),
    "ranker, rank-net": ours("rank-net"),
    "ranker, list-net": ours("list-net"),
    "LightGBM, LambdaRank": boosted,
    "three nearest neighbours": neighbours,
    "by chance": lambda train, test, seed: np.random.default_rng(seed).random(len(test[0])),
}


def judged(scores: np.ndarray, test: Split) -> tuple[float, float]:
    """Mean NDCG@10 and average precision over the test queries."""
    _, relevance, query = test
    lists = [np.flatnonzero(query == q) for q in np.unique(query)]
    return (
        mean_over_lists(np.array([ndcg(scores[rows], relevance[rows], 10) for rows in lists])),
        mean_over_lists(
            np.array([average_precision(scores[rows], relevance[rows] >= RELEVANT) for rows in lists])
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--keep", type=Path, help="a file of what is measured already")
    given = parser.parse_args()
    seeds = [int(seed) for seed in given.seeds.split(",")]
    found: dict[str, list[list[float]]] = {name: [] for name in METHODS}
    for seed in seeds:
        train, test = splits(seed)
        for name, method in METHODS.items():

            def measure(method=method, train=train, test=test, seed=seed) -> list[float]:
                started = time.perf_counter()
                return [*judged(method(train, test, seed), test), time.perf_counter() - started]

            found[name].append(kept(given.keep, [name, seed], measure))
            print(seed, name, *(f"{value:.4f}" for value in found[name][-1]), file=sys.stderr, flush=True)
    values = {name: np.array(runs) for name, runs in found.items()}
    error = np.sqrt(len(seeds))
    lines = [
        [
            name,
            *(f"{runs[:, i].mean():.4f} ± {runs[:, i].std(ddof=1) / error:.4f}" for i in (0, 1)),
            float(runs[:, 2].mean()),
        ]
        for name, runs in values.items()
    ]
    peer = values["LightGBM, LambdaRank"][:, 0]
    apart = [
        [name, f"{np.mean(runs[:, 0] - peer):+.4f} ± {np.std(runs[:, 0] - peer, ddof=1) / error:.4f}"]
        for name, runs in values.items()
        if name.startswith("ranker")
    ]
    train, test = splits(0)
    empty = np.mean([not test[1][test[2] == q].any() for q in np.unique(test[2])])
    parts = [
        f"{len(np.unique(train[2]))} training and {len(np.unique(test[2]))} test queries of about {ROWS} rows; "
        f"{empty:.1%} of these have nothing relevant and are left out. Means over {len(seeds)} seeds (splits and "
        f"methods) with their standard errors. Seconds: fit and score, on a busy machine; of LightGBM over "
        f"{len(LEAVES)} numbers of leaves.",
        "",
        table(
            "Test queries",
            ["method", "NDCG@10", f"average precision (relevance ≥ {RELEVANT})", "seconds"],
            lines,
        ),
        table("NDCG@10 less LightGBM's, on the same splits", ["method", "difference"], apart),
    ]
    report("ranking", "python benchmarks/ranking.py", parts, "lightgbm", write=given.write)


if __name__ == "__main__":
    main()
