r"""Products of Student-t experts: filters that are each rarely far from 0.

\[ F(y) = \sum_j \alpha_j \log\left(1 + \tfrac12 s_j^2\right), \qquad s_j = w_j^\top u(y) + b_j, \]

with \(\alpha_j > \tfrac12\) and more filters than coordinates. Square, with as many filters as coordinates, it is
independent component analysis without noise. Trained by score matching, whose loss is in closed form here, or
contrastively (C2) where there are categories.

Teh, Welling, Osindero & Hinton (2003), *Energy-based models for sparse overcomplete representations*; by score
matching: Hyvärinen (2005), *Estimation of non-normalized statistical models by score matching*; Köster & Hyvärinen
(2010), *A two-layer model of natural stimuli estimated with score matching*.
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from thalweg.data.rows import Rows
from thalweg.energy.base import AbstractEnergy
from thalweg.energy.capabilities import AbstractEncoder, AbstractTabular
from thalweg.energy.spaces import Record
from thalweg.errors import SettingsError
from thalweg.learning.objective import AbstractObjective
from thalweg.learning.rows import whole
from thalweg.learning.run import Fit
from thalweg.learning.samples import ContrastiveDivergence
from thalweg.models.descent import by_adam
from thalweg.models.embedding import Embedding
from thalweg.models.recipe import Problem, Recipe, setting
from thalweg.models.relaxation import Blurred, bins, relaxed, steps_of_numbers
from thalweg.models.rows import points
from thalweg.nn.initial import OUTLINE, Initial, drawn

#: The least exponent of an expert: below it a single one would not be a density of its own filter.
LEAST = 0.5
#: Directions of the rows with less than this share of the largest variance are not stretched further.
FLATTEST = 1e-3
LOSSES = ("auto", "sm", "cd", "pcd")


class Products(AbstractTabular, AbstractEncoder):
    r"""\(F(y) = \sum_j \alpha_j \log(1 + \frac12 (w_j^\top u + b_j)^2)\), in nats, not normalised.

    `filters` w (j, e), `shift` b (j,), `raw` (j,) with \(\alpha = \frac12 + \mathrm{softplus}(raw)\).
    """

    embedding: Embedding
    filters: Float[Array, "j e"]
    shift: Float[Array, "j"]
    raw: Float[Array, "j"]

    @property
    def space(self) -> Record:
        return self.embedding.space

    @property
    def exponents(self) -> Float[Array, "j"]:
        r"""\(\alpha\)."""
        return LEAST + jax.nn.softplus(self.raw)

    def __call__(self, y, x=None):
        s = self.encode(y, jnp.ones(y.shape, bool))
        return self.exponents @ jnp.log1p(s**2 / 2)

    def encode(self, y, observed, x=None):
        """What each filter says, s (j,); a missing cell says nothing."""
        return self.filters @ self.embedding.embed(y, observed)[0] + self.shift

    def bare(self):
        return replace(self, embedding=self.embedding.bare())


class Whitened(AbstractEnergy):
    r"""A product while it trains: `product` has the filters v of the whitened coordinates \(Wu\), \(w = W^\top v\).

    Neither score matching nor Adam is indifferent to the coordinates: where columns are correlated both hardly see what
    lies along the directions of large variance.
    """

    product: Products
    whiten: Float[Array, "e e"]

    @property
    def space(self) -> Record:
        return self.product.space

    @property
    def folded(self) -> Products:
        """The product over the rows as they are."""
        return replace(self.product, filters=self.product.filters @ jax.lax.stop_gradient(self.whiten))

    def __call__(self, y, x=None):
        return self.folded(y, x)


class ProductScoreMatching(AbstractObjective):
    r"""`ScoreMatching` of a product in closed form, in its coordinates u, or the whitened ones, all of them numbers:

    \[ L = E\Big[\tfrac12 \big\|\sum_j \alpha_j\phi'(s_j) w_j\big\|^2 - \sum_j \alpha_j \phi''(s_j) \|w_j\|^2\Big],
       \quad \phi(s) = \log(1 + \tfrac12 s^2). \]
    """

    def __call__(self, energy, batch, memory, *, key):
        values = whole(batch, "score matching")
        product, filters = _seen(energy)
        s = jax.vmap(lambda y: product.encode(y, jnp.ones(y.shape, bool)))(values)
        inside = 1 + s**2 / 2
        alpha = product.exponents[None]
        slope = (alpha * s / inside) @ filters
        bend = alpha * (1 - s**2 / 2) / inside**2
        size = jnp.sum(filters**2, axis=1)
        return jnp.mean(jnp.sum(slope**2, axis=1) / 2 - bend @ size), (memory, {})


def _seen(energy: Products | Whitened) -> tuple[Products, Float[Array, "j e"]]:
    """The product, and its filters in the coordinates in which slopes are matched."""
    return (
        (energy.folded, energy.product.filters) if isinstance(energy, Whitened) else (energy, energy.filters)
    )


@dataclass(frozen=True)
class Settings:
    """Settings of `products`."""

    experts: float = setting(2.0, "filters for each coordinate; 1: independent component analysis")
    loss: str = setting("auto", "sm, cd or pcd; auto: sm, or pcd where there are categories")
    chain: int = setting(10, "cd, pcd: steps of the chains a training step")
    stride: float = setting(0.2, "cd, pcd: length of a step of the chains, in deviations of a column")
    jitter: float = setting(0.05, "rows are blurred by as many deviations of a number to either side")
    steps: int = setting(3000, "training steps")
    batch: int = setting(256, "rows a step")
    learning_rate: float = setting(1e-2, "largest step of Adam, falling to 0")

    def __post_init__(self):
        if self.loss not in LOSSES:
            raise SettingsError(f"loss {self.loss!r} is not known: choose one of {', '.join(LOSSES)}")
        if not self.experts > 0:
            raise SettingsError(f"experts must be more than 0 for each coordinate, not {self.experts:g}")


def build(embedding: Embedding, settings: Settings, initial: Initial) -> Products:
    """Random filters."""
    e = embedding.width
    count = max(1, round(settings.experts * e))
    filters = initial.normal((count, e), e**-0.5)
    return Products(embedding, filters, initial.zeros(count), initial.zeros(count))


def skeleton(space: Record, settings: Settings) -> Products:
    """An energy of the right shapes."""
    return build(Embedding(space), settings, OUTLINE)


def train(problem: Problem) -> Fit:
    """Adam on the loss in whitened coordinates, from random filters."""
    settings, space = problem.settings, problem.space
    init_key, fit_key = jax.random.split(problem.key)
    embedding = Embedding(space)
    over = Embedding(relaxed(space), embedding.scale)
    start = Whitened(build(over, settings, drawn(init_key)), _whitening(embedding, problem.rows))
    objective = objective_for(over.space, settings)
    result = by_adam(
        problem,
        start,
        points(problem.rows, partial=isinstance(objective, ContrastiveDivergence)),
        Blurred(objective, bins(space, settings.jitter)),
        key=fit_key,
        warm=False,
    )
    assert isinstance(result.energy, Whitened)
    return replace(result, energy=replace(result.energy.folded, embedding=embedding))


def objective_for(space: Record, settings: Settings) -> AbstractObjective:
    """The loss of this name over the relaxed space. Raises `SettingsError` for score matching of categories."""
    categories = space.where("categorical")
    loss = settings.loss if settings.loss != "auto" else "pcd" if categories else "sm"
    if loss == "sm":
        if categories:
            raise SettingsError(
                f"score matching is for numbers, and {space.columns[categories[0]].name!r} is a category: leave it "
                "out (--drop), or take loss=pcd"
            )
        return ProductScoreMatching()
    kernel = steps_of_numbers(space, settings.stride)
    return ContrastiveDivergence(kernel, settings.chain, "data" if loss == "cd" else "persistent")


def _whitening(embedding: Embedding, rows: Rows) -> Float[Array, "e e"]:
    """What makes the coordinates uncorrelated and of deviation 1, as far as they vary."""
    u, seen = (np.asarray(part, np.float64) for part in embedding.rows(rows))
    mean = u.sum(axis=0) / np.maximum(seen.sum(axis=0), 1)
    centred = np.where(seen > 0, u - mean, 0.0)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(u))
    floor = max(FLATTEST * values[-1], np.finfo(np.float32).tiny)
    return jnp.asarray((vectors / np.sqrt(np.maximum(values, floor))) @ vectors.T, jnp.float32)


PRODUCTS = Recipe(
    name="products",
    title="Product of Student-t experts",
    code="C2",
    paper="Teh, Welling, Osindero & Hinton (2003), Energy-based models for sparse overcomplete representations",
    formula="F(y) = Σⱼ αⱼ log(1 + (wⱼ·u + bⱼ)²/2)",
    about="Sparse overcomplete filters of numbers; square, independent component analysis.",
    energy=Products,
    settings=Settings,
    skeleton=skeleton,
    train=train,
)
