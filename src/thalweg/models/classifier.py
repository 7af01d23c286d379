r"""Which class: a network's energies of all classes at once.

\[ E(y, x) = -f(x)_y, \qquad F(y \mid x) = \beta E(y, x) + \log \sum_{y'} e^{-\beta E(y', x)} = -\log p(y \mid x), \]

f any network over the other columns of a row. Trained by any loss over answers (`thalweg.learning.answers`); with the
negative log-likelihood it is the classifier with a softmax. The temperature \(1/\beta\) is fitted afterwards on rows
that did not train, so that probabilities are calibrated whatever the loss.

LeCun, Chopra, Hadsell, Ranzato & Huang (2006), *A tutorial on energy-based learning*, section 2; Guo, Pleiss, Sun &
Weinberger (2017), *On calibration of modern neural networks*, for the temperature.
"""

from dataclasses import dataclass, replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from thalweg.data.rows import Rows
from thalweg.energy.capabilities import (
    AbstractColumnConditional,
    AbstractCompletion,
    AbstractConditional,
    AbstractConditionalSampler,
    AbstractFewAnswers,
    AbstractTabular,
)
from thalweg.energy.spaces import Categorical, Record
from thalweg.learning.answers import LOSSES, answer_loss
from thalweg.learning.fit import fit
from thalweg.learning.run import Fit
from thalweg.models.answered import Noisy, answered, category, pairs_of
from thalweg.models.inputs import Inputs, Seen
from thalweg.models.networks import Network, NetworkSettings, network_of
from thalweg.models.recipe import Problem, Recipe, place_of, setting
from thalweg.nn.initial import OUTLINE, Initial, drawn

#: Where the temperature is looked for, in powers of e.
TEMPERATURES = (-5.0, 5.0)
#: Steps of training: so many at least, at most, and so many passes over the rows between.
LEAST_STEPS, MOST_STEPS, EPOCHS = 1000, 6000, 20


class Logits(AbstractFewAnswers):
    r"""\(E(y, x) = -f(x)_y\) over classes, of an input that is a row without its answer (`Seen`)."""

    network: Network
    space: Categorical = eqx.field(static=True)

    def answer_energies(self, x=None):
        assert isinstance(x, Seen)
        return -self.network(x.values, x.observed, key=x.key)

    def __call__(self, y, x=None):
        return self.answer_energies(x)[y.astype(jnp.int32)]


class Classifier(
    AbstractTabular,
    AbstractConditional,
    AbstractColumnConditional,
    AbstractCompletion,
    AbstractConditionalSampler,
):
    r"""\(F(y \mid x) = -\log p(y \mid x)\) in nats, of the one answer in a row; 0 where it is not known."""

    energy: Logits
    beta: Float[Array, ""]

    @property
    def space(self) -> Record:
        return self.energy.network.inputs.space

    @property
    def answers(self):
        return self.energy.network.inputs.answers

    def class_energies(self, y: Float[Array, "d"], observed: Bool[Array, "d"]) -> Float[Array, "k"]:
        r"""\(-\log p(y \mid x)\) of each class."""
        return -jax.nn.log_softmax(-self.beta * self.energy.answer_energies(Seen(y, observed)))

    def __call__(self, y, x=None):
        return self.marginal(y, jnp.ones(y.shape, bool))

    def marginal(self, y, observed, x=None):
        (target,) = self.answers
        own = self.class_energies(y, observed)[_code(y[target], observed[target])]
        return jnp.where(observed[target], own, 0.0)

    def column_energies(self, y, index, values, observed, x=None):
        (target,) = self.answers

        def of_classes():
            return self.class_energies(y, observed)[values.astype(jnp.int32)]

        def of_inputs():
            known = observed.at[index].set(True)
            return jax.vmap(lambda v: self.marginal(y.at[index].set(v), known))(values)

        return jax.lax.cond(index == target, of_classes, of_inputs)

    def complete(self, y, observed, x=None):
        best = jnp.argmin(self.class_energies(y, observed)).astype(y.dtype)
        return self._answering(y, observed, best)

    def sample_given(self, y, observed, x=None, *, key):
        drawn = jax.random.categorical(key, -self.class_energies(y, observed)).astype(y.dtype)
        return self._answering(y, observed, drawn)

    def _answering(self, y, observed, answer):
        (target,) = self.answers
        return y.at[target].set(jnp.where(observed[target], y[target], answer))

    def bare(self):
        return eqx.tree_at(lambda F: F.energy.network, self, self.energy.network.bare())


def _code(value: Array, known: Array) -> Array:
    # What stands at an unknown place is never read, and may be anything.
    return jnp.where(known, value, 0).astype(jnp.int32)


@dataclass(frozen=True)
class Settings(NetworkSettings):
    """Settings of `classifier`."""

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
        NetworkSettings.__post_init__(self)
        answer_loss(self.loss)


def settle(settings: Settings, space: Record, rows: int) -> Settings:
    """The number of steps that suits so many rows."""
    if settings.steps:
        return settings
    return replace(settings, steps=int(np.clip(EPOCHS * rows // settings.batch, LEAST_STEPS, MOST_STEPS)))


def build(space: Record, settings: Settings, initial: Initial) -> Classifier:
    """The network before training, to which every class is as likely."""
    target = place_of(space, settings.target)
    size = category(space, target, "classifier").size
    network = network_of(Inputs(space, (target,)), size, settings, initial)
    return Classifier(Logits(network, Categorical((), size)), initial.constant((), lambda: 1.0))


def skeleton(space: Record, settings: Settings) -> Classifier:
    """An energy of the right shapes."""
    return build(space, settings, OUTLINE)


def train(problem: Problem) -> Fit:
    """The network by the loss that is asked for, then the temperature."""
    settings, space = problem.settings, problem.space
    init_key, fit_key = jax.random.split(problem.key)
    start = build(space, settings, drawn(init_key))
    rows = answered(problem.rows, start.answers, space.names)
    validation = problem.validation[problem.validation.observed[:, start.answers[0]]]
    objective = answer_loss(settings.loss, margin=settings.margin)
    judged = len(validation) > 0 and objective.measures_progress
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, settings.learning_rate, settings.steps // 20, settings.steps
    )
    result = fit(
        start.energy,
        pairs_of(rows, start.answers),
        Noisy(objective, settings.hide),
        optimiser=optax.chain(
            optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=settings.decay)
        ),
        steps=settings.steps,
        batch=settings.batch,
        held_out=pairs_of(validation, start.answers) if judged else None,
        patience=settings.patience if judged else None,
        measure_every=max(1, settings.steps // 40),
        averaging=0.99,
        key=fit_key,
        run=problem.run,
    )
    assert isinstance(result.energy, Logits)
    beta = calibrated(result.energy, validation if len(validation) else rows, start.answers)
    return replace(result, energy=replace(start, energy=result.energy, beta=jnp.float32(beta)))


def calibrated(energy: Logits, rows: Rows, answers: tuple[int, ...]) -> float:
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
def _energies(energy: Logits, x: Seen) -> Float[Array, "n k"]:
    return jax.lax.map(energy.answer_energies, x, batch_size=256)


CLASSIFIER = Recipe(
    name="classifier",
    title="Classifier",
    code="C2",
    paper="LeCun, Chopra, Hadsell, Ranzato & Huang (2006), A tutorial on energy-based learning",
    formula="F(y, x) = −β f(x)_y + log Σ exp β f(x)",
    about="A network over the other columns, or a picture, says the energy of every class; any loss over answers.",
    energy=Classifier,
    settings=Settings,
    skeleton=skeleton,
    train=train,
    validates=True,
    settle=settle,
)
