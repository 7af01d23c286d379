r"""Regression with many answers: an energy of one number, or of several together, given the other columns.

\[ F(y, x) = a^\top h(y, c(x)) + \log Z(x), \qquad Z(x) = \int_B e^{-a^\top h(y, c(x))} dy \]

c what a network reads of the inputs, h hidden layers over the answer and it, B the box in which answers were seen.
\(e^{-F}\) may have any number of modes, of any shape, which no network from x to y has; an answer is sought, not
computed. Contrastive (C2): the answer of each row is to be found among counter-examples, other answers to the same
inputs (`thalweg.learning.counterexamples`). log Z is a sum over the box, so that energies are nats.

Florence, Lynch, Zeng, Ramirez, Wahid, Downs, Wong, Lee, Mordatch & Tompson (2021), *Implicit behavioral cloning*;
Gustafsson, Danelljan, Bhat & Schön (2020), *Energy-based models for deep probabilistic regression*.
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from thalweg.data.rows import Rows
from thalweg.energy.base import AbstractEnergy, Scalar
from thalweg.energy.capabilities import (
    AbstractColumnConditional,
    AbstractCompletion,
    AbstractConditionalSampler,
    AbstractJointAnswers,
)
from thalweg.energy.reference import Reference
from thalweg.energy.spaces import Record
from thalweg.errors import SettingsError
from thalweg.learning.counterexamples import AnswerContrast, InfoNCE, Moved, Near, Uniform
from thalweg.learning.noise import NoiseContrastive
from thalweg.learning.objective import AbstractObjective
from thalweg.learning.rows import Pairs
from thalweg.learning.run import Fit
from thalweg.models.answerbox import AnswerBox
from thalweg.models.answered import Noisy, answered, number_places, numbers_of
from thalweg.models.descent import by_adam
from thalweg.models.inputs import Inputs, Seen
from thalweg.models.networks import Network, NetworkSettings, network_of
from thalweg.models.recipe import Problem, Recipe, setting
from thalweg.models.relaxation import Blurred
from thalweg.nn.initial import OUTLINE, Initial, drawn
from thalweg.nn.mlp import Trunk
from thalweg.sampling import charts
from thalweg.sampling.kernel import Metric
from thalweg.sampling.langevin import MALA

LOSSES = ("near", "uniform", "langevin", "nce", "cd")
#: How steep the units over an answer are at first, from the smoothest to the sharpest, in widths of half the box.
SHARPNESS = (1.0, 16.0)
#: What a value outside the box costs, in nats for each width of the box between.
OUTSIDE = 100.0
#: Slope of the energy beyond which Langevin counter-examples are penalised, in nats for each width of the box.
STEEPEST = 100.0
#: Rows that a held-out loss is measured on; fewer come several times, each with other counter-examples.
HELD_OUT = 1024


class Implicit(
    AbstractJointAnswers, AbstractColumnConditional, AbstractCompletion, AbstractConditionalSampler
):
    r"""\(F(y, x) = a^\top h(y, c(x)) + \log Z(x)\), \(-\log p(y \mid x)\) in nats and codes.

    `reader` gives c (h,); `first` (a, h) and `bias` (h,) are of the answers, from -1 to 1 in their box; `trunk` makes
    the last hidden layer, `last` is a (h,).
    """

    reader: Network
    first: Float[Array, "a h"]
    bias: Float[Array, "h"]
    trunk: Trunk
    last: Float[Array, "h"]

    @property
    def space(self) -> Record:
        return self.reader.inputs.space

    @property
    def answers(self) -> tuple[int, ...]:
        return self.reader.inputs.answers

    @property
    def box(self) -> AnswerBox:
        """Where answers lie."""
        return AnswerBox(Record(tuple(self.space.columns[i] for i in self.answers)))

    def context(
        self, y: Float[Array, "d"], observed: Array, *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "h"]:
        """c(x), from the inputs of a row."""
        return self.reader(y, observed, key=key)

    def bent(self, v: Float[Array, "a"], context: Float[Array, "h"]) -> Scalar:
        r"""\(a^\top h(v, c)\): the energy without its log Z; of a value outside the box that of the nearest in it, and
        what it costs to be outside."""
        t = self.box.unit(v)
        inside = jnp.clip(t, -1.0, 1.0)
        bend = self.last @ self.trunk(context + inside @ self.first + self.bias)
        return bend + OUTSIDE / 2 * jnp.sum(jnp.abs(t - inside))

    def over(self, v: Float[Array, "m a"], context: Float[Array, "h"]) -> Float[Array, "m"]:
        """`bent` of many answers to one input."""
        return jax.vmap(lambda v: self.bent(v, context))(v)

    def __call__(self, y, x=None):
        context = self.context(y, self._inputs(jnp.ones(y.shape, bool)))
        return self.bent(y[jnp.array(self.answers)], context) + self._log_volume(context)

    def _inputs(self, observed: Array) -> Array:
        return observed & ~jnp.isin(jnp.arange(len(observed)), jnp.array(self.answers))

    def _log_volume(self, context: Float[Array, "h"]) -> Scalar:
        """log Z, a sum over the whole box."""
        return self.box.log_integral(-self.over(self.box.nodes, context))

    def marginal(self, y, observed, x=None):
        context, seen = self.context(y, self._inputs(observed)), observed[jnp.array(self.answers)]
        return self._marginal(y[jnp.array(self.answers)], seen, context) + self._log_volume(context)

    def _marginal(self, v: Float[Array, "a"], seen: Array, context: Float[Array, "h"]) -> Scalar:
        """The energy of the answers that are seen, the others summed out, without log Z."""
        if len(self.answers) == 1:
            alone = self.bent(jnp.where(seen, v, 0.0), context)
            return jnp.where(seen[0], alone, -self._log_volume(context))
        nodes = jnp.where(seen[None], v[None], self.box.nodes)
        return -self.box.log_integral(-self.over(nodes, context), ~seen)

    def column_energies(self, y, index, values, observed, x=None):
        answers = jnp.array(self.answers)
        context, v, seen = self.context(y, self._inputs(observed)), y[answers], observed[answers]

        def of_input():
            known = observed.at[index].set(True)
            return jax.lax.map(
                lambda value: self.marginal(y.at[index].set(value), known), values, batch_size=16
            )

        def along(i: int) -> Float[Array, "v"]:
            if len(self.answers) == 1:
                return self.over(values[:, None], context)
            others, own = self.box.without(i), np.arange(len(self.answers)) != i
            nodes = jnp.where(seen[own][None], v[own][None], others.nodes)

            def energy(value):
                points = jnp.insert(nodes, i, value, axis=1)
                return -others.log_integral(-self.over(points, context), ~seen[own])

            # One value after the other: each is a sum over the other answers.
            return jax.lax.map(energy, values, batch_size=16)

        branches = [lambda i=i: along(i) for i in range(len(self.answers))]
        which = jnp.where(jnp.any(answers == index), jnp.argmax(answers == index), len(branches))
        return jax.lax.switch(which, [*branches, of_input])

    def complete(self, y, observed, x=None):
        nodes, shares = self._shares(y, observed)
        answers = jnp.array(self.answers)
        return jnp.where(observed, y, y.at[answers].set(shares @ nodes))

    def sample_given(self, y, observed, x=None, *, key):
        nodes, shares = self._shares(y, observed)
        pick_key, key = jax.random.split(key)
        drawn = nodes[jax.random.categorical(pick_key, jnp.log(shares))]
        drawn = self.box.within(drawn, key=key)
        return jnp.where(observed, y, y.at[jnp.array(self.answers)].set(drawn))

    def _shares(self, y: Float[Array, "d"], observed: Array) -> tuple[Array, Array]:
        """Points of the box, with what is known of the answers in them, and the probability of each."""
        answers = jnp.array(self.answers)
        seen, context = observed[answers], self.context(y, self._inputs(observed))
        nodes = jnp.where(seen[None], jnp.where(seen, y[answers], 0.0)[None], self.box.nodes)
        return nodes, jax.nn.softmax(-self.over(nodes, context))

    def of_answers(self, y, observed):
        return Answers(self).given(Seen(jnp.asarray(y), self._inputs(jnp.asarray(observed))))


class Answers(AbstractEnergy):
    """The energy of the answers (a,) to the inputs x, without log Z: what is trained, and searched."""

    energy: Implicit

    @property
    def space(self) -> Record:
        return self.energy.box.relaxed

    def __call__(self, y, x=None):
        assert isinstance(x, Seen)
        return self.energy.bent(y, self.energy.context(x.values, x.observed, key=x.key))


@dataclass(frozen=True)
class Settings(NetworkSettings):
    """Settings of `implicit`."""

    target: str = setting("", "the column to predict, a number (--target)")
    also: str = setting("", "more columns to predict together with it, separated by commas")
    loss: str = setting(
        "near",
        "what trains it: near or uniform (InfoNCE with such counter-examples), langevin (with improved ones), nce, cd",
    )
    examples: int = setting(32, "counter-examples for each row")
    chain: int = setting(10, "langevin, cd: steps that counter-examples are moved by")
    stride: float = setting(0.03, "langevin, cd: length of such a step, in widths of the box")
    steps: int = setting(3000, "training steps at most")
    batch: int = setting(128, "rows a step")
    learning_rate: float = setting(5e-3, "largest step of Adam, falling to 0")
    decay: float = setting(1e-2, "weight decay")
    patience: int = setting(12, "measurements without a lower held-out loss before stopping; not of cd")

    def __post_init__(self):
        NetworkSettings.__post_init__(self)
        if self.loss not in LOSSES:
            raise SettingsError(f"loss {self.loss!r} is not known: choose one of {', '.join(LOSSES)}")


def build(space: Record, settings: Settings, initial: Initial) -> Implicit:
    """The network before training: all answers are alike."""
    answers = number_places(space, settings.target, settings.also, "implicit")
    inputs, width = Inputs(space, answers), settings.width
    low, high = SHARPNESS
    scales = np.geomspace(low, high, width, dtype=np.float32)
    return Implicit(
        network_of(inputs, width, settings, initial, spread=1.0),
        initial.normal((len(inputs.answers), width), 1.0) * scales[None],
        # Each unit turns somewhere in the box.
        (initial.permutations(1, width)[0].astype(jnp.float32) * (2 / width) - 1) * scales,
        Trunk(width, settings.layers, initial=initial),
        initial.zeros(width),
    )


def skeleton(space: Record, settings: Settings) -> Implicit:
    """An energy of the right shapes."""
    return build(space, settings, OUTLINE)


def train(problem: Problem) -> Fit:
    """Find each row's answer among its counter-examples."""
    settings, space = problem.settings, problem.space
    init_key, fit_key = jax.random.split(problem.key)
    start = Answers(build(space, settings, drawn(init_key)))
    answers = start.energy.answers
    held_out = _held_out(problem.validation, answers, settings)
    result = by_adam(
        problem,
        start,
        numbers_of(answered(problem.rows, answers, space.names), answers),
        Noisy(Blurred(objective_for(start, settings), start.energy.box.bins)),
        key=fit_key,
        held_out=held_out,
        patience=settings.patience,
        warm=False,
        decay=settings.decay,
    )
    assert isinstance(result.energy, Answers)
    return replace(result, energy=result.energy.energy)


def objective_for(energy: Answers, settings: Settings) -> AbstractObjective:
    """The objective of this name."""
    match settings.loss:
        case "near":
            return InfoNCE(Near(settings.examples))
        case "uniform":
            return InfoNCE(Uniform(settings.examples))
        case "nce":
            return NoiseContrastive(Reference(energy.space), settings.examples)
    width = charts.box(energy.space).width
    moved = Moved(
        MALA(settings.stride**2 / 2, metric=Metric(jnp.asarray(width))), settings.examples, settings.chain
    )
    if settings.loss == "cd":
        return AnswerContrast(moved)
    return InfoNCE(moved, penalty=1e-4, steepest=STEEPEST / float(width.max()))


def _held_out(rows: Rows, answers: tuple[int, ...], settings: Settings) -> Pairs | None:
    """Rows for early stopping; None where there are none, or the loss doesn't measure progress."""
    known = np.flatnonzero(rows.observed[:, list(answers)].all(axis=1))
    if settings.loss == "cd" or not len(known):
        return None
    return numbers_of(rows[np.resize(known, max(HELD_OUT, len(known)))], answers)


IMPLICIT = Recipe(
    name="implicit",
    title="Implicit regression",
    code="C2",
    paper="Florence et al. (2021), Implicit behavioral cloning",
    formula="F(y, x) = a·h(y, c(x)) + log Z(x)",
    about="Numbers from the other columns, with all answers that fit and how probable each is.",
    energy=Implicit,
    settings=Settings,
    skeleton=skeleton,
    train=train,
    validates=True,
)
