r"""Objectives over pairs of rows: what belongs together is drawn near, what does not is pushed apart (C2).

\(D_{ij} = \lVert G(x_i) - G(x_j) \rVert\) is the distance of two embeddings of length 1, so at most 2, and
\(E_{ij} = D_{ij}^2 / 2\tau\) the energy of the pair. Rows come in `Groups` of one class; every pair in a batch counts.
"""

from abc import abstractmethod
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from thalweg.energy.base import Scalar
from thalweg.energy.capabilities import AbstractEmbedded
from thalweg.errors import SettingsError
from thalweg.learning.groups import some_of_each
from thalweg.learning.objective import AbstractObjective

Matrix = Float[Array, "n n"]
Mask = Bool[Array, "n n"]


def square_distances(u: Float[Array, "n k"], v: Float[Array, "m k"]) -> Float[Array, "n m"]:
    r"""\(\lVert u_i - v_j \rVert^2\) of embeddings of length 1, as \(2 - 2\,u_i^\top v_j\), at least 0."""
    return jnp.maximum(2.0 - 2.0 * u @ v.T, 0.0)


def contrastive(squares: Matrix, same: Mask, other: Mask, margin: float) -> Scalar:
    r"""\(L = \sum_{same} \tfrac12 D^2 + \sum_{other} \tfrac12 \max(0, m - D)^2\), over the number of pairs of the same
    class: square-square, with the distance for energy. Every pair counts the same, so the few that are too near push as
    hard as those of one class pull.

    Of two rows at the same place nothing says which way they should part: their gradient is 0, and not NaN as the
    root's would be. Hadsell, Chopra & LeCun (2006), *Dimensionality reduction by learning an invariant mapping*.
    """
    apart = squares > 0
    distance = jnp.where(apart, jnp.sqrt(jnp.where(apart, squares, 1.0)), 0.0)
    pushes = jnp.maximum(margin - distance, 0.0) ** 2 / 2
    total = jnp.sum(jnp.where(same, squares / 2, 0.0)) + jnp.sum(jnp.where(other, pushes, 0.0))
    return total / jnp.maximum(jnp.sum(same), 1).astype(squares.dtype)


def triplet(squares: Matrix, same: Mask, other: Mask, margin: float) -> Scalar:
    r"""\(L = \langle \max(0, D_{ap}^2 - D_{an}^2 + m) \rangle\) over all pairs (a, p) of the same class, n the nearest
    of another class that is farther from a than p is (semi-hard); the farthest of all where none is.

    The hardest negatives of all would draw a young network to a single point. Schroff, Kalenichenko & Philbin (2015),
    *FaceNet: a unified embedding for face recognition and clustering*.
    """
    negatives = jnp.sort(jnp.where(other, squares, jnp.inf), axis=1)
    farther = jax.vmap(lambda row, of: jnp.searchsorted(row, of, side="right"))(negatives, squares)
    last = jnp.sum(other, axis=1, keepdims=True) - 1
    chosen = jnp.take_along_axis(negatives, jnp.clip(jnp.minimum(farther, last), 0), axis=1)
    counted = same & (last >= 0)
    return _mean(jnp.maximum(squares - jnp.where(counted, chosen, 0.0) + margin, 0.0), counted)


def info_nce(energies: Matrix, same: Mask, other: Mask) -> Scalar:
    r"""\(L = \langle -\log \frac{e^{-E_{ap}}}{e^{-E_{ap}} + \sum_n e^{-E_{an}}} \rangle\) in nats, over all pairs
    (a, p) of the same class, n all rows of other classes: the likelihood of p among answers that the batch holds.

    Sohn (2016), *Improved deep metric learning with multi-class N-pair loss objective*; van den Oord, Li & Vinyals
    (2018), *Representation learning with contrastive predictive coding*.
    """
    # A row that nothing can be confused with counts for nothing, and must not be a sum of nothing.
    some = jnp.any(other, axis=1, keepdims=True)
    wrong = jax.nn.logsumexp(jnp.where(other | ~some, -energies, -jnp.inf), axis=1, keepdims=True)
    return _mean(jax.nn.softplus(wrong + energies), same & some)


def matching(energies: Matrix) -> Scalar:
    r"""\(L = \langle -\log \frac{e^{-E_{ii}}}{\sum_j e^{-E_{ij}}} \rangle / 2 + \langle -\log
    \frac{e^{-E_{ii}}}{\sum_j e^{-E_{ji}}} \rangle / 2\) in nats: the likelihood of each row's own partner among all of
    the batch, from either side.

    Radford et al. (2021), *Learning transferable visual models from natural language supervision*.
    """
    own = jnp.diagonal(energies)
    either = jax.nn.logsumexp(-energies, axis=1) + jax.nn.logsumexp(-energies, axis=0)
    return jnp.mean(own + either / 2)


class AbstractPairs(AbstractObjective):
    """An objective over all pairs of a batch of `Groups`, `each` rows of every group at most.

    The metric `recall` is the share of rows whose nearest is of their own class, and `apart` the mean distance of rows
    of different classes: 0 where the embedding has collapsed.
    """

    each: eqx.AbstractVar[int]

    @abstractmethod
    def of_pairs(self, energy: AbstractEmbedded, squares: Matrix, same: Mask, other: Mask) -> Scalar:
        """The loss; `same` and `other` say which ordered pairs are of one class and of two."""

    def __call__(self, energy, batch, memory, *, key):
        if not isinstance(energy, AbstractEmbedded):
            raise SettingsError(f"{type(energy).__name__} has no embedding whose distances could be taught")
        drawn, dropped = jax.random.split(key)
        batch = some_of_each(batch, self.each, key=drawn)
        values, observed = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), batch.rows)
        keys = jax.random.split(dropped, len(values))
        u = jax.vmap(lambda y, o, k: energy.embed(y, o, key=k))(values, observed, keys)
        of = jnp.repeat(batch.of, batch.present.shape[1])
        same, other = kinds_of_pairs(of, batch.present.reshape(-1))
        squares = square_distances(u, u)
        loss = self.of_pairs(energy, squares, same, other)
        return loss, (
            memory,
            {"recall": _recall(squares, same, other), "apart": _mean(jnp.sqrt(squares), other)},
        )


def kinds_of_pairs(of: Int[Array, "n"], present: Bool[Array, "n"]) -> tuple[Mask, Mask]:
    """Which ordered pairs of different rows that are present are of one class, and which of two."""
    both = present[:, None] & present[None, :] & ~jnp.eye(len(of), dtype=bool)
    alike = of[:, None] == of[None, :]
    return both & alike, both & ~alike


class Contrastive(AbstractPairs):
    """`contrastive`, square-square, over all pairs of the batch."""

    each: int = eqx.field(static=True, default=4)
    margin: float = eqx.field(static=True, default=1.0)

    def __check_init__(self):
        _check(self.each, self.margin)

    def of_pairs(self, energy, squares, same, other):
        return contrastive(squares, same, other, self.margin)


class Triplet(AbstractPairs):
    """`triplet` with semi-hard negatives, mined in the whole batch."""

    each: int = eqx.field(static=True, default=4)
    margin: float = eqx.field(static=True, default=0.2)

    def __check_init__(self):
        _check(self.each, self.margin)

    def of_pairs(self, energy, squares, same, other):
        return triplet(squares, same, other, self.margin)


class InfoNCE(AbstractPairs):
    """`info_nce` at the temperature of the energy."""

    each: int = eqx.field(static=True, default=4)

    def __check_init__(self):
        _check(self.each, 1.0)

    def of_pairs(self, energy, squares, same, other):
        return info_nce(squares / (2 * energy.temperature), same, other)


class Matching(AbstractObjective):
    """`matching` of the two sides of each row of the batch, `(values, observed)`, at the temperature of the energy.

    The metric `recall` is the share of rows whose partner is the nearest of the batch. Two rows of the same partner
    are each other's wrong answers: leave duplicates out.
    """

    measures_progress: ClassVar[bool] = True

    def __call__(self, energy, batch, memory, *, key):
        if not isinstance(energy, AbstractEmbedded):
            raise SettingsError(f"{type(energy).__name__} has no embedding whose distances could be taught")
        values, observed = batch

        def side(number: int) -> Float[Array, "n k"]:
            keys = jax.random.split(jax.random.fold_in(key, number), len(values))
            return jax.vmap(lambda y, o, k: energy.embed(y, o, number, key=k))(values, observed, keys)

        squares = square_distances(side(0), side(1))
        nearest = jnp.argmin(squares, axis=1) == jnp.arange(len(squares))
        loss = matching(squares / (2 * energy.temperature))
        return loss, (memory, {"recall": jnp.mean(nearest.astype(squares.dtype))})


def _recall(squares: Matrix, same: Mask, other: Mask) -> Scalar:
    """The share of rows with one of their own class in the batch whose nearest it is."""
    own = jnp.min(jnp.where(same, squares, jnp.inf), axis=1)
    wrong = jnp.min(jnp.where(other, squares, jnp.inf), axis=1)
    return _mean((own < wrong).astype(squares.dtype), jnp.any(same, axis=1))


def _mean(values: Float[Array, "..."], counted: Bool[Array, "..."]) -> Scalar:
    """The mean of those that count, 0 of none."""
    number = jnp.maximum(jnp.sum(counted), 1).astype(values.dtype)
    return jnp.sum(jnp.where(counted, values, 0.0)) / number


def _check(each: int, margin: float) -> None:
    if each < 2:
        raise SettingsError(f"a pair of a class takes at least 2 rows of it in a batch, not {each}")
    if not margin > 0:
        raise SettingsError(f"the margin must be more than 0, not {margin:g}")
