r"""A user's own energy, fitted like a recipe.

The energy is a function of a row's codes (`docs/extending.md`). It is trained by maximum likelihood where it is
normalised, and otherwise by the objective that is given, `EnergyLoss` by default.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import optax
from jaxtyping import PRNGKeyArray, PyTree

from thalweg.data.rows import Rows
from thalweg.energy.base import AbstractDensity, AbstractEnergy, FunctionEnergy
from thalweg.energy.capabilities import AbstractMarginal
from thalweg.energy.spaces import AbstractSpace, Record
from thalweg.errors import SettingsError
from thalweg.learning.fit import fit
from thalweg.learning.objective import AbstractObjective, EnergyLoss, MaximumLikelihood
from thalweg.learning.run import Fit
from thalweg.models.recipe import Problem, Recipe, setting
from thalweg.models.rows import whole_rows


class EnergyOnRecord(AbstractEnergy):
    """An energy over real vectors, read as one over a table's codes."""

    energy: AbstractEnergy
    space: AbstractSpace

    def __call__(self, y, x=None):
        return self.energy(y, x)


class DensityOnRecord(AbstractDensity):
    """A density over real vectors, read as one over a table's codes."""

    energy: AbstractDensity
    space: AbstractSpace

    def log_prob(self, y, x=None):
        return self.energy.log_prob(y, x)

    def sample(self, x=None, *, key):
        return self.energy.sample(x, key=key)


@dataclass(frozen=True)
class Settings:
    """Settings of a user's own energy."""

    steps: int = setting(2000, "training steps")
    batch: int = setting(256, "rows a step")
    learning_rate: float = setting(1e-2, "largest step of Adam")
    patience: int = setting(10, "measurements without a lower held-out loss before stopping")


def on_record(
    energy: AbstractEnergy | Callable[..., AbstractEnergy], space: Record, key: PRNGKeyArray
) -> AbstractEnergy:
    """The user's energy over `space`: as it is, built by their function of `(space, key)`, or wrapped.

    Raises `SettingsError` where what they gave is no energy or is over points of another shape.
    """
    if not isinstance(energy, AbstractEnergy):
        energy = energy(space, key)
        if not isinstance(energy, AbstractEnergy):
            raise SettingsError(
                f"the function given as a recipe must return an energy, not {type(energy).__name__}"
            )
    if energy.space == space:
        return energy
    if tuple(energy.space.shape) != space.shape:
        raise SettingsError(
            f"the energy is over points of shape {tuple(energy.space.shape)} and the data have {space.shape[0]} "
            "columns: build it from the data's space with fit(data, lambda space, key: …)"
        )
    if isinstance(energy, FunctionEnergy):
        return FunctionEnergy(energy.function, space)
    if isinstance(energy, AbstractDensity):
        return DensityOnRecord(energy, space)
    return EnergyOnRecord(energy, space)


def recipe_for(
    energy: AbstractEnergy | Callable[..., AbstractEnergy], objective: AbstractObjective | None
) -> Recipe:
    """A recipe named `custom` around a user's energy. Raises `SettingsError` for anything else."""
    if not callable(energy):
        raise SettingsError(
            f"a recipe is a name, an energy, or a function of (space, key) that builds one, not {energy!r}"
        )

    def train(problem: Problem) -> Fit:
        settings = problem.settings
        build_key, fit_key = jax.random.split(problem.key)
        start = on_record(energy, problem.space, build_key)
        loss = objective or (MaximumLikelihood() if isinstance(start, AbstractDensity) else EnergyLoss())
        validation = len(problem.validation) > 0
        return fit(
            start,
            _points(start, problem.rows, loss),
            loss,
            optimiser=optax.adam(optax.cosine_decay_schedule(settings.learning_rate, settings.steps)),
            steps=settings.steps,
            batch=settings.batch,
            held_out=_points(start, problem.validation, loss) if validation else None,
            patience=settings.patience if validation else None,
            measure_every=max(1, settings.steps // 60),
            key=fit_key,
            run=problem.run,
        )

    return Recipe(
        name="custom",
        title="A user's own energy",
        code="-",
        paper="-",
        formula="F(y)",
        about="Built in code; load it with thalweg.load(path, energy=…).",
        energy=type(energy) if isinstance(energy, AbstractEnergy) else AbstractEnergy,
        settings=Settings,
        skeleton=lambda space, settings: on_record(energy, space, jax.random.key(0)),
        train=train,
        validates=True,
    )


def _points(energy: AbstractEnergy, rows: Rows, objective: AbstractObjective) -> PyTree:
    """What the objective is fed: whole rows, or values with what is observed of them."""
    simple = isinstance(objective, EnergyLoss | MaximumLikelihood)
    if not simple or (isinstance(energy, AbstractMarginal) and not rows.complete.all()):
        return rows.values, rows.observed
    no_marginal = "this energy has no marginal"
    return whole_rows(rows, f"and {no_marginal}: complete the data first", no_marginal)
