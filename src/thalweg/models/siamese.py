r"""A Siamese energy: rows of one class lie near one another, and those of different classes apart.

\[ E(a, b) = \lVert G(a) - G(b) \rVert^2 / 2\tau, \qquad F(c, x) = \lVert G(x) - M_c \rVert^2 / 2\tau, \]

G one network for both rows, whose outputs have length 1; \(M_c\) the mean direction of the rows of class c, so that a
row has an energy for each class that training saw, and two rows have one whatever their classes are. Contrastive (C2):
pairs of one class are drawn together, pairs of two pushed apart (`thalweg.learning.pairs`).

Bromley, Guyon, LeCun, Säckinger & Shah (1994), *Signature verification using a "Siamese" time delay neural network*;
Hadsell, Chopra & LeCun (2006), *Dimensionality reduction by learning an invariant mapping*; the mean of a class: Snell,
Swersky & Zemel (2017), *Prototypical networks for few-shot learning*.
"""

from dataclasses import dataclass, replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from thalweg.data.rows import Rows
from thalweg.energy.capabilities import AbstractEmbedded, AbstractEncoder, AbstractTabular
from thalweg.energy.spaces import Record
from thalweg.errors import DataError, SettingsError
from thalweg.learning.groups import groups
from thalweg.learning.objective import AbstractObjective
from thalweg.learning.pairs import Contrastive, InfoNCE, Triplet
from thalweg.learning.run import Fit
from thalweg.models.answered import answered, category
from thalweg.models.classes import AbstractClasses
from thalweg.models.descent import by_adam
from thalweg.models.inputs import Inputs
from thalweg.models.networks import Network, NetworkSettings, network_of
from thalweg.models.recipe import Problem, Recipe, place_of, setting
from thalweg.models.variations import Varied
from thalweg.nn.initial import OUTLINE, Initial, drawn

LOSSES = ("info-nce", "contrastive", "triplet")
#: The margins that the losses have by themselves, as distance and as squared distance; the farthest is 2.
MARGINS = {"contrastive": 1.0, "triplet": 0.2}
#: Rows of a class that lie together; a batch draws some of them.
GROUP = 16


class Siamese(AbstractClasses, AbstractEncoder, AbstractEmbedded, AbstractTabular):
    r"""\(F(c, x) = \lVert G(x) - M_c \rVert^2 / 2\tau\) in nats; `prototypes` (c, k) are \(M_c\), of length 1.

    A class without a row in training has 0 for prototype, at right angles to everything.
    """

    network: Network
    prototypes: Float[Array, "c k"]
    temperature: float = eqx.field(static=True)

    @property
    def space(self) -> Record:
        return self.network.inputs.space

    @property
    def answers(self):
        return self.network.inputs.answers

    @property
    def sides(self):
        inputs = tuple(self.network.inputs.index.tolist())
        return inputs, inputs

    def embed(self, y, observed, side=0, *, key=None):
        return unit(self.network(y, observed, key=key))

    def encode(self, y, observed, x=None):
        return self.embed(y, observed)

    def class_energies(self, y, observed):
        return (1 - self.prototypes @ self.embed(y, observed)) / self.temperature

    def bare(self):
        return eqx.tree_at(lambda F: F.network, self, self.network.bare())


def unit(u: Float[Array, "k"]) -> Float[Array, "k"]:
    """The direction of a vector, with a gradient at 0 too."""
    return u / jnp.sqrt(jnp.sum(u**2) + 1e-12)


@dataclass(frozen=True)
class Settings(NetworkSettings):
    """Settings of `siamese`."""

    target: str = setting("", "the column that says which rows belong together (--target)")
    size: int = setting(32, "numbers of an embedding")
    loss: str = setting("info-nce", f"the loss over pairs: {', '.join(LOSSES)}")
    temperature: float = setting(0.1, "what squared distances are divided by to be nats, twice")
    margin: float = setting(0.0, "contrastive, triplet: how far apart is enough (0: 1 and 0.2; at most 2)")
    each: int = setting(4, "rows of a class in a batch")
    shift: int = setting(0, "images: by how many pixels pictures are moved at random in training")
    mirror: bool = setting(False, "images: whether half of the pictures are mirrored in training")
    light: float = setting(0.0, "images: deviation of the contrast and brightness of pictures in training")
    steps: int = setting(1000, "training steps")
    batch: int = setting(64, "rows a step")
    learning_rate: float = setting(1e-3, "largest step of Adam, falling to 0")
    decay: float = setting(1e-2, "weight decay")

    def __post_init__(self):
        NetworkSettings.__post_init__(self)
        if self.loss not in LOSSES:
            raise SettingsError(f"loss {self.loss!r} is not known: choose one of {', '.join(LOSSES)}")
        if not self.temperature > 0:
            raise SettingsError(f"temperature must be more than 0, not {self.temperature:g}")
        if not 0 <= self.margin <= 2:
            raise SettingsError(
                f"embeddings are at most 2 apart, so the margin lies below, not {self.margin:g}"
            )
        if self.size < 2:
            raise SettingsError(f"an embedding has at least 2 numbers, not {self.size}")
        if self.light < 0:
            raise SettingsError(f"light is at least 0, not {self.light:g}")
        if self.each < 2 or self.batch < 2 * self.each:
            raise SettingsError(
                f"a batch needs at least 2 rows of 2 classes, not {self.each} of each in {self.batch} rows"
            )


def build(space: Record, settings: Settings, initial: Initial) -> Siamese:
    """The network before training, and no prototypes."""
    target = place_of(space, settings.target)
    size = category(space, target, "siamese").size
    # Pictures are varied before the network reads them, so that it need not move them once more.
    still = replace(settings, shift=0)
    network = network_of(Inputs(space, (target,)), settings.size, still, initial, spread=1.0)
    return Siamese(network, initial.zeros(size, settings.size), settings.temperature)


def skeleton(space: Record, settings: Settings) -> Siamese:
    """An energy of the right shapes."""
    return build(space, settings, OUTLINE)


def train(problem: Problem) -> Fit:
    """The network by pairs, then the prototypes."""
    settings, space = problem.settings, problem.space
    init_key, fit_key = jax.random.split(problem.key)
    start = build(space, settings, drawn(init_key))
    rows = answered(problem.rows, start.answers, space.names)
    (target,) = start.answers
    classes = rows.values[:, target].astype(int)
    _check(classes, settings.target)
    result = by_adam(
        problem,
        start,
        groups((rows.values, rows.observed), classes, GROUP, seed=0),
        objective_for(settings, start.network.inputs),
        key=fit_key,
        batch=settings.batch // settings.each,
        decay=settings.decay,
        looks=10,
    )
    assert isinstance(result.energy, Siamese)
    means = prototypes(result.energy, rows, classes)
    return replace(result, energy=replace(result.energy, prototypes=jnp.asarray(means)))


def objective_for(settings: Settings, inputs: Inputs) -> AbstractObjective:
    """The loss of this name; of pictures that are varied, where the settings say so."""
    margin = settings.margin or MARGINS.get(settings.loss, 1.0)
    objective = {
        "info-nce": InfoNCE(settings.each),
        "contrastive": Contrastive(settings.each, margin),
        "triplet": Triplet(settings.each, margin),
    }[settings.loss]
    if not (settings.shift or settings.mirror or settings.light):
        return objective
    return Varied(objective, inputs, settings.shift, settings.mirror, settings.light)


def prototypes(energy: Siamese, rows: Rows, classes: np.ndarray) -> Float[np.ndarray, "c k"]:
    """The mean direction of the embeddings of each class; 0 for a class without rows."""
    u = np.asarray(_embedded(energy, jnp.asarray(rows.values), jnp.asarray(rows.observed)), np.float64)
    sums = np.zeros(energy.prototypes.shape)
    np.add.at(sums, classes, u)
    return (sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)).astype(np.float32)


@eqx.filter_jit
def _embedded(energy: Siamese, values: Array, observed: Array) -> Float[Array, "n k"]:
    return jax.lax.map(lambda row: energy.embed(*row), (values, observed), batch_size=256)


def _check(classes: np.ndarray, target: str) -> None:
    """Raise `DataError` where no two rows belong together, or all do."""
    counts = np.bincount(classes)
    if np.sum(counts > 0) < 2:
        raise DataError(f"all rows have the same {target!r}: there is nothing to push apart")
    if counts.max() < 2:
        raise DataError(f"no two rows have the same {target!r}: there is nothing to draw together")


SIAMESE = Recipe(
    name="siamese",
    title="Siamese network",
    code="C2",
    paper="Hadsell, Chopra & LeCun (2006), Dimensionality reduction by learning an invariant mapping",
    formula="F(c, x) = ‖G(x) − M_c‖² / 2τ",
    about="An embedding in which rows of one class are near one another; finds like rows, of classes never seen too.",
    energy=Siamese,
    settings=Settings,
    skeleton=skeleton,
    train=train,
)
