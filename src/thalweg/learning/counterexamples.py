r"""Objectives of conditional energies that tell the answer of an input from other answers: counter-examples.

\(F(y, x)\) over a bounded space of answers; nothing is asked of it but that it can be evaluated, and a slope where
counter-examples follow it.
"""

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from thalweg.energy.base import AbstractEnergy, Scalar
from thalweg.energy.spaces import AbstractSpace
from thalweg.errors import SettingsError
from thalweg.inference.problem import without_gradient
from thalweg.learning.objective import AbstractObjective
from thalweg.learning.rows import Pairs, require
from thalweg.sampling import charts
from thalweg.sampling.kernel import AbstractKernel
from thalweg.sampling.target import Target
from thalweg.sampling.walk import walk


class AbstractCounterExamples(eqx.Module):
    """Where the other answers to an input come from: `count` of them for each pair."""

    # To a type checker a read-only property, which a subclass may define as a field.
    if TYPE_CHECKING:

        @property
        def count(self) -> int:
            """How many."""

    else:
        count: eqx.AbstractVar[int]

    def check(self, energy: AbstractEnergy) -> None:
        """Raise `SettingsError` where these counter-examples do not suit the energy's space."""
        require_bounded("counter-examples", energy.space)
        if self.count < 1:
            raise SettingsError(f"there must be at least one counter-example, not {self.count}")

    @abstractmethod
    def draw(
        self, energy: AbstractEnergy, y: Float[Array, "..."], x: PyTree, *, key: PRNGKeyArray
    ) -> Float[Array, "k ..."]:
        """Other answers to one input `x`, whose answer is `y`; the energy is without a gradient."""


class Uniform(AbstractCounterExamples):
    """Answers from anywhere in the space, each as likely as any other."""

    count: int = eqx.field(static=True, default=64)

    def draw(self, energy, y, x, *, key):
        return jax.vmap(lambda k: energy.space.draw(key=k))(jax.random.split(key, self.count))


class Near(AbstractCounterExamples):
    r"""Answers around the right one, at one of several widths: what makes an energy exact in detail.

    A centre \(c = y + s\xi\) is drawn around the answer, and the counter-examples \(c + s\xi_j\) around the centre,
    with s one of `widths` (shares of the box); noise is reflected at the faces. Answer and counter-examples lie around
    c alike, so that which of them is the answer is told by \(p(y \mid x)\) alone: the optimum of `InfoNCE` is exact at
    every width, and needs no correction. A share `anywhere` of the pairs has uniform ones.

    After Ceylan & Gutmann (2018), *Conditional noise-contrastive estimation of unnormalised models*, whose pairs are
    symmetric too; widths around the answer: Gustafsson, Danelljan, Timofte & Schön (2020), *How to train your
    energy-based model for regression*.
    """

    count: int = eqx.field(static=True, default=64)
    widths: tuple[float, ...] = eqx.field(static=True, default=(0.01, 0.03, 0.1, 0.3))
    anywhere: float = eqx.field(static=True, default=0.3)

    def __check_init__(self):
        if not self.widths or min(self.widths) <= 0:
            raise SettingsError(f"widths are positive shares of the box, not {self.widths}")
        if not 0 <= self.anywhere <= 1:
            raise SettingsError(f"`anywhere` is a share from 0 to 1, not {self.anywhere:g}")

    def check(self, energy):
        AbstractCounterExamples.check(self, energy)
        require("real", "a counter-example near the answer", energy)

    def draw(self, energy, y, x, *, key):
        space = energy.space
        far_key, which_key, width_key, centre_key, key = jax.random.split(key, 5)
        far = Uniform(self.count).draw(energy, y, x, key=far_key)
        width = jax.random.choice(width_key, jnp.asarray(self.widths, jnp.float32))
        scale = width * charts.box(space).width.reshape(space.shape)
        centre = y + scale * jax.random.normal(centre_key, space.shape)
        near = centre[None] + scale[None] * jax.random.normal(key, (self.count, *space.shape))
        near = jax.vmap(lambda y: charts.reflected(space, y))(near)
        return jnp.where(jax.random.bernoulli(which_key, self.anywhere), far, near)


class Moved(AbstractCounterExamples):
    """Answers that the energy itself takes for right: ends of short chains of the kernel, begun anywhere."""

    kernel: AbstractKernel
    count: int = eqx.field(static=True, default=64)
    steps: int = eqx.field(static=True, default=20)

    def __check_init__(self):
        if self.steps < 1:
            raise SettingsError(f"counter-examples are moved by at least one step, not {self.steps}")

    def check(self, energy):
        AbstractCounterExamples.check(self, energy)
        self.kernel.check(Target(energy))

    def draw(self, energy, y, x, *, key):
        start_key, key = jax.random.split(key)
        start = Uniform(self.count).draw(energy, y, x, key=start_key)
        return walk(Target(energy, x, folded=True), self.kernel, start, self.steps, key=key).points


class InfoNCE(AbstractObjective):
    r"""\(L = -\frac1n \sum_i \log \frac{e^{-F(y_i, x_i)}}{e^{-F(y_i, x_i)} + \sum_j e^{-F(y'_{ij}, x_i)}}\): find the
    answer among its counter-examples \(y'_{ij}\). `batch` is `Pairs`.

    With uniform counter-examples, or `Near` ones, \(e^{-F}\) comes to be \(p(y \mid x)\) up to a factor that may depend
    on x; with `Moved` ones, which the energy chooses itself, it is flatter than that between its modes, and
    `AnswerContrast` is the objective that is right there. `penalty` weighs the slope of F at counter-examples beyond
    `steepest` (in nats a unit of y), \(\max(0, \|\nabla_y F\|_\infty - M)^2\), so that chains can follow it.

    van den Oord, Li & Vinyals (2018), *Representation learning with contrastive predictive coding*; of answers, with
    Langevin counter-examples and the penalty: Florence et al. (2021), *Implicit behavioral cloning*; ranking as
    estimation: Ma & Collins (2018), *Noise contrastive estimation and negative sampling for conditional models*.
    """

    examples: AbstractCounterExamples
    penalty: float = 0.0
    steepest: float = 1.0

    def init(self, energy, data, *, key):
        self.examples.check(energy)
        return

    def __call__(self, energy, batch, memory, *, key):
        fixed = without_gradient(energy)

        def of_pair(y, x, key):
            others = jax.lax.stop_gradient(self.examples.draw(fixed, y, x, key=key))
            low, high = energy(y, x), jax.vmap(lambda v: energy(v, x))(others)
            loss = low + jax.nn.logsumexp(-jnp.append(high, low))
            steep = _steepness(energy, others, x, self.steepest) if self.penalty else jnp.zeros(())
            return loss, steep, jnp.all(low < high).astype(jnp.float32)

        pairs = _pairs(batch, "InfoNCE")
        loss, steep, first = jax.vmap(of_pair)(pairs.y, pairs.x, jax.random.split(key, len(pairs.y)))
        return jnp.mean(loss + self.penalty * steep), (memory, {"first": jnp.mean(first)})


class AnswerContrast(AbstractObjective):
    r"""\(L = \frac1n \sum_i F(y_i, x_i) - \frac1k \sum_j F(y'_{ij}, x_i)\), with \(y'\) the counter-examples: the
    gradient of the likelihood of the answers, where these are draws of \(p(y \mid x)\) itself. `batch` is `Pairs`.

    `penalty` weighs the mean square of the energies. Hinton (2002), *Training products of experts by minimizing
    contrastive divergence*.
    """

    measures_progress: ClassVar[bool] = False
    examples: AbstractCounterExamples
    penalty: float = 1e-3

    def init(self, energy, data, *, key):
        self.examples.check(energy)
        return

    def __call__(self, energy, batch, memory, *, key):
        fixed = without_gradient(energy)

        def of_pair(y, x, key):
            others = jax.lax.stop_gradient(self.examples.draw(fixed, y, x, key=key))
            return energy(y, x), jax.vmap(lambda v: energy(v, x))(others)

        pairs = _pairs(batch, "a contrast of answers")
        low, high = jax.vmap(of_pair)(pairs.y, pairs.x, jax.random.split(key, len(pairs.y)))
        gap = jnp.mean(high) - jnp.mean(low)
        metrics = {
            "gap": gap,
            "data_energy": jnp.mean(low),
            "spread": jnp.std(low) + jnp.std(high),
            "told_apart": jnp.mean((low[:, None] < high).astype(jnp.float32)),
        }
        return -gap + self.penalty * (jnp.mean(low**2) + jnp.mean(high**2)) / 2, (memory, metrics)


def require_bounded(what: str, space: AbstractSpace) -> None:
    """Raise `SettingsError` unless every real coordinate has both bounds."""
    lower, upper = space.bounds()
    if not (np.isfinite(lower) & np.isfinite(upper)).all():
        raise SettingsError(
            f"{what} are drawn from the whole space of answers, and {space} has no bounds: give it a box, such as "
            f"Real({space.shape}, lower, upper)"
        )


def _steepness(energy: AbstractEnergy, points: Float[Array, "k ..."], x: PyTree, steepest: float) -> Scalar:
    slopes = jax.vmap(jax.grad(lambda v: energy(v, x)))(points)
    largest = jnp.max(jnp.abs(slopes.reshape(len(points), -1)), axis=1)
    return jnp.mean(jnp.maximum(largest - steepest, 0.0) ** 2)


def _pairs(batch: PyTree, objective: str) -> Pairs:
    if not isinstance(batch, Pairs):
        raise SettingsError(f"{objective} is for inputs with their answers: give Pairs(x, y), not rows alone")
    return batch
