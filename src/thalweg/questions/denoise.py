r"""denoise: the row that best explains a noisy one, \(\arg\min_{y'} F(y') - \log p(y \mid y')\).

The noise is Gaussian on numbers, with energy \((y'-y)^2/2\sigma^2\), and replaces a category by any other with
probability \(q\), with energy \(\log\frac{(1-q)(k-1)}{q}\) where they differ.
"""

from collections.abc import Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.data.rows import Rows
from thalweg.data.schema import Schema
from thalweg.energy.base import AbstractEnergy
from thalweg.energy.capabilities import (
    AbstractColumnConditional,
    AbstractConditional,
    AbstractDenoiser,
    AbstractMarginal,
)
from thalweg.errors import SettingsError
from thalweg.inference import profile
from thalweg.questions.batches import by_row, in_batches
from thalweg.questions.complete import least
from thalweg.questions.given import silent_about_cells
from thalweg.questions.grids import candidate_grid

#: Passes over the columns, and points of the local grid of a real column within four deviations of the noise.
SWEEPS, LOCAL = 3, 33


def method(kind: type[AbstractEnergy]) -> str | None:
    if silent_about_cells(kind):
        return None
    if issubclass(kind, AbstractConditional):
        return None
    if issubclass(kind, AbstractDenoiser):
        return "exact: closed form for numbers; coordinate descent with categories"
    return "generic: coordinate descent on F plus the noise's energy"


def noise_levels(schema: Schema, noise: float | Mapping[str, float]) -> np.ndarray:
    """The noise of each column of the space, float32 (d,), as shares of its deviation (or flip probabilities)."""
    columns = schema.space.columns
    if isinstance(noise, Mapping):
        levels = np.zeros(len(columns), np.float32)
        for name, share in noise.items():
            levels[schema.index(name)] = share
    else:
        levels = np.full(len(columns), noise, np.float32)
    if not (np.isfinite(levels).all() and (levels >= 0).all() and (levels > 0).any()):
        raise SettingsError(f"noise is a positive share of a column's deviation, not {noise!r}")
    for column, level in zip(columns, levels, strict=True):
        if column.kind == "categorical" and level >= 1 - 1 / column.size:
            raise SettingsError(
                f"noise of {level:g} leaves nothing of the category {column.name!r}: "
                f"it is the probability of another value, and must be below {1 - 1 / column.size:g}"
            )
    return levels


def denoise(
    F: AbstractEnergy,
    rows: Rows,
    levels: np.ndarray,
    schema: Schema,
    start: np.ndarray,
) -> np.ndarray:
    """Codes (n, d) of the cleaned rows; missing cells are filled with the best guess on the way."""
    columns = schema.space.columns
    noisy = least(F, rows, schema.candidates, start)
    sigma = levels * np.array([1.0 if c.kind == "categorical" else c.spread for c in columns], np.float32)
    if (
        isinstance(F, AbstractDenoiser)
        and all(c.kind != "categorical" for c in columns)
        and (sigma > 0).all()
    ):
        return in_batches(lambda F, y: _closed_form(F, y, sigma), F, noisy)
    grid = candidate_grid(F.space, schema.candidates)
    real = np.array([c.kind == "real" for c in columns])
    local = np.linspace(-4.0, 4.0, max(LOCAL, grid.shape[1]), dtype=np.float32)
    pad = np.minimum(np.arange(len(local)), grid.shape[1] - 1)
    grid = grid[:, pad]
    flip = np.array(
        [np.log((1 - q) * (c.size - 1) / q) if c.kind == "categorical" and q > 0 and c.size > 1 else np.inf
         for c, q in zip(columns, levels, strict=True)],
        np.float32,
    )  # fmt: skip
    category = np.array([c.kind == "categorical" for c in columns])
    tables = tuple(jnp.asarray(a) for a in (grid, local, real, category, sigma, flip))
    return in_batches(lambda F, y, o: _sweep(F, y, o, tables), F, noisy, rows.observed, largest=512)


@eqx.filter_jit
def _closed_form(F, y, sigma):
    return by_row(lambda y: F.denoise(y, sigma), y)


@eqx.filter_jit
def _sweep(F, noisy, observed, tables):
    """Iterated conditional modes: each column in turn to the value of least total energy."""
    grid, local, real, category, sigma, flip = tables
    d = noisy.shape[1]
    whole = not isinstance(F, AbstractMarginal | AbstractColumnConditional)

    def one(noisy, observed):
        known = jnp.ones_like(observed) if whole else observed

        def step(t, y):
            i = t % d
            values = jnp.where(real[i], noisy[i] + sigma[i] * local, grid[i])
            values = jnp.concatenate([y[i][None], values])
            apart = values - noisy[i]
            gaussian = jnp.where(apart == 0, 0.0, apart**2 / (2 * jnp.maximum(sigma[i], 1e-12) ** 2))
            noise = jnp.where(category[i], jnp.where(apart == 0, 0.0, flip[i]), gaussian)
            energy = profile(F, y, i, values, observed=known) + noise
            best = values[jnp.argmin(energy)]
            return y.at[i].set(jnp.where(observed[i], best, y[i]))

        return jax.lax.fori_loop(0, SWEEPS * d, step, noisy)

    return by_row(one, noisy, observed)
