r"""What `fit` minimises: the objective contract, and the objectives that need no negatives.

Pushing energies down on the data alone is enough where the architecture bounds the volume of low energy
(taxonomy A1) or normalises it; every other energy needs somewhere to push up.
"""

import math
from abc import abstractmethod
from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from thalweg.energy.base import AbstractDensity, AbstractEnergy
from thalweg.energy.capabilities import AbstractMarginal, AbstractMasked
from thalweg.errors import SettingsError
from thalweg.learning.contrast import contrast
from thalweg.learning.rows import Pairs

#: What a run may suffer from (`thalweg.learning.guard`).
Cause = Literal[
    "not finite",
    "worse",
    "leaping",
    "flown",
    "frozen",
    "runaway",
    "exploding",
    "flat",
    "told apart",
    "collapsed",
]


class AbstractObjective(eqx.Module):
    """A loss over a batch, with a memory (persistent chains, replay buffers) that training carries along.

    `measures_progress` is False for a loss that stays where it is while the energy gets better, such as the
    difference of two energies; the guard then judges the `metrics`.
    """

    measures_progress: ClassVar[bool] = True
    #: Whether a flat energy minimises the loss, so that training may end there.
    collapses: ClassVar[bool] = False

    def init(self, energy: AbstractEnergy, data: PyTree, *, key: PRNGKeyArray) -> PyTree:
        """The memory before the first step; None where the objective keeps none."""
        return None

    @abstractmethod
    def __call__(
        self, energy: AbstractEnergy, batch: PyTree, memory: PyTree, *, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], tuple[PyTree, dict[str, Any]]]:
        """`(loss, (memory, metrics))` of one batch; `metrics` are numbers by name, always the same names."""

    def unit(self, energy: AbstractEnergy) -> float:
        """By how much the energies of points may well differ: as if each coordinate added a nat of its own."""
        return math.sqrt(len(energy.space.levels()))

    def remedied(self, memory: PyTree, cause: Cause) -> tuple[PyTree, str]:
        """The memory with which to go on after a roll-back for this cause, and what is new about it in words; nothing
        by default."""
        return memory, ""


class AbstractAround(AbstractObjective):
    """An objective around another, which keeps the memory, judges its energies and knows the remedies."""

    objective: eqx.AbstractVar[AbstractObjective]

    @property
    def measures_progress(self):  # type: ignore[override]  # as the objective inside says
        return self.objective.measures_progress

    @property
    def collapses(self):  # type: ignore[override]  # as the objective inside says
        return self.objective.collapses

    def init(self, energy, data, *, key):
        return self.objective.init(energy, data, key=key)

    def unit(self, energy):
        return self.objective.unit(energy)

    def remedied(self, memory, cause):
        return self.objective.remedied(memory, cause)


class EnergyLoss(AbstractObjective):
    r"""\(L = \frac1n \sum_i F(y_i)\): push down on the data and nowhere else.

    `batch` is an array of points, a pair `(values, observed)` for an energy that marginalises, or `Pairs` of inputs
    with their answers. Right where low energy is bounded by construction; any other energy collapses under it.
    Source: LeCun, Chopra, Hadsell, Ranzato & Huang (2006), *A tutorial on energy-based learning*, eq. 6.
    """

    collapses: ClassVar[bool] = True

    def __call__(self, energy, batch, memory, *, key):
        if isinstance(batch, Pairs):
            return _of_pairs(energy, batch, memory)
        if isinstance(batch, tuple):
            if not isinstance(energy, AbstractMarginal):
                raise SettingsError(f"{type(energy).__name__} has no marginal: train it on complete rows")
            return jnp.mean(jax.vmap(energy.marginal)(*batch)), (memory, {})
        return jnp.mean(jax.vmap(energy)(batch)), (memory, {})


def _of_pairs(
    energy: AbstractEnergy, pairs: Pairs, memory: PyTree
) -> tuple[Float[Array, ""], tuple[PyTree, dict[str, Any]]]:
    right = jax.vmap(energy)(pairs.y, pairs.x)
    if isinstance(energy, AbstractDensity):
        return jnp.mean(right), (memory, {})  # what is normalised cannot be flat
    other = jnp.roll(pairs.y, 1, axis=0)
    return jnp.mean(right), (memory, contrast(pairs.y, other, right, jax.vmap(energy)(other, pairs.x)))


class MaximumLikelihood(AbstractObjective):
    r"""\(L = -\frac1n \sum_i \log p(y_i)\) in nats, for a normalised energy.

    Raises `SettingsError` for an energy that is not an `AbstractDensity`: its log Z would be missing.
    """

    def __call__(self, energy, batch, memory, *, key):
        if not isinstance(energy, AbstractDensity):
            raise SettingsError(
                f"{type(energy).__name__} is not normalised, so its mean energy is no likelihood: "
                "use a contrastive objective, or EnergyLoss where low energy is bounded by construction"
            )
        return EnergyLoss()(energy, batch, memory, key=key)


class OrderAgnostic(AbstractObjective):
    r"""The order-agnostic likelihood, in nats per row.

    For a row with \(m\) known cells, draw how many of them are shown, \(k \sim U\{0, …, m-1\}\), and which,
    \(o\); then
    \[ L = \mathbb{E}\, \frac{m}{m-k} \sum_{d \notin o} -\log p(y_d \mid y_o), \]
    an unbiased estimate of \(-\log p(y)\) averaged over all orderings of the columns.
    Source: Uria, Murray & Larochelle (2014), *A deep and tractable density estimator*, eq. 11.
    """

    def __call__(self, energy, batch, memory, *, key):
        assert isinstance(energy, AbstractMasked)
        values, observed = batch
        n, d = values.shape
        count_key, order_key, dropout_key = jax.random.split(key, 3)
        # Values at unobserved places are never read, not even by a derivative that is multiplied by 0.
        values = jnp.where(observed, values, 0.0)
        known = jnp.sum(observed, axis=1, dtype=values.dtype)
        # One stratified draw for each row: the counts cover 0..m-1 evenly within every batch.
        places = jax.random.permutation(count_key, jnp.arange(n, dtype=values.dtype))
        strata = (places + jax.random.uniform(order_key, (n,))) / n
        shown = jnp.minimum(jnp.floor(strata * known), jnp.maximum(known - 1, 0))
        scores = jnp.where(observed, jax.random.uniform(jax.random.fold_in(order_key, 1), (n, d)), jnp.inf)
        rank = jnp.argsort(jnp.argsort(scores, axis=1), axis=1)
        given = rank.astype(values.dtype) < shown[:, None]
        keys = jax.random.split(dropout_key, n)
        log_probs = jax.vmap(lambda y, o, k: energy.masked_log_probs(y, o, key=k))(values, given, keys)
        hidden = observed & ~given
        weight = known / jnp.maximum(known - shown, 1)
        loss = -jnp.sum(jnp.where(hidden, log_probs, 0.0), axis=1) * weight
        return jnp.mean(loss), (memory, {})
