"""The tables that several benchmarks share, from scikit-learn and from the folder THALWEG_DATA."""

import os
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
from sklearn import datasets
from sklearn.model_selection import train_test_split

#: Rows of a table at most, drawn with the seed and stratified, the same for every method.
MOST = 10_000


def folder() -> Path:
    """Where the data lie; ends the program where nobody said so."""
    if "THALWEG_DATA" not in os.environ:
        sys.exit("this benchmark needs the folder of data: set THALWEG_DATA")
    return Path(os.environ["THALWEG_DATA"])


def anomaly_names() -> list[str]:
    """The tables of adbench by name, smallest first."""
    files = sorted((folder() / "adbench").glob("*.npz"), key=lambda file: file.stat().st_size)
    return [file.stem.split("_", 1)[1] for file in files]


def anomalies(name: str, seed: int, most: int = MOST) -> tuple[np.ndarray, np.ndarray]:
    """Rows, float64, and which of them are anomalies."""
    (file,) = (folder() / "adbench").glob(f"*_{name}.npz")
    with np.load(file, allow_pickle=False) as content:
        x, odd = content["X"].astype(np.float64), content["y"] == 1
    if len(x) > most:
        kept, _ = train_test_split(np.arange(len(x)), train_size=most, stratify=odd, random_state=seed)
        x, odd = x[kept], odd[kept]
    return x, odd


def numbers(name: str) -> np.ndarray:
    """A table of numbers, float64: one of scikit-learn's, casp, or one of adbench with its anomalies."""
    loaders = {
        "wine": datasets.load_wine,
        "breast cancer": datasets.load_breast_cancer,
        "diabetes": datasets.load_diabetes,
        "digits": datasets.load_digits,
    }
    if name in loaders:
        return np.asarray(loaders[name](return_X_y=True)[0], np.float64)
    if name == "casp":
        with np.load(folder() / "casp.npz", allow_pickle=False) as content:
            return content["x"].astype(np.float64)
    return anomalies(name, 0, sys.maxsize)[0]


def frame(x: np.ndarray) -> pa.Table:
    """The columns as a table, NaN as missing."""
    return pa.table(
        {f"x{i}": pa.array(column, mask=np.isnan(column)) for i, column in enumerate(x.T.astype(np.float64))}
    )
