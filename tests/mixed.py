"""A mixed table made from scikit-learn's wines: numbers, counts, categories, a flag, dates and missing cells."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
from sklearn.datasets import load_wine


def mixed_table(seed: int = 0) -> pa.Table:
    wine = load_wine()
    generator = np.random.default_rng(seed)
    n = len(wine.target)
    alcohol, proline, hue = (
        wine.data[:, wine.feature_names.index(name)] for name in ("alcohol", "proline", "hue")
    )
    first = np.datetime64("2021-03-01")
    columns = {
        "alcohol": alcohol,
        "hue": hue,
        "proline": proline.astype(np.int64),
        "bottles": (generator.poisson(3, n) + wine.target).astype(np.int64),
        "cultivar": np.array(["Barolo", "Grignolino", "Barbera"])[wine.target],
        "organic": np.where(generator.random(n) < 0.2 + 0.3 * (wine.target == 1), "yes", "no"),
        "bottled": first + (30 * wine.target + generator.integers(0, 60, n)).astype("timedelta64[D]"),
        "cellar": np.full(n, "north"),
    }
    holes = {name: generator.random(n) < 0.05 for name in columns if name not in ("cellar", "bottled")}
    return pa.table({name: pa.array(values, mask=holes.get(name)) for name, values in columns.items()})


def write_mixed(path: Path, seed: int = 0) -> Path:
    pyarrow.csv.write_csv(mixed_table(seed), path)
    return path
