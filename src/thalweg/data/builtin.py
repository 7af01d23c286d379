"""Data that is always there: four real sets that ship with scikit-learn, and the toys."""

import numpy as np
import pyarrow as pa

from thalweg import there
from thalweg.data.dataset import Dataset, mark_pixels

_TOY_ROWS = 2000


def read(name: str) -> Dataset:
    """A built-in data set; the toys are 2,000 draws at a fixed seed."""
    if name in there.TOYS:
        return _toy(name)
    return _digits() if name == "digits" else _table(name)


def _digits() -> Dataset:
    """1,797 handwritten digits of 8×8 pixels with 17 grey levels (Alpaydin & Kaynak 1998, UCI)."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = digits.data.astype(np.int64)
    names = [f"pixel_{row}_{column}" for row in range(8) for column in range(8)]
    columns = {name: pixels[:, i] for i, name in enumerate(names)}
    table = pa.table({**columns, "label": digits.target.astype(np.int64)})
    return Dataset(mark_pixels(table, (8, 8)), "digits", (8, 8), kinds={"label": "categorical"})


def _table(name: str) -> Dataset:
    import sklearn.datasets

    # The raw measurements: scikit-learn's scaled ages of -0.03 years mean nothing in an answer.
    raw = {"scaled": False} if name == "diabetes" else {}
    data = getattr(sklearn.datasets, f"load_{name}")(**raw)
    columns = {str(column): data.data[:, i] for i, column in enumerate(data.feature_names)}
    if name == "diabetes":
        return Dataset(pa.table({**columns, "target": data.target}), name)
    classes = np.asarray(data.target_names)[data.target].astype(str).tolist()
    return Dataset(pa.table({**columns, "target": classes}), name, kinds={"target": "categorical"})


def _toy(name: str) -> Dataset:
    import jax

    from thalweg.data.toys import TOYS

    density = TOYS[name]()
    keys = jax.random.split(jax.random.key(0), _TOY_ROWS)
    points = np.asarray(jax.jit(jax.vmap(lambda key: density.sample(key=key)))(keys), np.float64)
    return Dataset(pa.table({"x0": points[:, 0], "x1": points[:, 1]}), name)
