r"""Objectives over lists: of two rows of one query the more relevant should have the lower energy.

\(s_i = -F(y_i)\) are the scores of a list and \(r_i\) its relevance; rows come in `Groups` of one query, whose `rows`
are `(values, observed, relevance)`. Only differences within a list count, so the energy of a query as a whole is open.
"""

from abc import abstractmethod

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from thalweg.energy.base import Scalar
from thalweg.energy.capabilities import AbstractScored
from thalweg.errors import SettingsError
from thalweg.learning.objective import AbstractObjective

List = Float[Array, "m"]
Present = Bool[Array, "m"]

#: What a nat of `rank_net` counts beside NDCG.
TIES = 0.01


def better(relevance: List, present: Present) -> Bool[Array, "m m"]:
    """Which ordered pairs (i, j) of a list have \\(r_i > r_j\\): pairs of equal relevance teach nothing."""
    return present[:, None] & present[None, :] & (relevance[:, None] > relevance[None, :])


def rank_net(scores: List, relevance: List, present: Present) -> Scalar:
    r"""\(L = \langle \log(1 + e^{-(s_i - s_j)}) \rangle\) over the pairs with \(r_i > r_j\), in nats; 0 of none.

    Burges, Shaked, Renshaw, Lazier, Deeds, Hamilton & Hullender (2005), *Learning to rank using gradient descent*.
    """
    counted = better(relevance, present)
    losses = jax.nn.softplus(scores[None, :] - scores[:, None])
    return jnp.sum(jnp.where(counted, losses, 0.0)) / jnp.maximum(jnp.sum(counted), 1).astype(scores.dtype)


def list_net(scores: List, relevance: List, present: Present) -> Scalar:
    r"""\(L = \mathrm{KL}(p_r \,\|\, p_s)\), \(p_r \propto e^{r_i}\) and \(p_s \propto e^{s_i}\) the chances to come
    first, in nats; the paper's cross entropy less what no scores can change.

    Cao, Qin, Liu, Tsai & Li (2007), *Learning to rank: from pairwise approach to listwise approach*.
    """
    wanted = jax.nn.log_softmax(jnp.where(present, relevance, -jnp.inf))
    log_p = jax.nn.log_softmax(jnp.where(present, scores, -jnp.inf))
    return jnp.sum(jnp.where(present, jnp.exp(wanted) * jnp.where(present, wanted - log_p, 0.0), 0.0))


def lambda_rank(scores: List, relevance: List, present: Present, k: int, exponential: bool = True) -> Scalar:
    r"""\(L = \sum |\Delta\mathrm{NDCG}@k_{ij}| \log(1 + e^{-(s_i - s_j)})\) over the pairs with \(r_i > r_j\): each
    pair weighs what exchanging its two places would change, in the order that the scores have now.

    The weight is taken as it stands and has no gradient. Burges, Ragno & Le (2006), *Learning to rank with nonsmooth
    cost functions*; as a bound on a metric: Wang, Li, Golbandi, Bendersky & Najork (2018), *The LambdaLoss framework
    for ranking metric optimization*.
    """
    weights = jax.lax.stop_gradient(ndcg_changes(scores, relevance, present, k, exponential))
    losses = jax.nn.softplus(scores[None, :] - scores[:, None])
    return jnp.sum(jnp.where(better(relevance, present), weights * losses, 0.0))


def ndcg_changes(
    scores: List, relevance: List, present: Present, k: int, exponential: bool
) -> Float[Array, "m m"]:
    r"""\(|g(r_i) - g(r_j)|\,|d(\pi_i) - d(\pi_j)| / \mathrm{maxDCG}@k\), with \(g(r) = 2^r - 1\) or \(r\),
    \(d(\pi) = 1/\log_2(1 + \pi)\) down to place k; 0 for a list without anything relevant."""
    share, discount = _standing(scores, relevance, present, k, exponential)
    return jnp.abs(share[:, None] - share[None, :]) * jnp.abs(discount[:, None] - discount[None, :])


def ndcg(scores: List, relevance: List, present: Present, k: int, exponential: bool) -> Scalar:
    """NDCG@k of the order that the scores have now, of equals the first first; 0 where nothing is relevant."""
    share, discount = _standing(scores, relevance, present, k, exponential)
    return jnp.sum(share * discount)


def _standing(
    scores: List, relevance: List, present: Present, k: int, exponential: bool
) -> tuple[List, List]:
    r"""\(g(r_i) / \mathrm{maxDCG}@k\), and the discount of the place where each row stands."""
    worth = jnp.where(present, jnp.exp2(relevance) - 1 if exponential else relevance, 0.0)
    places = jnp.arange(len(scores))
    steps = jnp.where(places < k, 1 / jnp.log2(places.astype(scores.dtype) + 2), 0.0)
    # Those that are absent come last.
    order = jnp.argsort(jnp.where(present, -scores, jnp.inf))
    discount = jnp.zeros_like(scores).at[order].set(steps)
    ideal = jnp.sum(jnp.sort(worth)[::-1] * steps)
    return jnp.where(ideal > 0, worth / jnp.where(ideal > 0, ideal, 1.0), 0.0), discount


class AbstractLists(AbstractObjective):
    """An objective of lists: the mean over those of a batch that have two rows of different relevance.

    The metric `in_order` is the share of pairs of different relevance that the energy orders rightly.
    """

    @abstractmethod
    def of_list(self, scores: List, relevance: List, present: Present) -> Scalar:
        """The loss of one list."""

    def __call__(self, energy, batch, memory, *, key):
        if not isinstance(energy, AbstractScored):
            raise SettingsError(f"{type(energy).__name__} has no scores that could be taught an order")
        values, observed, relevance = batch.rows
        flat = values.reshape(-1, values.shape[-1]), observed.reshape(-1, observed.shape[-1])
        keys = jax.random.split(key, len(flat[0]))
        scores = jax.vmap(lambda y, o, k: energy.score(y, o, key=k))(*flat, keys).reshape(relevance.shape)
        losses = jax.vmap(self.of_list)(scores, relevance, batch.present)
        pairs = jax.vmap(better)(relevance, batch.present)
        ordered = pairs & (scores[:, :, None] > scores[:, None, :])
        counted = jnp.any(pairs, (1, 2))
        lists, all_pairs = (jnp.maximum(jnp.sum(n), 1).astype(scores.dtype) for n in (counted, pairs))
        return jnp.sum(jnp.where(counted, losses, 0.0)) / lists, (
            memory,
            {"in_order": jnp.sum(ordered).astype(scores.dtype) / all_pairs},
        )


class RankNet(AbstractLists):
    """`rank_net`: every pair counts the same."""

    def of_list(self, scores, relevance, present):
        return rank_net(scores, relevance, present)


class ListNet(AbstractLists):
    """`list_net`: who comes first."""

    def of_list(self, scores, relevance, present):
        return list_net(scores, relevance, present)


class LambdaRank(AbstractLists):
    r"""The slope of `lambda_rank`, at the value \(1 - \mathrm{NDCG}@k\) and a hundredth of `rank_net`.

    NDCG is what the slope is meant to raise and what says which energy is best; the value of `lambda_rank` would not,
    for its weights change with the order. `rank_net` parts energies of equal NDCG, of which there are many over few
    lists.
    """

    k: int = eqx.field(static=True, default=10)
    exponential: bool = eqx.field(static=True, default=True)

    def __check_init__(self):
        if self.k < 1:
            raise SettingsError(f"NDCG is of at least one place, not {self.k}")

    def of_list(self, scores, relevance, present):
        slope = lambda_rank(scores, relevance, present, self.k, self.exponential)
        value = 1 - ndcg(scores, relevance, present, self.k, self.exponential)
        value += TIES * rank_net(scores, relevance, present)
        return jax.lax.stop_gradient(value - slope) + slope
