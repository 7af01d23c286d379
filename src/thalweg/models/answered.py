"""Rows of a table as inputs with their answers: what the objectives of conditional energies are fed."""

import warnings
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.data.rows import Rows
from thalweg.energy.spaces import Column, Record
from thalweg.errors import DataError, DataWarning, SettingsError
from thalweg.learning.objective import AbstractAround, AbstractObjective
from thalweg.learning.rows import Pairs
from thalweg.models.inputs import Seen
from thalweg.models.recipe import place_of


def answered(rows: Rows, answers: tuple[int, ...], names: tuple[str, ...]) -> Rows:
    """The rows whose answers are known; warns of those left out, and raises `DataError` where there are none."""
    known = rows.observed[:, list(answers)].all(axis=1)
    shown = ", ".join(repr(names[i]) for i in answers)
    if not known.any():
        raise DataError(f"no row says what {shown} is, so there is nothing to learn it from")
    if left_out := int(np.sum(~known)):
        warnings.warn(
            f"{left_out} rows that do not say what {shown} is are left out", DataWarning, stacklevel=4
        )
    return rows if known.all() else rows[known]


def pairs_of(rows: Rows, answers: tuple[int, ...]) -> Pairs:
    """Each row without its answers, and these: (n, a), or (n,) where there is one."""
    seen = rows.observed.copy()
    seen[:, list(answers)] = False
    x = Seen(jnp.asarray(np.where(seen, rows.values, np.float32(0))), jnp.asarray(seen))
    return Pairs(x, jnp.asarray(rows.values[:, answers[0] if len(answers) == 1 else list(answers)]))


def category(space: Record, index: int, recipe: str) -> Column:
    """The column at `index`, which is a category. Raises `SettingsError` where it is a number."""
    column = space.columns[index]
    if column.kind != "categorical":
        raise SettingsError(
            f"{recipe} predicts a category, and {column.name!r} is a number: fit implicit, which predicts numbers, "
            f"or say what it is (--kind {column.name}=categorical)"
        )
    return column


def numbers_of(rows: Rows, answers: tuple[int, ...]) -> Pairs:
    """Each row without its answers, and these, (n, a)."""
    pairs = pairs_of(rows, answers)
    return replace(pairs, y=pairs.y.reshape(len(rows), len(answers)))


def number_places(space: Record, target: str, also: str, recipe: str) -> tuple[int, ...]:
    """The places of the target and of further columns, all numbers. Raises `SettingsError` where one is not."""
    names = [target, *(name.strip() for name in also.split(",") if name.strip())]
    found = tuple(place_of(space, name) for name in names)
    if len(set(found)) < len(found):
        raise SettingsError(f"the columns to predict are named more than once: {', '.join(names)}")
    for column in (space.columns[i] for i in found):
        if column.kind == "categorical":
            raise SettingsError(
                f"{recipe} predicts numbers, and {column.name!r} is a category: fit classifier, or say that it is a "
                f"number (--kind {column.name}=integer)"
            )
    return found


class Noisy(AbstractAround):
    """An objective of pairs whose inputs come with a key each for the dropout of training, and with a share `hidden` of
    their cells missing, so that a row is read with holes too."""

    objective: AbstractObjective
    hidden: float = eqx.field(static=True, default=0.0)

    def __call__(self, energy, batch, memory, *, key):
        drop_key, hide_key, key = jax.random.split(key, 3)
        seen, n = batch.x, len(batch.x.values)
        observed = seen.observed
        if self.hidden:
            observed = observed & jax.random.bernoulli(hide_key, 1 - self.hidden, observed.shape)
        x = Seen(seen.values, observed, jax.random.split(drop_key, n))
        return self.objective(energy, replace(batch, x=x), memory, key=key)
