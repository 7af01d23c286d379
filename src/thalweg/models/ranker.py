r"""A ranker: which row of a query comes first.

\[ F(y) = -s(x), \]

s a network over the columns of a row but two: the query that the row belongs to and its relevance. Only rows of one
query are compared in training (`thalweg.learning.ranking`): the more relevant of two should have the lower energy. So F
orders rows, and its value by itself means nothing.

Burges, Shaked, Renshaw, Lazier, Deeds, Hamilton & Hullender (2005), *Learning to rank using gradient descent*; Cao,
Qin, Liu, Tsai & Li (2007), *Learning to rank: from pairwise approach to listwise approach*; Burges (2010), *From
RankNet to LambdaRank to LambdaMART: an overview*.
"""

from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from thalweg.data.rows import Rows
from thalweg.energy.capabilities import (
    AbstractMarginal,
    AbstractScored,
    AbstractTabular,
    AbstractZeroTemperature,
)
from thalweg.energy.spaces import Record
from thalweg.errors import DataError, SettingsError
from thalweg.learning.groups import Groups, groups
from thalweg.learning.ranking import AbstractLists, LambdaRank, ListNet, RankNet
from thalweg.learning.run import Fit
from thalweg.models.answered import answered
from thalweg.models.descent import by_adam
from thalweg.models.inputs import Inputs
from thalweg.models.networks import Network, NetworkSettings, network_of
from thalweg.models.recipe import Problem, Recipe, place_of, setting
from thalweg.nn.initial import OUTLINE, Initial, drawn

LOSSES = ("lambda-rank", "rank-net", "list-net")
GAINS = ("exponential", "linear")
#: Rows of a query that are ranked together; longer ones are divided.
LONGEST = 128
#: The share of queries that stop the training.
HELD_OUT = 0.1


class Ranker(AbstractScored, AbstractMarginal, AbstractTabular, AbstractZeroTemperature):
    """\\(F = -s\\): the lower, the better. What a row says of its query and relevance is not read."""

    network: Network

    @property
    def space(self) -> Record:
        return self.network.inputs.space

    @property
    def query(self) -> int:
        return self.network.inputs.answers[1]

    def score(self, y, observed, *, key=None):
        return self.network(y, observed, key=key)[0]

    def marginal(self, y, observed, x=None):
        """With cells missing: as it was taught to read rows without them."""
        return -self.score(y, observed)

    def __call__(self, y, x=None):
        return -self.score(y, jnp.ones(y.shape, bool))

    def bare(self):
        return eqx.tree_at(lambda F: F.network, self, self.network.bare())


@dataclass(frozen=True)
class Settings(NetworkSettings):
    """Settings of `ranker`."""

    target: str = setting("", "the column of relevance, the more the better (--target)")
    query: str = setting("", "the column that says which rows are ranked together")
    waves: int = setting(
        16,
        "sines and as many cosines that read each number beside itself; 0 for a network that is smooth in them",
    )
    loss: str = setting("lambda-rank", f"the loss over lists: {', '.join(LOSSES)}")
    k: int = setting(10, "lambda-rank: the places of NDCG that count")
    gain: str = setting(
        "exponential", "lambda-rank: what relevance r is worth: exponential (2^r - 1) or linear (r)"
    )
    steps: int = setting(3000, "training steps at most")
    batch: int = setting(32, "queries a step")
    learning_rate: float = setting(2e-3, "largest step of Adam, falling to 0")
    decay: float = setting(1e-2, "weight decay")
    patience: int = setting(10, "measurements without a lower held-out loss before stopping")

    def __post_init__(self):
        NetworkSettings.__post_init__(self)
        if not self.query:
            raise SettingsError(
                "ranker compares rows of one query: say which column it is, query= (--set query=…)"
            )
        if self.loss not in LOSSES:
            raise SettingsError(f"loss {self.loss!r} is not known: choose one of {', '.join(LOSSES)}")
        if self.gain not in GAINS:
            raise SettingsError(f"the gain is exponential or linear, not {self.gain!r}")
        if self.k < 1:
            raise SettingsError(f"NDCG is of at least one place, not {self.k}")


def build(space: Record, settings: Settings, initial: Initial) -> Ranker:
    """The network before training, to which all rows are equal."""
    target, query = place_of(space, settings.target), place_of(space, settings.query)
    if target == query:
        raise SettingsError(
            f"{settings.target!r} cannot be both the query and its rows' relevance: name two columns"
        )
    column = space.columns[target]
    if column.kind == "categorical" and column.size > 2:
        raise SettingsError(
            f"relevance has an order, and {column.name!r} is a category: say --kind {column.name}=integer, or give "
            "numbers, the more the better"
        )
    return Ranker(network_of(Inputs(space, (target, query)), 1, settings, initial))


def skeleton(space: Record, settings: Settings) -> Ranker:
    """An energy of the right shapes."""
    return build(space, settings, OUTLINE)


def train(problem: Problem) -> Fit:
    """The network by the loss that is asked for; queries that are held out say when to stop."""
    settings, space = problem.settings, problem.space
    init_key, fit_key = jax.random.split(problem.key)
    start = build(space, settings, drawn(init_key))
    lists, held_out = lists_of(problem.rows, space, settings)
    return by_adam(
        problem,
        start,
        lists,
        objective_for(settings),
        key=fit_key,
        held_out=held_out,
        patience=settings.patience,
        clip=1.0,
        decay=settings.decay,
    )


def objective_for(settings: Settings) -> AbstractLists:
    """The loss of this name."""
    if settings.loss == "lambda-rank":
        return LambdaRank(settings.k, settings.gain == "exponential")
    return RankNet() if settings.loss == "rank-net" else ListNet()


def lists_of(rows: Rows, space: Record, settings: Settings) -> tuple[Groups, Groups | None]:
    """The rows by their query, and those of some queries that are held out; only queries that have an order.

    Raises `DataError` where none has.
    """
    target, query = place_of(space, settings.target), place_of(space, settings.query)
    rows = answered(rows, (target, query), space.names)
    _, of = np.unique(rows.values[:, query], return_inverse=True)
    relevance = relevance_of(rows, space, target)
    least, most = (np.full(of.max() + 1, start) for start in (np.inf, -np.inf))
    np.minimum.at(least, of, relevance)
    np.maximum.at(most, of, relevance)
    if not (most > least).any():
        raise DataError(
            f"no two rows of the same {settings.query!r} differ in {settings.target!r}: there is no order to learn"
        )
    ordered = np.flatnonzero(most > least)
    shuffled = np.random.default_rng(0).permutation(ordered)
    aside = np.isin(of, shuffled[: int(HELD_OUT * len(ordered))])
    kept = np.isin(of, ordered)

    def laid(some: np.ndarray) -> Groups:
        parts = rows.values[some], rows.observed[some], relevance[some]
        return groups(parts, of[some], LONGEST, seed=0)

    return laid(kept & ~aside), laid(aside) if aside.any() else None


def relevance_of(rows: Rows, space: Record, target: int) -> Float[np.ndarray, "n"]:
    """The relevance as it is worth something: a count or a flag as it is, another number from 0 in its deviations."""
    codes = rows.values[:, target]
    return codes if space.columns[target].finite else codes - codes.min()


RANKER = Recipe(
    name="ranker",
    title="Ranker",
    code="C2",
    paper="Burges et al. (2005), Learning to rank using gradient descent",
    formula="F(y) = −s(x)",
    about="Orders the rows of a query by relevance: RankNet, ListNet or LambdaRank over any network.",
    energy=Ranker,
    settings=Settings,
    skeleton=skeleton,
    train=train,
    ordered=True,
    lists="query",
)
