r"""Losses of conditional energies: push down on the right answer, and up on one that is wrong or on all.

Each takes a batch of `Pairs(x, y)` and any energy \(E(y, x)\) whose answers can be searched
(`thalweg.learning.search`), and composes with a regulariser, `Ridge(loss, strength)`.
LeCun, Chopra, Hadsell, Ranzato & Huang (2006), *A tutorial on energy-based learning*, section 2.
"""

from abc import abstractmethod
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from thalweg.energy.base import Scalar
from thalweg.errors import SettingsError, did_you_mean
from thalweg.learning import losses
from thalweg.learning.answer_sets import AbstractAnswers
from thalweg.learning.contrast import contrast
from thalweg.learning.objective import AbstractObjective, EnergyLoss
from thalweg.learning.rows import Pairs
from thalweg.learning.search import AnswerSearch

_SEARCH = AnswerSearch()


class AbstractAnswerLoss(AbstractObjective):
    r"""The mean over a batch of `Pairs` of a functional of the energies of answers.

    Metrics: `margin`, the mean of \(E_I - E_C\) (of the lowest answer for the perceptron; of the free energy of the
    wrong answers for those that push up on all), infinite ones left out; `data_energy`, the mean of \(E_C\);
    `answer_spread`, by how much the energies of the answers of two rows differ at one input, and `ahead`, how often the
    right one is the lower.
    """

    search: eqx.AbstractVar[AnswerSearch]

    @abstractmethod
    def of_row(self, answers: AbstractAnswers) -> tuple[Scalar, Scalar]:
        """The loss of a row, and its margin."""

    def __call__(self, energy, batch, memory, *, key):
        pairs = pairs_of(batch, type(self).__name__)
        keys = jax.random.split(key, len(pairs.y))
        other = jnp.roll(pairs.y, 1, axis=0)

        def of_row(y: Array, x: Any, other: Array, key: Array) -> tuple[Scalar, ...]:
            answers = self.search.answers(energy, y, x, pairs.y, key=key)
            return *self.of_row(answers), answers.at(y), answers.at(other)

        loss, margin, right, beside = jax.vmap(of_row)(pairs.y, pairs.x, other, keys)
        known = jnp.isfinite(margin)
        mean = jnp.sum(jnp.where(known, margin, 0.0)) / jnp.maximum(jnp.sum(known, dtype=margin.dtype), 1)
        return jnp.mean(loss), (memory, {"margin": mean} | contrast(pairs.y, other, right, beside))


class PerceptronLoss(AbstractAnswerLoss):
    r"""\(E_C - \min_y E\): zero where the right answer is the lowest; no margin. Eq. 7.

    A flat energy is a minimum, so the loss does not measure progress. Collins (2002), *Discriminative training
    methods for hidden Markov models*.
    """

    measures_progress: ClassVar[bool] = False
    collapses: ClassVar[bool] = True
    search: AnswerSearch = _SEARCH

    def of_row(self, answers):
        right, least = answers.at(answers.y), answers.least()
        return losses.perceptron(right, least), least - right


class HingeLoss(AbstractAnswerLoss):
    r"""\(\max(0, m + E_C - E_I)\); margin m. Eq. 11.

    `augmented`, for answers of several finite coordinates: the margin asked of an answer is m for each coordinate that
    is wrong, \(\max_y (m\,\#\{i: y_i \ne y_{C,i}\} + E_C - E(y))\), a structural support vector machine. Taskar,
    Guestrin & Koller (2003), *Max-margin Markov networks*; Tsochantaridis, Joachims, Hofmann & Altun (2005), *Large
    margin methods for structured and interdependent output variables*.
    """

    margin: float = 1.0
    augmented: bool = False
    search: AnswerSearch = _SEARCH

    def of_row(self, answers):
        right = answers.at(answers.y)
        wrong, price = answers.wrong(self.margin if self.augmented else 0.0)
        asked = price if self.augmented else self.margin
        return losses.hinge(right, wrong, asked), wrong - right


class AbstractMarginLoss(AbstractAnswerLoss):
    """A functional of the energies of the right and of the most offending incorrect answer alone."""

    @abstractmethod
    def functional(self, right: Scalar, wrong: Scalar) -> Scalar:
        r"""\(Q(E_C, E_I)\)."""

    def of_row(self, answers):
        right = answers.at(answers.y)
        wrong, _ = answers.wrong()
        return self.functional(right, wrong), wrong - right


class LogLoss(AbstractMarginLoss):
    r"""\(\log(1 + e^{E_C - E_I})\), a hinge without a corner. Eq. 12."""

    search: AnswerSearch = _SEARCH

    def functional(self, right, wrong):
        return losses.log(right, wrong)


class LVQ2(AbstractMarginLoss):
    r"""\(\min(M, \max(0, E_C - E_I))\) of the paper's table, with the `ceiling` M: rows far on the wrong side are given
    up; no margin. Eq. 13.

    With a `window` \(\delta\) it is that of its text, \(\min(1, \max(0, (E_C - E_I)/(\delta E_I)))\), of Kohonen,
    Barna & Chrisley (1988), *Statistical pattern recognition with neural networks*, for positive energies. A flat
    energy is a minimum of either, so the loss does not measure progress.
    """

    measures_progress: ClassVar[bool] = False
    collapses: ClassVar[bool] = True
    ceiling: float = 1.0
    window: float | None = None
    search: AnswerSearch = _SEARCH

    def functional(self, right, wrong):
        if self.window is None:
            return losses.lvq2(right, wrong, self.ceiling)
        return losses.lvq2_relative(right, wrong, self.window)


class MCE(AbstractMarginLoss):
    r"""\(\sigma(E_C - E_I)\), minimum classification error: a smooth count of errors. Eq. 15.

    Juang, Chou & Lee (1997), *Minimum classification error rate methods for speech recognition*.
    """

    search: AnswerSearch = _SEARCH

    def functional(self, right, wrong):
        return losses.mce(right, wrong)


class SquareSquare(AbstractMarginLoss):
    r"""\(E_C^2 + \max(0, m - E_I)^2\), for energies that are not negative; margin m. Eq. 16, with the plus of the
    paper's text: the minus of its table would reward wrong answers.

    Hadsell, Chopra & LeCun (2006), *Dimensionality reduction by learning an invariant mapping*.
    """

    margin: float = 1.0
    search: AnswerSearch = _SEARCH

    def functional(self, right, wrong):
        return losses.square_square(right, wrong, self.margin)


class SquareExponential(AbstractMarginLoss):
    r"""\(E_C^2 + \gamma e^{-E_I}\), for energies that are not negative, with the `weight` \(\gamma\). Eq. 17.

    Osadchy, Miller & LeCun (2005), *Synergistic face detection and pose estimation with energy-based models*.
    """

    weight: float = 1.0
    search: AnswerSearch = _SEARCH

    def functional(self, right, wrong):
        return losses.square_exponential(right, wrong, self.weight)


class NegativeLogLikelihood(AbstractAnswerLoss):
    r"""\(E_C + \frac1\beta \log \sum_y e^{-\beta E(y)}\), or an integral: it pushes up on every answer by its
    probability. Eq. 23; at \(\beta = 1\) in nats a row.

    As \(\beta \to \infty\) it becomes the perceptron's; with two answers it is the log loss.
    """

    beta: float = 1.0
    search: AnswerSearch = _SEARCH

    def __check_init__(self):
        _require_positive(self.beta)

    def of_row(self, answers):
        right, free = answers.at(answers.y), answers.free_energy(self.beta)
        return losses.negative_log_likelihood(right, free), _margin(right, free, self.beta)


class MEE(AbstractAnswerLoss):
    r"""\(1 - e^{-\beta E_C} / \sum_y e^{-\beta E(y)}\), minimum empirical error: how often a draw is wrong. Eq. 27.

    Ljolje, Ephraim & Rabiner (1990), *Estimation of hidden Markov model parameters by minimizing empirical error rate*.
    Of real answers a density has no largest value, and its loss no least: there the right answer competes with the
    nodes of the integral that lie more than `radius` from it, one cell against as many as there are.
    """

    beta: float = 1.0
    search: AnswerSearch = _SEARCH

    def __check_init__(self):
        _require_positive(self.beta)

    def of_row(self, answers):
        right, free = answers.at(answers.y), answers.free_energy_of_right_and_wrong(self.beta)
        return losses.mee(right, free, self.beta), _margin(right, free, self.beta)


#: The ten functionals by the names that recipes and the command line give them.
LOSSES: dict[str, type[AbstractObjective]] = {
    "energy": EnergyLoss,
    "perceptron": PerceptronLoss,
    "hinge": HingeLoss,
    "log": LogLoss,
    "lvq2": LVQ2,
    "mce": MCE,
    "square-square": SquareSquare,
    "square-exp": SquareExponential,
    "nll": NegativeLogLikelihood,
    "mee": MEE,
}


def answer_loss(name: str, **settings: Any) -> AbstractObjective:
    """The loss of this name in `LOSSES`, with those of the settings (`margin`, `beta`, `augmented`, `search`, …) that
    it has. Raises `SettingsError` for another name."""
    if name not in LOSSES:
        raise SettingsError(f"there is no loss {name!r}: {did_you_mean(name, LOSSES)}")
    known = LOSSES[name].__dataclass_fields__
    return LOSSES[name](**{key: value for key, value in settings.items() if key in known})


def pairs_of(batch: Any, objective: str) -> Pairs:
    """The batch itself. Raises `SettingsError` for one that is no `Pairs`."""
    if not isinstance(batch, Pairs):
        raise SettingsError(f"{objective} learns answers to inputs: give the rows as Pairs(x, y)")
    return batch


def _margin(right: Scalar, free: Scalar, beta: float) -> Scalar:
    r"""\(F_I - E_C\), with \(F_I\) the free energy of all answers but the right one: log odds over \(\beta\)."""
    return -jnp.log(jnp.maximum(jnp.expm1(beta * (right - free)), 1e-30)) / beta


def _require_positive(beta: float) -> None:
    if isinstance(beta, int | float) and not beta > 0:
        raise SettingsError(
            f"an inverse temperature is above 0, not {beta}; for its limit of infinity take the perceptron"
        )
