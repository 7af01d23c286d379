r"""A neural energy over the rows of a table: a network that bends a mixture of Gaussians.

\[ F(y) = f(u(y)) - \log q(y), \]

f a multilayer perceptron with smooth units over the coordinates u of a row, and q the mixture that is fitted first
(`thalweg.models.background`). What f adds is bounded by what q confines, so \(e^{-F}\) can be normalised; before the
first step f is 0 and the energy is the mixture's. Contrastive (C2): the default, noise-contrastive estimation, pushes
up what q draws; the others push up the ends of chains, or match slopes.

LeCun, Chopra, Hadsell, Ranzato & Huang (2006), *A tutorial on energy-based learning*; Gutmann & Hyvärinen (2012),
*Noise-contrastive estimation of unnormalized statistical models*; a network beside a density that confines it: Xie, Lu,
Zhu & Wu (2016), *A theory of generative ConvNet*.
"""

from dataclasses import dataclass, replace

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float

from thalweg.data.rows import Rows
from thalweg.energy.capabilities import AbstractTabular, AbstractTempered
from thalweg.energy.spaces import Record
from thalweg.errors import SettingsError
from thalweg.learning.noise import NoiseContrastive
from thalweg.learning.objective import AbstractObjective
from thalweg.learning.run import Fit
from thalweg.learning.samples import ContrastiveDivergence
from thalweg.learning.scores import DenoisingScoreMatching, ScoreMatching, SlicedScoreMatching
from thalweg.models import background
from thalweg.models.background import Background
from thalweg.models.descent import by_adam
from thalweg.models.embedding import Embedding
from thalweg.models.recipe import Problem, Recipe, setting
from thalweg.models.relaxation import Blurred, bins, relaxed, steps_of_numbers
from thalweg.models.rows import points
from thalweg.nn.initial import OUTLINE, Initial, drawn
from thalweg.nn.mlp import Trunk

#: How steep the units of the first layer are at first, and how far spread: rows of a few columns have fine detail.
SHARPNESS = 2.0
#: Rows that a held-out loss is measured on; fewer come several times, each time with other noise.
HELD_OUT = 1024
CHAINS = ("cd", "pcd")
LOSSES = ("nce", *CHAINS, "sm", "ssm", "dsm")


class Bent(AbstractTabular, AbstractTempered):
    r"""\(F(y) = a^\top h(u(y)) + c - \log q(y)\), in nats; normalised as far as training found c.

    `first` (e, h), `bias` (h,) and `trunk` make the last hidden layer h; `last` is a (h,), `constant` c. The path of
    annealing is \(\beta f - \log q\).
    """

    background: Background
    first: Float[Array, "e h"]
    bias: Float[Array, "h"]
    trunk: Trunk
    last: Float[Array, "h"]
    constant: Float[Array, ""]

    @property
    def space(self) -> Record:
        return self.background.embedding.space

    def __call__(self, y, x=None):
        u, _ = self.background.embedding.embed(y)
        bend = self.last @ self.trunk(u @ self.first + self.bias) + self.constant
        return bend - jax.lax.stop_gradient(self.background).log_prob(y)

    def tempered(self, beta):
        return eqx.tree_at(lambda F: (F.last, F.constant), self, (beta * self.last, beta * self.constant))

    def start(self):
        return self.background

    def bare(self):
        return self.over(self.background.embedding.bare())

    def over(self, embedding: Embedding) -> "Bent":
        """The same function over a space with the same coordinates."""
        return replace(self, background=self.background.over(embedding))


@dataclass(frozen=True)
class Settings:
    """Settings of `mlp-ebm`."""

    width: int = setting(128, "units of each hidden layer")
    layers: int = setting(2, "hidden layers")
    components: int = setting(10, "Gaussians of the mixture that the network bends")
    loss: str = setting("nce", f"what trains the network: {', '.join(LOSSES)}")
    noise: int = setting(4, "nce: rows of noise for each row of data")
    chain: int = setting(20, "cd, pcd: steps of the chains a training step")
    stride: float = setting(0.1, "cd, pcd: length of a step of the chains, in deviations of a column")
    blur: float = setting(0.1, "dsm: deviation of the noise on rows, in deviations of a column")
    steps: int = setting(3000, "training steps at most")
    batch: int = setting(256, "rows a step")
    learning_rate: float = setting(5e-3, "largest step of Adam, falling to 0")
    decay: float = setting(1e-2, "weight decay")
    patience: int = setting(
        10, "measurements without a lower held-out loss before stopping; not of cd and pcd"
    )

    def __post_init__(self):
        if self.loss not in LOSSES:
            raise SettingsError(f"loss {self.loss!r} is not known: choose one of {', '.join(LOSSES)}")


def build(background: Background, settings: Settings, initial: Initial) -> Bent:
    """The network before training: it bends nothing."""
    width, e = settings.width, background.embedding.width
    return Bent(
        background,
        initial.normal((e, width), SHARPNESS / e**0.5),
        initial.normal((width,), SHARPNESS),
        Trunk(width, settings.layers, initial=initial),
        initial.zeros(width),
        initial.zeros(),
    )


def skeleton(space: Record, settings: Settings) -> Bent:
    """An energy of the right shapes."""
    return build(background.empty(Embedding(space), settings.components), settings, OUTLINE)


def train(problem: Problem) -> Fit:
    """The mixture by EM, then the network by the loss that is asked for."""
    settings, space = problem.settings, problem.space
    _check(space, settings)
    init_key, fit_key, mixture_key = jax.random.split(problem.key, 3)
    mixture = background.fitted(replace(problem, key=mixture_key), settings.components)
    embedding = mixture.embedding
    start = build(mixture, settings, drawn(init_key)).over(Embedding(relaxed(space), embedding.scale))
    held_out = _held_out(problem.validation, settings)
    result = by_adam(
        problem,
        start,
        points(problem.rows, partial=settings.loss in CHAINS),
        Blurred(objective_for(start, settings), bins(space)),
        key=fit_key,
        held_out=held_out,
        patience=settings.patience,
        warm=False,
        decay=settings.decay,
        decayed=_learned,
    )
    assert isinstance(result.energy, Bent)
    return replace(result, energy=result.energy.over(embedding))


def objective_for(energy: Bent, settings: Settings) -> AbstractObjective:
    """The objective of this name, over the relaxed space of the energy."""
    match settings.loss:
        case "nce":
            return NoiseContrastive(energy.background, settings.noise)
        case "sm":
            return ScoreMatching("full")
        case "ssm":
            return SlicedScoreMatching()
        case "dsm":
            return DenoisingScoreMatching((settings.blur,))
    kernel = steps_of_numbers(energy.space, settings.stride)
    return ContrastiveDivergence(kernel, settings.chain, "data" if settings.loss == "cd" else "persistent")


def _check(space: Record, settings: Settings) -> None:
    if settings.loss in ("sm", "ssm", "dsm") and space.where("categorical"):
        name = space.columns[space.where("categorical")[0]].name
        raise SettingsError(
            f"loss {settings.loss!r} is for numbers, and {name!r} is a category: leave it out (--drop), or take nce"
        )


def _held_out(rows: Rows, settings: Settings) -> Float[np.ndarray, "n d"] | None:
    """Whole rows for early stopping; None where there are none, or the loss doesn't measure progress."""
    kept = rows.values[rows.complete]
    if settings.loss in CHAINS or not len(kept):
        return None
    return kept[np.arange(max(HELD_OUT, len(kept))) % len(kept)]


def _learned(energy: Bent) -> Bent:
    """True for the weights of the network: what decay may shrink."""
    nothing = jax.tree.map(lambda _: False, energy)
    return eqx.tree_at(
        lambda F: (F.first, F.last, F.trunk.weights),
        nothing,
        (True, True, tuple(True for _ in energy.trunk.weights)),
    )


MLP_EBM = Recipe(
    name="mlp-ebm",
    title="Neural energy of a table",
    code="C2",
    paper="Gutmann & Hyvärinen (2012), Noise-contrastive estimation of unnormalized statistical models",
    formula="F(y) = f(u(y)) − log q(y)",
    about="A network that bends a mixture of Gaussians; numbers, counts and categories.",
    energy=Bent,
    settings=Settings,
    skeleton=skeleton,
    train=train,
    validates=True,
)
