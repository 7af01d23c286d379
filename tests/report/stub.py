"""A model with closed forms and no training: a Gaussian over a table's codes, with the face of `Model`."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa

from thalweg.data.rows import Rows
from thalweg.energy.base import AbstractDensity
from thalweg.energy.spaces import Column, Record
from thalweg.errors import NotAnswered
from thalweg.report.judge import p_values


class Gaussian(AbstractDensity):
    """Only the class matters: it says that energies are in nats, and how each question is answered."""

    space: Record

    def log_prob(self, y, x=None):
        raise NotImplementedError

    def sample(self, x=None, *, key):
        raise NotImplementedError


class StubSchema:
    """Numbers are standardised, texts are indices; an unknown text or an empty cell is missing."""

    def __init__(self, table: pa.Table, grid: tuple[int, ...] = ()):
        self.grid, self.target, self.sequence, self.rows = grid, None, None, table.num_rows
        self.columns = tuple(_described(name, table.column(name)) for name in table.column_names)
        self.space = Record(tuple(_coded(column) for column in self.columns if column.kind != "constant"))

    def _named(self, name: str):
        return next(column for column in self.columns if column.name == name)

    def encode(self, table: pa.Table) -> Rows:
        values = np.zeros((table.num_rows, len(self.space.columns)), np.float32)
        observed = np.zeros(values.shape, bool)
        for i, name in enumerate(self.space.names):
            if name not in table.column_names:
                continue
            levels = self._named(name).levels
            for row, cell in enumerate(table.column(name).to_pylist()):
                observed[row, i] = cell is not None and (not levels or cell in levels)
                if observed[row, i]:
                    values[row, i] = levels.index(cell) if levels else cell
        return Rows(values, observed, np.zeros(len(values), int))

    def decode(self, values, *, observed=None, sequence=None, like=None) -> pa.Table:
        columns: dict[str, Any] = {}
        for column in self.columns:
            if column.kind == "constant":
                columns[column.name] = [column.levels[0]] * len(values)
                continue
            codes = values[:, self.space.names.index(column.name)].astype(float)
            if column.levels:
                codes = np.clip(np.rint(codes), 0, len(column.levels) - 1).astype(int)
                columns[column.name] = [column.levels[i] for i in codes]
            else:
                columns[column.name] = np.rint(codes).astype(int) if column.kind == "integer" else codes
        return pa.table(columns)


def _described(name: str, cells) -> SimpleNamespace:
    known = [cell for cell in cells.to_pylist() if cell is not None]
    distinct = sorted(set(known))
    text = isinstance(known[0], str)
    if len(distinct) == 1:
        kind = "constant"
    else:
        kind = "categorical" if text else "integer" if isinstance(known[0], int) else "continuous"
    levels = tuple(distinct) if text or kind == "constant" else ()
    numbers = [0.0, 1.0] if text else known
    return SimpleNamespace(
        name=name, kind=kind, levels=levels, minimum=min(numbers), maximum=max(numbers), known=known
    )


def _coded(column) -> Column:
    if column.levels:
        return Column(column.name, "categorical", size=len(column.levels))
    mean, spread = float(np.mean(column.known)), float(np.std(column.known)) or 1.0
    size = column.maximum - column.minimum + 1 if column.kind == "integer" else 0
    return Column(column.name, "integer" if size else "real", size=size, center=mean, spread=spread)


@dataclass
class StubModel:
    """F(y) = (y - mean)' P (y - mean) / 2 + constant over codes; a missing cell is its conditional mean."""

    table: pa.Table
    name: str = "wine"
    grid: tuple[int, ...] = ()
    recipe: str = "stub"
    samples: bool = True
    evidence: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=lambda: {"width": 512, "steps": 3000})

    def __post_init__(self):
        self.schema = StubSchema(self.table, self.grid)
        self.F = Gaussian(self.schema.space)
        rows = self.schema.encode(self.table)
        rng = np.random.default_rng(0)
        order = rng.permutation(len(rows.values))
        train, held_out = np.split(order, [len(order) * 3 // 4])
        codes = rows.values.astype(float)
        self.mean = codes[train].mean(axis=0)
        spread = np.array([max(column.spread, 0.3) for column in self.schema.space.columns])
        self.covariance = np.cov(codes[train], rowvar=False) + np.diag(0.1 * spread**2)
        self.calibration = SimpleNamespace(
            rows=rows[held_out], energies=np.sort(self._energy(codes[held_out]))
        )
        if not self.evidence:
            low, high = codes.min(axis=0), codes.max(axis=0)
            noise = rng.uniform(low, high, (400, len(low)))
            sets = {"train": codes[train], "held-out": codes[held_out], "uniform noise": noise}
            energies = {k: self._energy(v)[:1000].tolist() for k, v in sets.items()}
            self.evidence = {"energies": energies, "surprises": energies}
        self.history = [
            {
                "step": s,
                "loss": 40 + 60 * np.exp(-s / 300),
                "held_out": 44 + 58 * np.exp(-s / 320) + s**2 / 4e6,
            }
            for s in range(0, 3001, 50)
        ]
        self.card = {
            "data": self.name, "rows": len(order), "columns": len(self.schema.columns), "recipe": self.recipe,
            "title": "Gaussian for tests", "code": "A1",
            "formula": "F(y) = ½ (y − μ)ᵀ Σ⁻¹ (y − μ) + ½ log |2πΣ|",
            "paper": "Gauss (1809), Theoria motus", "settings": self.settings, "seed": 0, "seconds": 12.34,
            "memory_mb": 812, "status": "stopped early", "created": "2026-01-01T00:00:00+00:00",
            "split": {"train": len(train), "calibration": len(held_out)},
            "platform": "Linux x86_64, 2 cores, cpu",
            "versions": {"python": "3.11.9", "jax": "0.10.2", "thalweg": "0.1.0"},
        }  # fmt: skip

    def _energy(self, codes) -> np.ndarray:
        away = codes - self.mean
        solved = np.linalg.solve(self.covariance, away.T).T
        return 0.5 * (away * solved).sum(axis=1) + 0.5 * np.linalg.slogdet(2 * np.pi * self.covariance)[1]

    def _filled(self, rows: Rows, rng=None) -> np.ndarray:
        codes = rows.values.astype(float)
        for i, known in enumerate(rows.observed):
            if known.all():
                continue
            gain = self.covariance[np.ix_(~known, known)] @ np.linalg.pinv(
                self.covariance[np.ix_(known, known)]
            )
            codes[i, ~known] = self.mean[~known] + gain @ (codes[i, known] - self.mean[known])
            if rng is not None:
                rest = self.covariance[np.ix_(~known, ~known)] - gain @ self.covariance[np.ix_(known, ~known)]
                codes[i, ~known] += rng.multivariate_normal(np.zeros(len(rest)), rest, method="eigh")
        return codes

    def energy(self, rows) -> np.ndarray:
        return self._energy(self._filled(self.schema.encode(rows)))

    def score(self, rows, alpha: float = 0.01):
        energy = self.energy(rows)
        p = p_values(energy, self.calibration.energies)
        table = pa.table({"energy": energy, "surprise": energy, "p_value": p, "flag": p <= alpha})
        return SimpleNamespace(
            energy=energy, surprise=energy, p_value=p, flag=p <= alpha, to_table=lambda: table
        )

    def complete(self, rows, n: int = 1, *, seed: int = 0) -> pa.Table:
        encoded = self.schema.encode(rows)
        if n == 1:
            return self.schema.decode(self._filled(encoded))
        repeated = encoded[np.repeat(np.arange(len(encoded)), n)]
        return self.schema.decode(self._filled(repeated, np.random.default_rng(seed)))

    def denoise(self, rows, noise: float = 0.1) -> pa.Table:
        return self.complete(rows)

    def sample(self, n: int = 1, given=None, *, seed: int = 0) -> pa.Table:
        if not self.samples:
            raise NotAnswered("the stub does not sample: choose another model")
        drawn = np.random.default_rng(seed).multivariate_normal(self.mean, self.covariance, n, method="eigh")
        table = self.schema.decode(drawn)
        for name, value in (given or {}).items():
            table = table.set_column(table.column_names.index(name), name, pa.array([value] * n))
        return table

    def predict(self, rows, target=None, *, draws: int = 0, seed: int = 0):
        name = target or self.schema.space.names[-1]
        hidden = rows.drop_columns([name]) if name in rows.column_names else rows
        table = pa.table({name: self.complete(hidden).column(name)})
        return SimpleNamespace(target=name, to_table=lambda: table)

    def rank(self, rows, candidates):
        energy = self.energy(candidates.table)
        order = np.argsort(energy)
        n, m = rows.num_rows, len(order)
        table = pa.table({"row": np.repeat(np.arange(n), m), "candidate": np.tile(order, n)})
        return SimpleNamespace(order=np.tile(order, (n, 1)), to_table=lambda: table)

    def explain(self, rows, *, pairs: bool = False):
        """The energy that each cell loses when it moves to its conditional mean."""
        encoded = self.schema.encode(rows)
        codes = self._filled(encoded)
        precision = np.linalg.inv(self.covariance)
        pull = (codes - self.mean) @ precision
        proposal = codes - pull / np.diag(precision)
        release = 0.5 * pull**2 / np.diag(precision)
        columns, decoded = self.schema.space.names, self.schema.decode(proposal)

        def to_table(top=None):
            order = np.argsort(-release, axis=1)[:, : top or len(columns)]
            cells = [(i, int(j)) for i, row in enumerate(order) for j in row]
            return pa.table({
                "row": [i for i, _ in cells],
                "column": [columns[j] for _, j in cells],
                "release": [float(release[i, j]) for i, j in cells],
            })  # fmt: skip

        return SimpleNamespace(release=release, proposal=decoded, columns=columns, to_table=to_table)

    def encode(self, rows):
        raise NotAnswered("a Gaussian has no latent to encode: pca, kmeans and gmm have one")

    def report(self, path, data=None, *, force: bool = False):
        from pathlib import Path

        Path(path).write_text("a page", encoding="utf-8")
        return Path(path)


def digits_table() -> pa.Table:
    """The handwritten digits of scikit-learn as integers and a label."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    columns = {f"pixel_{i // 8}_{i % 8}": digits.data[:, i].astype(int) for i in range(64)}
    return pa.table({**columns, "label": [str(t) for t in digits.target]})


def wine_table() -> pa.Table:
    """Wine: thirteen measurements and a class as text."""
    from sklearn.datasets import load_wine

    wine = load_wine()
    columns = {name: wine.data[:, i] for i, name in enumerate(wine.feature_names)}
    return pa.table({**columns, "class": [f"cultivar {t}" for t in wine.target]})
