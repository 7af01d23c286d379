"""False alarms on fresh rows at a rate asked for: every recipe, six tables, some seeds.

A model is fitted on half of a table and scores the other half. Over draws of the calibration rows (c of them) and of
the fresh rows (f), how many of these are flagged at alpha is beta-binomial with f trials, k = floor(alpha (c + 1)) and
c + 1 - k: Vovk, Gammerman & Shafer (2005). p is the two-sided probability of a number as odd as the one found.

    python benchmarks/calibration.py [--write] [--recipes gmm,pca] [--tables casp] [--seeds 40]
"""

import argparse
import sys
import warnings

import numpy as np
from scipy.stats import betabinom

import tables
import thalweg
from machine import report, table
from thalweg.models import RECIPES

NAMES = ("breast cancer", "cardio", "digits", "pendigits", "magic.gamma", "casp")
RATES = (0.01, 0.05, 0.1)


def judge(name: str, recipe: str, seed: int) -> list[tuple[float, float]]:
    """(rate of flags, p) at each alpha."""
    x = tables.numbers(name)
    x = x[np.random.default_rng(seed).permutation(len(x))[:10_000]]
    half = len(x) // 2
    model = thalweg.fit(tables.frame(x[:half]), recipe, seed=seed, progress=False)
    p_values = model.score(tables.frame(x[half:])).p_value
    held, fresh = len(model.calibration.energies), len(p_values)
    found = []
    for alpha in RATES:
        flagged = int(np.sum(p_values <= alpha))
        found.append((flagged / fresh, oddity(flagged, fresh, held, int(np.floor(alpha * (held + 1))))))
    return found


def oddity(flagged: int, fresh: int, held: int, k: int) -> float:
    if k == 0:  # no p-value is so small: nothing may be flagged
        return float(flagged == 0)
    law = betabinom(fresh, k, held + 1 - k)
    return float(min(1, 2 * min(law.cdf(flagged), law.sf(flagged - 1))))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--recipes", default=",".join(RECIPES))
    parser.add_argument("--tables", default=",".join(NAMES))
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    lines: list[list[object]] = []
    chances: list[float] = []
    for recipe in given.recipes.split(","):
        for name in given.tables.split(","):
            found = np.array([judge(name, recipe, seed) for seed in range(given.seeds)])
            rates, p = found[..., 0].mean(axis=0), found[..., 1]
            chances.extend(p.ravel().tolist())
            lines.append([recipe, name, *map(float, rates), float(p.min())])
            print(lines[-1], file=sys.stderr, flush=True)
    columns = ["recipe", "table", *(f"rate at {alpha:g}" for alpha in RATES), "least p"]
    below = ", ".join(f"{np.mean(np.array(chances) < level):.1%} below {level:g}" for level in (0.05, 0.01))
    parts = [
        table(f"Share of fresh rows flagged, mean of {given.seeds} seeds", columns, lines),
        f"Of {len(chances)} p {below}. They are not independent: recipes share a table's rows, rates their flags.",
    ]
    report("calibration", "python benchmarks/calibration.py", parts, write=given.write)


if __name__ == "__main__":
    main()
