r"""A two-tower energy: two kinds of things, read by two networks, lie near one another where they belong together.

\[ F(a, b) = \lVert G(a) - H(b) \rVert^2 / 2\tau, \]

a and b the two sides of a row (a drawing and the same by another hand, a question and its answer, a coarse picture and
a sharp one); G and H have outputs of length 1, and \(\tau\) is learnt. Contrastive (C2): the other rows of a batch are
the wrong partners, of each side for the other, and \(e^{-F}\) over all that a batch offers is fitted by likelihood
(`thalweg.learning.pairs.matching`). The partner of an a among many b is the nearest H(b): a search that needs one pass
of the networks over each, not over each pair.

LeCun, Chopra, Hadsell, Ranzato & Huang (2006), *A tutorial on energy-based learning*; Radford et al. (2021), *Learning
transferable visual models from natural language supervision*.
"""

import math
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from thalweg.energy.base import Scalar
from thalweg.energy.capabilities import (
    AbstractEmbedded,
    AbstractEncoder,
    AbstractMarginal,
    AbstractTabular,
    AbstractZeroTemperature,
)
from thalweg.energy.spaces import Record
from thalweg.errors import SettingsError, did_you_mean
from thalweg.learning.pairs import Matching
from thalweg.learning.run import Fit
from thalweg.models.descent import by_adam
from thalweg.models.inputs import Inputs
from thalweg.models.networks import Network, NetworkSettings, network_of
from thalweg.models.recipe import Problem, Recipe, setting
from thalweg.models.siamese import unit
from thalweg.nn.initial import OUTLINE, Initial, drawn

#: The least temperature, at which the nearest of embeddings is told for certain.
COLDEST = 0.01
#: Halves of a picture that may be a side, by the axis along which it is cut.
HALVES = {"top": 0, "left": 1}


class TwoTower(AbstractEmbedded, AbstractEncoder, AbstractMarginal, AbstractTabular, AbstractZeroTemperature):
    r"""\(F = \lVert G(a) - H(b) \rVert^2 / 2\tau\) of the two sides of a row, in nats: how well they match.

    It says nothing about what either side looks like by itself. A missing cell is read as missing.
    """

    towers: tuple[Network, Network]
    log_temperature: Float[Array, ""]

    @property
    def space(self) -> Record:
        return self.towers[0].inputs.space

    @property
    def temperature(self) -> Scalar:
        return jnp.exp(jnp.maximum(self.log_temperature, math.log(COLDEST)))

    @property
    def sides(self):
        first, second = (tuple(tower.inputs.index.tolist()) for tower in self.towers)
        return first, second

    def embed(self, y, observed, side=0, *, key=None):
        return unit(self.towers[side](y, observed, key=key))

    def __call__(self, y, x=None):
        return self.marginal(y, jnp.ones(y.shape, bool))

    def marginal(self, y, observed, x=None):
        return (1 - self.embed(y, observed) @ self.embed(y, observed, 1)) / self.temperature

    def encode(self, y, observed, x=None):
        """G(a) and H(b) side by side; 0 for a side of which nothing is known."""

        def known(side: int) -> Float[Array, "k"]:
            some = jnp.any(observed[np.array(self.sides[side])])
            return jnp.where(some, self.embed(y, observed, side), 0.0)

        return jnp.concatenate([known(0), known(1)])

    def bare(self):
        return eqx.tree_at(lambda F: F.towers, self, tuple(tower.bare() for tower in self.towers))


@dataclass(frozen=True)
class Settings(NetworkSettings):
    """Settings of `two-tower`."""

    first: str = setting(
        "",
        "the columns of one side, by name or pattern (left_*), separated by commas; of images left or top, the half",
    )
    size: int = setting(64, "numbers of an embedding")
    temperature: float = setting(
        0.1, "what squared distances are divided by to be nats, twice, before training"
    )
    steps: int = setting(2000, "training steps")
    batch: int = setting(128, "rows a step, each the others' wrong answer")
    learning_rate: float = setting(1e-3, "largest step of Adam, falling to 0")
    decay: float = setting(1e-2, "weight decay")

    def __post_init__(self):
        NetworkSettings.__post_init__(self)
        if not self.first:
            raise SettingsError(
                "two-tower matches two sides of a row: say which columns are one, first= (--set first=…)"
            )
        if not self.temperature >= COLDEST:
            raise SettingsError(f"temperature must be at least {COLDEST}, not {self.temperature:g}")
        if self.size < 2 or self.batch < 2:
            raise SettingsError(
                f"an embedding has at least 2 numbers and a batch 2 rows, not {self.size} and {self.batch}"
            )


@lru_cache(maxsize=16)
def sides_of(space: Record, first: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The places of the columns of both sides. Raises `SettingsError` for a name that is none, and an empty side."""
    chosen: set[int] = set()
    for pattern in filter(None, (part.strip() for part in first.split(","))):
        found = _half(space, HALVES[pattern]) if _is_half(space, pattern) else _named(space, pattern)
        if not found:
            hint = did_you_mean(pattern, space.names, "there are")
            raise SettingsError(f"first: no column is called {pattern!r}: {hint}")
        chosen.update(found)
    others = tuple(i for i in range(len(space.columns)) if i not in chosen)
    if not others or not chosen:
        raise SettingsError(
            f"first={first!r} leaves one of the two sides without a column: name some of them, not all"
        )
    return tuple(sorted(chosen)), others


def _named(space: Record, pattern: str) -> list[int]:
    return [i for i, name in enumerate(space.names) if name == pattern or fnmatchcase(name, pattern)]


def _is_half(space: Record, pattern: str) -> bool:
    return pattern in HALVES and pattern not in space.names and any(column.place for column in space.columns)


def _half(space: Record, axis: int) -> list[int]:
    """The pixels before the middle of the picture."""
    places = {i: column.place[axis] for i, column in enumerate(space.columns) if column.place}
    middle = (max(places.values()) + 1) / 2
    return [i for i, place in places.items() if place < middle]


def build(space: Record, settings: Settings, initial: Initial) -> TwoTower:
    """The networks before training."""
    first, second = sides_of(space, settings.first)

    def tower(others: tuple[int, ...]) -> Network:
        return network_of(Inputs(space, others), settings.size, settings, initial, spread=1.0)

    start = initial.constant((), lambda: math.log(settings.temperature))
    return TwoTower((tower(second), tower(first)), start)


def skeleton(space: Record, settings: Settings) -> TwoTower:
    """An energy of the right shapes."""
    return build(space, settings, OUTLINE)


def train(problem: Problem) -> Fit:
    """Both networks and the temperature by the likelihood of the right partner in a batch."""
    settings = problem.settings
    init_key, fit_key = jax.random.split(problem.key)
    held_out = problem.validation
    return by_adam(
        problem,
        build(problem.space, settings, drawn(init_key)),
        (problem.rows.values, problem.rows.observed),
        Matching(),
        key=fit_key,
        held_out=(held_out.values, held_out.observed) if len(held_out) > 1 else None,
        decay=settings.decay,
        decayed=_weights,
        looks=10,
    )


def _weights(energy: TwoTower) -> TwoTower:
    """True for what decay may shrink: everything but the temperature."""
    every = jax.tree.map(lambda _: True, energy)
    return eqx.tree_at(lambda F: F.log_temperature, every, False)


TWO_TOWER = Recipe(
    name="two-tower",
    title="Two towers",
    code="C2",
    paper="Radford et al. (2021), Learning transferable visual models from natural language supervision",
    formula="F(a, b) = ‖G(a) − H(b)‖² / 2τ",
    about="Whether the two sides of a row belong together; finds the partner of one side among many of the other.",
    energy=TwoTower,
    settings=Settings,
    skeleton=skeleton,
    train=train,
    validates=True,
)
