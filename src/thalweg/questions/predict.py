r"""predict: which class, which number?

The energy along the target column, \(v \mapsto F(y_{target} = v, y_{rest})\), over all values of a finite column
and over a grid of a number's range; its Gibbs distribution \(\propto e^{-F}\) gives probabilities and quantiles.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
from scipy.special import logsumexp

from thalweg.data.rows import Rows
from thalweg.data.schema import Schema
from thalweg.energy.base import AbstractEnergy
from thalweg.energy.capabilities import (
    AbstractColumnConditional,
    AbstractCompletion,
    AbstractConditional,
    AbstractMarginal,
    AbstractSequential,
)
from thalweg.errors import SettingsError
from thalweg.inference import profile
from thalweg.questions import chains, sequences
from thalweg.questions.batches import by_row, in_batches
from thalweg.questions.complete import best_guess
from thalweg.questions.given import silent_about_cells
from thalweg.questions.records import Prediction

QUANTILES = (0.05, 0.5, 0.95)
#: Draws of what is missing elsewhere in a row, over which its conditional is averaged.
DRAWS = 128


def method(kind: type[AbstractEnergy]) -> str | None:
    if silent_about_cells(kind):
        return None
    if issubclass(kind, AbstractConditional):
        return "exact: the energy along its target, given the other columns"
    if issubclass(kind, AbstractColumnConditional):
        return "exact: the network's conditional of the column"
    if issubclass(kind, AbstractMarginal):
        return "exact: the marginal energy along the column"
    return "generic: the energy along the column, averaged over clamped chains where other cells are missing"


def predict(
    F: AbstractEnergy,
    rows: Rows,
    index: int,
    schema: Schema,
    draws: int,
    seed: int,
    candidates: Callable[[int], np.ndarray],
    walker: chains.Walker,
    steps: int | None = None,
) -> Prediction:
    """The prediction of the column at `index` of the space for each row; its own cells are not read."""
    if isinstance(F, AbstractSequential):
        return _labelled(F, rows, index, schema, draws, seed)
    context = unread(F, rows, index, walker, steps)
    column = schema.space.columns[index]
    values, energies, shares = conditional(F, context, index, schema, candidates)
    best = values[np.argmin(energies, axis=1)]
    every_value = column.finite and len(values) == column.size
    generator = np.random.default_rng(seed)
    if column.kind == "categorical":
        drawn = [values[pick(shares, generator)] for _ in range(draws)]
    else:
        drawn = [
            quantile(values, shares, generator.random(len(rows)), step=every_value) for _ in range(draws)
        ]
        if not every_value:
            best = refine(F, context, index, values, energies)

    def decode(codes: np.ndarray) -> pa.Array:
        return schema.decode_column(index, np.asarray(codes, np.float32))

    answer = Prediction(column.name, decode(best), draws=[decode(codes) for codes in drawn] or None)
    if column.kind == "categorical":
        return replace(answer, levels=decode(values).to_pylist(), probabilities=shares)
    quantiles = {
        level: decode(quantile(values, shares, np.full(len(rows), level), step=every_value))
        for level in QUANTILES
    }
    if isinstance(F, AbstractCompletion) and not isinstance(F, AbstractColumnConditional):
        expected = mean(F, rows, index, schema, candidates, walker, steps)
    else:
        expected = _mean(schema, index, candidates, shares)
    middle = shares @ values.astype(np.float64)
    variance = np.sum(shares * (values[None].astype(np.float64) - middle[:, None]) ** 2, axis=1)
    unit = np.diff(schema.number(index, np.array([0.0, 1.0])))[0]
    return replace(answer, mean=expected, std=unit * np.sqrt(variance), quantiles=quantiles)


def _labelled(
    F: AbstractSequential, rows: Rows, index: int, schema: Schema, draws: int, seed: int
) -> Prediction:
    """The labels of least energy together, and each one's marginal probabilities."""
    rows = _without(rows, index)
    best, log_shares = sequences.labelled(F, rows)
    drawn = sequences.drawn(F, rows, draws, seed)[:, index].reshape(len(rows), draws).T if draws else ()
    column = schema.space.columns[index]

    def decode(codes: np.ndarray) -> pa.Array:
        return schema.decode_column(index, np.asarray(codes, np.float32))

    return Prediction(
        column.name,
        decode(best),
        levels=decode(np.arange(column.size)).to_pylist(),
        probabilities=np.exp(log_shares),
        draws=[decode(codes) for codes in drawn] or None,
    )


def mean(
    F: AbstractEnergy,
    rows: Rows,
    index: int,
    schema: Schema,
    candidates: Callable[[int], np.ndarray],
    walker: chains.Walker,
    steps: int | None = None,
) -> np.ndarray:
    """The conditional mean of a column of numbers, in the user's units (n,): in closed form where the energy has one.

    Raises `SettingsError` for a category.
    """
    if schema.space.columns[index].kind == "categorical":
        raise SettingsError(f"column {schema.space.names[index]!r} is a category, which has no mean")
    if isinstance(F, AbstractCompletion) and not isinstance(F, AbstractColumnConditional):
        return schema.number(index, best_guess(F, _without(rows, index), walker)[:, index])
    context = unread(F, rows, index, walker, steps)
    return _mean(schema, index, candidates, conditional(F, context, index, schema, candidates)[2])


def _mean(
    schema: Schema, index: int, candidates: Callable[[int], np.ndarray], shares: np.ndarray
) -> np.ndarray:
    return schema.number(index, shares @ np.asarray(candidates(index), np.float64))


@dataclass(frozen=True)
class Context:
    """What a column is predicted from: rows without their cells there; where an energy takes only whole rows, the
    `partial` ones (n,) have draws of all that they miss, `drawn` (partial, k, d), over which is averaged."""

    rows: Rows
    partial: np.ndarray
    drawn: np.ndarray | None = None


def unread(F: AbstractEnergy, rows: Rows, index: int, walker: chains.Walker, steps: int | None) -> Context:
    """The rows without their cells at `index`, and draws of what else is missing for an energy that needs them."""
    rows = _without(rows, index)
    others = np.arange(rows.values.shape[1]) != index
    partial = ~np.all(rows.observed[:, others], axis=1)
    if isinstance(F, AbstractMarginal | AbstractColumnConditional) or not partial.any():
        return Context(rows, np.zeros_like(partial))
    # Each row has CHAINS times KEPT states; neighbours of a chain say little anew.
    drawn = chains.states(walker, rows[partial], steps)[:, :: chains.CHAINS * chains.KEPT // DRAWS]
    return Context(rows, partial, drawn)


def _without(rows: Rows, index: int) -> Rows:
    return replace(rows, observed=rows.observed & (np.arange(rows.values.shape[1]) != index))


def conditional(
    F: AbstractEnergy, context: Context, index: int, schema: Schema, candidates: Callable[[int], np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The candidates of a column (v,), the energy of each row with each (n, v), and their probabilities."""
    column = schema.space.columns[index]
    values = np.asarray(candidates(index), np.float32)
    every_value = column.finite and len(values) == column.size
    weights = np.ones(len(values)) if every_value else np.gradient(values.astype(np.float64))
    n = len(context.rows)
    energies = in_context(F, context, index, np.broadcast_to(values, (n, len(values))), weights)
    return values, energies, gibbs(energies, weights)


def in_context(
    F: AbstractEnergy, context: Context, index: int, values: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    r"""The energy of each row with each of its `values` (n, v) at `index`, up to a constant a row.

    Of a row with other cells missing \(-\log\frac1k\sum_k p(v \mid y_k)\), over draws \(y_k\) of these; the first
    values are those whose `weights` normalise each \(p\).
    """
    out = np.empty(values.shape, np.float64)
    partial = context.partial
    if not partial.all():
        rows = context.rows[~partial]
        if not isinstance(F, AbstractMarginal | AbstractColumnConditional):
            rows = Rows(rows.values, np.ones_like(rows.observed), rows.unseen)
        out[~partial] = along(F, rows, index, values[~partial])
    if context.drawn is not None:
        n, k, d = context.drawn.shape
        drawn = Rows(context.drawn.reshape(-1, d), np.ones((n * k, d), bool), np.zeros(n * k, np.int64))
        energy = along(F, drawn, index, np.repeat(values[partial], k, axis=0)).reshape(n, k, -1)
        known = -energy[:, :, : len(weights)] + np.log(weights)
        log_p = -energy - logsumexp(known, axis=2, keepdims=True)
        out[partial] = np.log(k) - logsumexp(log_p, axis=1)
    return out


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


def refine(
    F: AbstractEnergy, context: Context, index: int, values: np.ndarray, energies: np.ndarray
) -> np.ndarray:
    """The minimum between the neighbours of the best grid point, on a grid 16 times finer."""
    best = np.argmin(energies, axis=1)
    low, high = values[np.maximum(best - 1, 0)], values[np.minimum(best + 1, len(values) - 1)]
    finer = (low[:, None] + (high - low)[:, None] * np.linspace(0, 1, 33)).astype(np.float32)
    if context.drawn is not None:
        # What normalises each draw's own conditional goes before.
        tried = np.concatenate([np.broadcast_to(values, (len(finer), len(values))), finer], axis=1)
        weights = np.gradient(values.astype(np.float64))
        again = in_context(F, context, index, tried, weights)[:, len(values) :]
    else:
        again = along(F, context.rows, index, finer)
    return finer[np.arange(len(finer)), np.argmin(again, axis=1)]
