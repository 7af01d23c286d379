r"""predict: which class, which number?

The energy along the target column, \(v \mapsto F(y_{target} = v, y_{rest})\), over all values of a finite column
and over a grid of a number's range; its Gibbs distribution \(\propto e^{-F}\) gives probabilities and quantiles.
"""

from collections.abc import Callable
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa

from thalweg.data.rows import Rows
from thalweg.data.schema import Schema
from thalweg.energy.base import AbstractEnergy
from thalweg.energy.capabilities import AbstractColumnConditional, AbstractMarginal
from thalweg.inference import profile
from thalweg.questions.batches import by_row, in_batches
from thalweg.questions.complete import best_guess
from thalweg.questions.records import Prediction

QUANTILES = (0.05, 0.5, 0.95)


def method(kind: type[AbstractEnergy]) -> str:
    if issubclass(kind, AbstractColumnConditional):
        return "exact: the network's conditional of the column"
    if issubclass(kind, AbstractMarginal):
        return "exact: the marginal energy along the column"
    return "generic: the energy along the column, missing cells minimised out"


def predict(
    F: AbstractEnergy,
    rows: Rows,
    index: int,
    schema: Schema,
    draws: int,
    seed: int,
    candidates: Callable[[int], np.ndarray],
    start: np.ndarray,
) -> Prediction:
    """The prediction of the column at `index` of the space for each row; its own cells are not read."""
    others = np.arange(rows.values.shape[1]) != index
    rows = Rows(rows.values, rows.observed & others, rows.unseen)
    if not isinstance(F, AbstractMarginal | AbstractColumnConditional):
        rows = Rows(best_guess(F, rows, candidates, start), np.ones_like(rows.observed), rows.unseen)
    column = schema.space.columns[index]
    values = np.asarray(candidates(index), np.float32)
    energies = along(F, rows, index, np.broadcast_to(values, (len(rows), len(values))))
    best = values[np.argmin(energies, axis=1)]
    every_value = column.finite and len(values) == column.size
    weights = np.ones(len(values)) if every_value else np.gradient(values.astype(np.float64))
    shares = gibbs(energies, weights)
    generator = np.random.default_rng(seed)
    if column.kind == "categorical":
        drawn = [values[pick(shares, generator)] for _ in range(draws)]
    else:
        drawn = [
            quantile(values, shares, generator.random(len(rows)), step=every_value) for _ in range(draws)
        ]
        if not every_value:
            best = refine(F, rows, index, values, energies)

    def decode(codes: np.ndarray) -> pa.Array:
        return schema.decode_column(index, np.asarray(codes, np.float32))

    answer = Prediction(column.name, decode(best), draws=[decode(codes) for codes in drawn] or None)
    if column.kind == "categorical":
        return replace(answer, levels=decode(values).to_pylist(), probabilities=shares)
    quantiles = {
        level: decode(quantile(values, shares, np.full(len(rows), level), step=every_value))
        for level in QUANTILES
    }
    return replace(answer, mean=schema.number(index, shares @ values), quantiles=quantiles)


def along(F: AbstractEnergy, rows: Rows, index: int, values: np.ndarray) -> np.ndarray:
    """The energy of each row with its cell at `index` replaced by each of its `values` (n, v), float64."""
    position = jnp.int32(index)
    if rows.observed.all() and not isinstance(F, AbstractColumnConditional):
        return in_batches(lambda F, y, v: _profile(F, y, position, v), F, rows.values, values).astype(
            np.float64
        )
    return in_batches(
        lambda F, y, v, o: _partial_profile(F, y, position, v, o), F, rows.values, values, rows.observed
    ).astype(np.float64)


@eqx.filter_jit
def _profile(F, y, index, values):
    return by_row(lambda y, v: profile(F, y, index, v), y, values)


@eqx.filter_jit
def _partial_profile(F, y, index, values, observed):
    return by_row(lambda y, v, o: profile(F, y, index, v, observed=o), y, values, observed)


def gibbs(energies: np.ndarray, weights: np.ndarray) -> np.ndarray:
    r"""\(e^{-F_v} w_v / \sum_u e^{-F_u} w_u\) along the last axis."""
    log_shares = np.log(weights) - (energies - energies.min(axis=1, keepdims=True))
    shares = np.exp(log_shares - log_shares.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


def pick(shares: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """One index drawn from each row of probabilities."""
    level = generator.random((len(shares), 1))
    return np.minimum((shares.cumsum(axis=1) < level).sum(axis=1), shares.shape[1] - 1)


def quantile(values: np.ndarray, shares: np.ndarray, level: np.ndarray, *, step: bool) -> np.ndarray:
    """The quantile of each row at its own level; between grid points by linear interpolation unless `step`."""
    cumulative = shares.cumsum(axis=1)
    if step:
        return values[np.minimum((cumulative < level[:, None]).sum(axis=1), len(values) - 1)]
    middle = cumulative - shares / 2
    return np.array([np.interp(q, c, values) for q, c in zip(level, middle, strict=True)])


def refine(F: AbstractEnergy, rows: Rows, index: int, values: np.ndarray, energies: np.ndarray) -> np.ndarray:
    """The minimum between the neighbours of the best grid point, on a grid 16 times finer."""
    best = np.argmin(energies, axis=1)
    low, high = values[np.maximum(best - 1, 0)], values[np.minimum(best + 1, len(values) - 1)]
    finer = (low[:, None] + (high - low)[:, None] * np.linspace(0, 1, 33)).astype(np.float32)
    again = along(F, rows, index, finer)
    return finer[np.arange(len(rows)), np.argmin(again, axis=1)]
