r"""What recipes have in common that say which class a row is of: the questions about it, and how they learn.

The temperature \(1/\beta\) is fitted after the training, on rows that did not train, so that probabilities are
calibrated whatever the loss: Guo, Pleiss, Sun & Weinberger (2017), *On calibration of modern neural networks*.
"""

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from thalweg.data.rows import Rows
from thalweg.data.schema import Schema
from thalweg.energy.capabilities import (
    AbstractColumnConditional,
    AbstractCompletion,
    AbstractConditional,
    AbstractConditionalSampler,
    AbstractFewAnswers,
)
from thalweg.errors import SettingsError
from thalweg.learning.answers import LOSSES, answer_loss
from thalweg.learning.run import Fit
from thalweg.models.answered import Noisy, answered, pairs_of
from thalweg.models.descent import by_adam
from thalweg.models.inputs import Seen
from thalweg.models.recipe import Problem, setting

#: Where the temperature is looked for, in powers of e.
TEMPERATURES = (-5.0, 5.0)
#: Steps of training: so many at least, at most, and so many passes over the rows between.
LEAST_STEPS, MOST_STEPS, EPOCHS = 1000, 6000, 20


class AbstractClasses(
    AbstractConditional, AbstractColumnConditional, AbstractCompletion, AbstractConditionalSampler
):
    r"""\(F(y, x) = E_y(x)\) in nats; where y is not known, \(-\log \sum_y e^{-E_y(x)}\)."""

    @abstractmethod
    def class_energies(self, y: Float[Array, "d"], observed: Bool[Array, "d"]) -> Float[Array, "c"]:
        """The energy of each class; what the row says of its class is not read."""

    def __call__(self, y, x=None):
        return self.marginal(y, jnp.ones(y.shape, bool))

    def marginal(self, y, observed, x=None):
        (target,) = self.answers
        energies, known = self.class_energies(y, observed), observed[target]
        # What stands at an unknown place may be anything.
        own = energies[jnp.where(known, y[target], 0).astype(jnp.int32)]
        return jnp.where(known, own, -jax.nn.logsumexp(-energies))

    def column_energies(self, y, index, values, observed, x=None):
        (target,) = self.answers

        def of_classes():
            return self.class_energies(y, observed)[values.astype(jnp.int32)]

        def of_inputs():
            known = observed.at[index].set(True)
            return jax.vmap(lambda v: self.marginal(y.at[index].set(v), known))(values)

        return jax.lax.cond(index == target, of_classes, of_inputs)

    def complete(self, y, observed, x=None):
        return self._answering(y, observed, jnp.argmin(self.class_energies(y, observed)))

    def sample_given(self, y, observed, x=None, *, key):
        return self._answering(y, observed, jax.random.categorical(key, -self.class_energies(y, observed)))

    def _answering(self, y: Array, observed: Array, answer: Array) -> Float[Array, "d"]:
        (target,) = self.answers
        return y.at[target].set(jnp.where(observed[target], y[target], answer.astype(y.dtype)))


@dataclass(frozen=True)
class LearningSettings:
    """How classes are learnt."""

    target: str = setting("", "the column to predict (--target)")
    loss: str = setting("nll", f"the loss over classes: {', '.join(LOSSES)}")
    margin: float = setting(1.0, "losses with a margin: how much lower the right answer should be")
    hide: float = setting(
        0.0, "share of input cells hidden in training, so that rows with holes are read as well"
    )
    steps: int = setting(0, "training steps at most (0: twenty passes over the rows, from 1,000 to 6,000)")
    batch: int = setting(128, "rows a step")
    learning_rate: float = setting(2e-3, "largest step of Adam, falling to 0")
    decay: float = setting(1e-3, "weight decay")
    patience: int = setting(10, "measurements without a lower held-out loss before stopping")

    def __post_init__(self):
        answer_loss(self.loss)
        if not 0 <= self.hide < 1:
            raise SettingsError(f"hide is a share from 0 up to below 1, not {self.hide:g}")


def settle(settings: Any, schema: Schema, rows: int) -> Any:
    """The number of steps that suits so many rows."""
    if settings.steps:
        return settings
    return replace(settings, steps=int(np.clip(EPOCHS * rows // settings.batch, LEAST_STEPS, MOST_STEPS)))


def learned(
    problem: Problem, energy: AbstractFewAnswers, answers: tuple[int, ...], *, key: PRNGKeyArray
) -> tuple[Fit, Float[Array, ""]]:
    r"""The energy of classes, given `Seen`, trained by the loss that the settings name; and its \(\beta\)."""
    settings = problem.settings
    rows = answered(problem.rows, answers, problem.space.names)
    validation = problem.validation[problem.validation.observed[:, answers[0]]]
    objective = answer_loss(settings.loss, margin=settings.margin)
    judged = len(validation) > 0 and objective.measures_progress
    result = by_adam(
        problem,
        energy,
        pairs_of(rows, answers),
        Noisy(objective, settings.hide),
        key=key,
        held_out=pairs_of(validation, answers) if judged else None,
        patience=settings.patience,
        clip=1.0,
        decay=settings.decay,
    )
    assert isinstance(result.energy, AbstractFewAnswers)
    return result, jnp.float32(calibrated(result.energy, validation if len(validation) else rows, answers))


def calibrated(energy: AbstractFewAnswers, rows: Rows, answers: tuple[int, ...]) -> float:
    r"""The \(\beta\) at which \(-\sum_i \log p(y_i \mid x_i) + \frac12 \log^2 \beta\) is least.

    The second term, a prior, keeps a few rows that are all told apart from asking for certainty.
    """
    pairs = pairs_of(rows, answers)
    energies = np.asarray(_energies(energy, pairs.x), np.float64)
    right = energies[np.arange(len(energies)), np.asarray(pairs.y).astype(int)]

    def loss(log_beta: float) -> float:
        beta = np.exp(log_beta)
        return float(np.sum(beta * right + logsumexp(-beta * energies, axis=1)) + log_beta**2 / 2)

    found = minimize_scalar(loss, bounds=TEMPERATURES, method="bounded")
    return float(np.exp(found.x))


@eqx.filter_jit
def _energies(energy: AbstractFewAnswers, x: Seen) -> Float[Array, "n k"]:
    return jax.lax.map(energy.answer_energies, x, batch_size=256)
