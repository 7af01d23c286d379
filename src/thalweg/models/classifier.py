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
from jaxtyping import Array, Float

from thalweg.data.schema import Schema
from thalweg.energy.capabilities import (
    AbstractFewAnswers,
    AbstractTabular,
)
from thalweg.energy.spaces import Categorical, Record
from thalweg.learning.run import Fit
from thalweg.models import classes
from thalweg.models.answered import category
from thalweg.models.classes import AbstractClasses, LearningSettings, learned
from thalweg.models.inputs import Inputs, Seen
from thalweg.models.networks import Network, NetworkSettings, network_of
from thalweg.models.recipe import Problem, Recipe, place_of, setting
from thalweg.nn.initial import OUTLINE, Initial, drawn


class Logits(AbstractFewAnswers):
    r"""\(E(y, x) = -f(x)_y\) over classes, of an input that is a row without its answer (`Seen`)."""

    network: Network
    space: Categorical = eqx.field(static=True)

    def answer_energies(self, x=None):
        assert isinstance(x, Seen)
        return -self.network(x.values, x.observed, key=x.key)

    def __call__(self, y, x=None):
        return self.answer_energies(x)[y.astype(jnp.int32)]


class Classifier(AbstractTabular, AbstractClasses):
    r"""\(F(y \mid x) = -\log p(y \mid x)\) in nats, of the one answer in a row; 0 where it is not known."""

    energy: Logits
    beta: Float[Array, ""]

    @property
    def space(self) -> Record:
        return self.energy.network.inputs.space

    @property
    def answers(self):
        return self.energy.network.inputs.answers

    def class_energies(self, y, observed):
        return -jax.nn.log_softmax(-self.beta * self.energy.answer_energies(Seen(y, observed)))

    def bare(self):
        return eqx.tree_at(lambda F: F.energy.network, self, self.energy.network.bare())


@dataclass(frozen=True)
class Settings(LearningSettings, NetworkSettings):
    """Settings of `classifier`."""

    learning_rate: float = setting(
        0.0, "largest step of Adam, falling to 0 (0: 0.002, of a linear network 0.03)"
    )

    def __post_init__(self):
        NetworkSettings.__post_init__(self)
        LearningSettings.__post_init__(self)


def settle(settings: Settings, schema: Schema, rows: int) -> Settings:
    """The number of steps that suits so many rows, and their size that suits the network."""
    rate = 0.03 if settings.network == "linear" else 0.002
    settled = replace(settings, learning_rate=settings.learning_rate or rate)
    return classes.settle(settled, schema, rows)


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
    init_key, fit_key = jax.random.split(problem.key)
    start = build(problem.space, problem.settings, drawn(init_key))
    result, beta = learned(problem, start.energy, start.answers, key=fit_key)
    assert isinstance(result.energy, Logits)
    return replace(result, energy=replace(start, energy=result.energy, beta=beta))


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
