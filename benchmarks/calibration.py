"""False alarms on fresh rows at a rate asked for: every recipe, six tables, three seeds.

A model is fitted on half of a table and scores the other half. The rate of flags at alpha has, over draws of the
calibration rows (c of them) and of the fresh rows (f), the mean floor(alpha (c + 1)) / (c + 1) and a variance of
about alpha (1 - alpha) (1/c + 1/f): Vovk, Gammerman & Shafer (2005). z is the distance from it in deviations.

    python benchmarks/calibration.py [--write] [--recipes gmm,pca]
"""

import argparse
import sys
import warnings

import numpy as np

import tables
import thalweg
from machine import report, table
from thalweg.models import RECIPES

NAMES = ("breast cancer", "cardio", "digits", "pendigits", "magic.gamma", "casp")
RATES = (0.01, 0.05, 0.1)
SEEDS = 3


def judge(name: str, recipe: str, seed: int) -> list[tuple[float, float]]:
    """(rate of flags, z) at each alpha."""
    x = tables.numbers(name)
    x = x[np.random.default_rng(seed).permutation(len(x))[:10_000]]
    half = len(x) // 2
    model = thalweg.fit(tables.frame(x[:half]), recipe, seed=seed, progress=False)
    p_values = model.score(tables.frame(x[half:])).p_value
    held, fresh = len(model.calibration.energies), len(p_values)
    found = []
    for alpha in RATES:
        rate = float(np.mean(p_values <= alpha))
        expected = np.floor(alpha * (held + 1)) / (held + 1)
        deviation = np.sqrt(alpha * (1 - alpha) * (1 / held + 1 / fresh))
        found.append((rate, float((rate - expected) / deviation)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--recipes", default=",".join(RECIPES))
    parser.add_argument("--tables", default=",".join(NAMES))
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    lines: list[list[object]] = []
    scores: list[float] = []
    for recipe in given.recipes.split(","):
        for name in given.tables.split(","):
            found = np.array([judge(name, recipe, seed) for seed in range(SEEDS)])
            rates, z = found[..., 0].mean(axis=0), found[..., 1]
            scores.extend(z.ravel().tolist())
            lines.append([recipe, name, *map(float, rates), float(np.abs(z).max())])
            print(lines[-1], file=sys.stderr, flush=True)
    beyond = float(np.mean(np.abs(scores) > 2))
    columns = ["recipe", "table", *(f"rate at {alpha:g}" for alpha in RATES), "largest |z|"]
    parts = [
        table("Share of fresh rows flagged, mean of three seeds", columns, lines),
        f"Of {len(scores)} rates {beyond:.1%} lie beyond two deviations (about 5 % would by chance); "
        f"their mean z is {np.mean(scores):+.2f} ± {1 / np.sqrt(len(scores)):.2f}.",
    ]
    report("calibration", "python benchmarks/calibration.py", parts, write=given.write)


if __name__ == "__main__":
    main()
