r"""A convolutional energy over images, and what lies beside them in a row.

\[ F(y) = a^\top h(x) - \sum_c \log p(y_c \mid h(x)), \]

h the features, s times the last layer of 3×3 convolutions with smooth units over the picture x, whose kernels have one
norm (`thalweg.nn.convolution`); the columns that are no pixels (a label) have closed-form conditionals given h.
Contrastive (C2): \(e^{-a^\top h}\) is fitted to pictures with Gaussian noise of a deviation `blur`, first by denoising
score matching, which makes it right near the data, then by contrastive divergence with Langevin chains from a replay
buffer, which finds what is low elsewhere; both have the same optimum, and the conditionals their own likelihood.

Chains take numbers: a count is its unit bin (`thalweg.models.relaxation`), and the energy at a count is that of the
bin's middle. Noise is reflected at black and at white, as chains are. Short chains that are not corrected are not
maximum likelihood: F is nearly what its own chains of training sample.

Vincent (2011), *A connection between score matching and denoising autoencoders*; Du & Mordatch (2019), *Implicit
generation and modeling with energy-based models*; Nijkamp, Hill, Zhu & Wu (2019), *Learning non-convergent
non-persistent short-run MCMC toward energy-based model*; with labels: Grathwohl, Wang, Jacobsen, Duvenaud, Norouzi &
Swersky (2020), *Your classifier is secretly an energy based model and you should treat it like one*.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from thalweg.energy.base import AbstractEnergy, Scalar
from thalweg.energy.capabilities import AbstractBlurred, AbstractGibbs
from thalweg.energy.spaces import Column, Record
from thalweg.errors import SettingsError
from thalweg.learning.fit import fit
from thalweg.learning.objective import AbstractAround, AbstractObjective
from thalweg.learning.rows import split_batch
from thalweg.learning.run import Fit
from thalweg.learning.samples import ContrastiveDivergence
from thalweg.learning.scores import DenoisingScoreMatching
from thalweg.models.embedding import factors
from thalweg.models.gaussian import log_normal_1d
from thalweg.models.recipe import Problem, Recipe, setting
from thalweg.models.relaxation import Blurred, bins, relaxed
from thalweg.nn.convolution import Convolution
from thalweg.nn.initial import OUTLINE, Initial, drawn
from thalweg.sampling.kernel import AbstractKernel, Metric
from thalweg.sampling.langevin import MALA, ULA
from thalweg.sampling.lattice import LatticeLangevin
from thalweg.sampling.target import Target

#: Lengths of the steps of a sweep, in deviations of the noise that the energy was fitted with: it is no steeper than
#: that; and some shorter, for many pixels at once.
LADDER = (0.6, 0.2)
#: The least that counts are taken to be blurred by: shorter steps would move none.
COUNTS = 1.0
#: By how much more than independent pixels pictures may differ in energy: runs that train well spread over 32 nats on
#: digits and over 550 on pictures of 28×28, and a step changes energies by up to 1 and 25.
SPREAD = 4.0
#: The least deviation of a number beside the picture, given it.
FLOOR = 1e-2
#: The largest step of Adam before there are chains.
MATCHING_RATE = 1e-2


class Canvas(NamedTuple):
    """Where the pixels of a row lie, in NumPy: their columns, `place` of each in the picture of `shape`, and the
    `center` and `factor` that bring codes to a common scale; `others` are the columns beside them."""

    pixels: np.ndarray
    place: np.ndarray
    shape: tuple[int, int, int]
    center: np.ndarray
    factor: np.ndarray
    others: np.ndarray

    def picture(self, codes: Float[Array, "p"]) -> Float[Array, "h w c"]:
        """The picture; 0, their mean, where pixels never vary."""
        u = (codes - self.center) * self.factor
        size = int(np.prod(self.shape))
        if not np.array_equal(self.place, np.arange(size)):
            source = np.full(size, len(self.place))
            source[self.place] = np.arange(len(self.place))
            u = jnp.append(u, 0.0)[source]
        return u.reshape(self.shape)


@lru_cache(maxsize=64)
def canvas_of(space: Record) -> Canvas:
    """The picture in a row. Raises `SettingsError` where there is none."""
    pixels = [i for i, column in enumerate(space.columns) if column.pixel and len(column.place) in (2, 3)]
    if not pixels:
        raise SettingsError(
            "conv-ebm is for images: an array of (n, height, width) or (n, height, width, channels), a folder of "
            "pictures, or digits; for a table fit mlp-ebm"
        )
    columns = relaxed(Record(tuple(space.columns[i] for i in pixels))).columns
    coded = [column.name for column in columns if column.kind == "categorical"]
    if coded:
        raise SettingsError(
            f"the pixel {coded[0]!r} is a category, and conv-ebm is for shades: fit orderless"
        )
    places = np.array([(*column.place, 0)[:3] for column in columns])
    # Borders that never vary are not in the space, and need no room.
    places = places - places.min(axis=0)
    shape = tuple(int(n) for n in places.max(axis=0) + 1)
    return Canvas(
        np.array(pixels),
        np.ravel_multi_index(tuple(places.T), shape),
        (shape[0], shape[1], shape[2]),
        np.array([column.center for column in columns], np.float32),
        factors(columns, "auto").astype(np.float32),
        np.array([i for i in range(len(space.columns)) if i not in set(pixels)], int),
    )


class ConvEnergy(AbstractBlurred, AbstractGibbs):
    r"""\(F(y) = a^\top h(x) - \sum_c \log p(y_c \mid h(x))\), in nats, not normalised.

    `layers` make the features h, times `scale`; `last` is a (h,). `heads` (h, o) and `bias` (o,) give the logits of the
    categories beside the picture, and the means of the numbers, of deviation `log_deviation` in their own units. `blur`
    is the noise on the pixels of the data in training, in their deviations.
    """

    space: Record
    layers: tuple[Convolution, ...]
    last: Float[Array, "h"]
    heads: Float[Array, "h o"]
    bias: Float[Array, "o"]
    log_deviation: Float[Array, "n"]
    scale: float = eqx.field(static=True)
    blur: float = eqx.field(static=True)

    def __call__(self, y, x=None):
        h = self.features(y[canvas_of(self.space).pixels])
        return self.last @ h - jnp.sum(self.log_probs(h, y))

    def features(self, codes: Float[Array, "p"]) -> Float[Array, "h"]:
        """h, from the codes of the pixels."""
        image = canvas_of(self.space).picture(codes)
        for layer in self.layers:
            image = jax.nn.silu(layer(image))
        return self.scale * jnp.ravel(image)

    def log_probs(self, h: Float[Array, "h"], y: Float[Array, "d"]) -> Float[Array, "c"]:
        """log p of each column beside the picture, given its features."""
        out = h @ self.heads + self.bias
        found = []
        for column, i, outputs, number in _beside(self.space):
            if column.kind == "categorical":
                value = y[i].astype(jnp.int32)
                found.append(jax.nn.log_softmax(out[outputs])[value])
            else:
                u, deviation = (y[i] - column.center) / column.spread, self._deviation(number)
                found.append(log_normal_1d(u - out[outputs][0], deviation) - np.log(column.spread))
        return jnp.stack(found) if found else jnp.zeros(0)

    def _deviation(self, number: int) -> Scalar:
        return FLOOR + jnp.exp(self.log_deviation[number])

    def cleaned(self, y):
        canvas = canvas_of(self.space)
        pixels = y[canvas.pixels]
        slope = jax.grad(lambda codes: self.last @ self.features(codes))(pixels)
        lower, upper = (jnp.asarray(bound[canvas.pixels]) for bound in self.space.bounds())
        clean = pixels - jnp.asarray((self.blur / canvas.factor) ** 2) * slope
        return y.at[canvas.pixels].set(jnp.clip(clean, lower, upper))

    def gibbs(self, y, observed, x=None, *, beta, key, backwards=False):
        """What lies beside the picture given it; then the pixels, by Langevin steps that are accepted or not."""

        def beside(y, key):
            return self._beside_drawn(y, observed, beta, key=key)

        def by(kernels):
            def pixels(y, key):
                target = Target(self, x, beta, held=y, observed=observed, folded=True)
                # One slope serves until the next move is accepted.
                state = kernels[0].init(target, target.coordinates(y))
                for j, kernel in enumerate(kernels):
                    state, _ = kernel.step(target, state, key=jax.random.fold_in(key, j))
                return target.point(state.position)

            return pixels

        groups = steps_of_pixels(self.space, self.blur)
        moves = [beside, *(by(kernels[::-1] if backwards else kernels) for kernels in groups)]
        for i, move in enumerate(moves[::-1] if backwards else moves):
            y = move(y, jax.random.fold_in(key, i))
        return y

    def _beside_drawn(
        self, y: Float[Array, "d"], observed: Array, beta: float | Scalar, *, key: PRNGKeyArray
    ) -> Float[Array, "d"]:
        """A draw of the columns beside the picture, each from its own conditional."""
        if not len(canvas_of(self.space).others):
            return y
        h = self.features(y[canvas_of(self.space).pixels])
        out = h @ self.heads + self.bias
        for column, i, outputs, number in _beside(self.space):
            own = jax.random.fold_in(key, 1000 + int(i))
            if column.kind == "categorical":
                value = jax.random.categorical(own, beta * jax.nn.log_softmax(out[outputs])).astype(y.dtype)
            else:
                noise = self._deviation(number) * jax.random.normal(own) / jnp.sqrt(beta)
                value = column.center + column.spread * (out[outputs][0] + noise)
                if column.kind == "integer":
                    value = jnp.clip(jnp.round(value), 0, column.size - 1)
            y = y.at[i].set(jnp.where(observed[i], y[i], value))
        return y


class Picture(AbstractEnergy):
    """The energy of the pixels alone, the columns beside them summed out, over the numbers that chains move."""

    energy: ConvEnergy
    space: Record = eqx.field(static=True)

    def __call__(self, y, x=None):
        return self.energy.last @ self.energy.features(y)


class Joint(AbstractAround):
    r"""An objective of the picture, and \(-\log p(y_c \mid x)\) of what lies beside it."""

    objective: AbstractObjective

    def init(self, energy, data, *, key):
        return self.objective.init(_picture(energy), _pixels(energy, data), key=key)

    def __call__(self, energy, batch, memory, *, key):
        loss, (memory, metrics) = self.objective(_picture(energy), _pixels(energy, batch), memory, key=key)
        canvas = canvas_of(energy.space)
        if len(canvas.others):
            values, observed = split_batch(batch)
            log_probs = jax.vmap(lambda y: energy.log_probs(energy.features(y[canvas.pixels]), y))(values)
            if observed is not None:
                whole = jnp.all(observed[:, canvas.pixels], axis=1, keepdims=True)
                log_probs = jnp.where(whole & observed[:, canvas.others], log_probs, 0.0)
            loss = loss - jnp.mean(jnp.sum(log_probs, axis=1))
        return loss, (memory, metrics)

    def unit(self, energy):
        return SPREAD * self.objective.unit(_picture(energy))


def _picture(energy: ConvEnergy) -> Picture:
    columns = tuple(energy.space.columns[i] for i in canvas_of(energy.space).pixels)
    return Picture(energy, shared_box(relaxed(Record(columns))))


def shared_box(space: Record) -> Record:
    """The same pixels in the one box that holds them all: a border that hardly varies is blurred like the middle."""
    lower, upper = min(c.lower for c in space.columns), max(c.upper for c in space.columns)
    return Record(tuple(replace(c, lower=lower, upper=upper) for c in space.columns))


def _pixels(energy, data):
    pixels = canvas_of(energy.space).pixels
    return jax.tree.map(lambda leaf: leaf[:, pixels], data)


def _beside(space: Record) -> list[tuple[Column, int, slice, int]]:
    """Each column beside the picture: itself, its place in the row, its outputs, and which number it is."""
    found, start, number = [], 0, 0
    for i in canvas_of(space).others:
        column = space.columns[i]
        width = column.size if column.kind == "categorical" else 1
        found.append((column, int(i), slice(start, start + width), number))
        start, number = start + width, number + (column.kind != "categorical")
    return found


def steps_of_pixels(space: Record, blur: float) -> list[list[AbstractKernel]]:
    """Langevin steps of the pixels that are numbers, and of those that are counts, by the lengths of the `LADDER`."""
    canvas = canvas_of(space)
    scale = np.zeros(len(space.columns), np.float32)
    scale[canvas.pixels] = 1 / canvas.factor
    finite = np.array([column.finite for column in space.columns])
    strides = [blur * length for length in LADDER]
    found: list[list[AbstractKernel]] = []
    if (~finite & (scale > 0)).any():
        metric = Metric(jnp.asarray(np.where(finite, 0, scale)))
        found.append([MALA(stride**2 / 2, metric=metric) for stride in strides])
    if (finite & (scale > 0)).any():
        # Shorter than a count nothing would move.
        scales = np.where(finite & (scale > 0), np.maximum(scale, COUNTS / blur), 0.0)
        found.append([LatticeLangevin(stride, tuple(scales.tolist())) for stride in strides])
    return found


@dataclass(frozen=True)
class Settings:
    """Settings of `conv-ebm`."""

    channels: int = setting(16, "channels of the first convolution; the others have twice as many")
    layers: int = setting(3, "3×3 convolutions; the first sees every pixel, the others every second")
    scale: float = setting(3.0, "what the features are multiplied by")
    blur: float = setting(0.3, "deviation of the noise on rows, in deviations of the pixels")
    matching: int = setting(900, "steps of denoising score matching before the chains begin")
    chain: int = setting(20, "steps of the chains a training step")
    stride: float = setting(0.6, "length of a step of the chains, in deviations of the noise")
    buffer: int = setting(500, "pictures in the replay buffer")
    refresh: float = setting(0.02, "share of chains that start anew from noise")
    penalty: float = setting(1e-5, "weight of the squared energies, which keeps them near 0")
    steps: int = setting(600, "training steps with chains")
    batch: int = setting(64, "rows a step, and chains")
    learning_rate: float = setting(3e-4, "largest step of Adam with chains, falling to 0")

    def __post_init__(self):
        for name in ("channels", "layers", "buffer"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("scale", "stride", "blur"):
            if not getattr(self, name) > 0:
                raise SettingsError(f"{name} must be more than 0, not {getattr(self, name):g}")


def build(space: Record, settings: Settings, initial: Initial) -> ConvEnergy:
    """The network before training."""
    canvas = canvas_of(space)
    shape, layers = canvas.shape, []
    for i in range(settings.layers):
        out = settings.channels * min(2, 1 + i)
        layers.append(
            Convolution(
                shape[2], out, stride=2 if i and min(shape[:2]) > 2 else 1, norm="filter", initial=initial
            )
        )
        stride = layers[-1].stride
        shape = (-(-shape[0] // stride), -(-shape[1] // stride), out)
    features = int(np.prod(shape))
    columns = [space.columns[i] for i in canvas.others]
    outputs = sum(column.size if column.kind == "categorical" else 1 for column in columns)
    return ConvEnergy(
        space,
        tuple(layers),
        initial.normal((features,), features**-0.5),
        initial.zeros(features, outputs),
        initial.zeros(outputs),
        initial.zeros(sum(column.kind != "categorical" for column in columns)),
        settings.scale,
        settings.blur,
    )


def skeleton(space: Record, settings: Settings) -> ConvEnergy:
    """An energy of the right shapes."""
    return build(space, settings, OUTLINE)


def train(problem: Problem) -> Fit:
    """Score matching near the data, then chains, which find what is low elsewhere."""
    settings, space, rows = problem.settings, problem.space, problem.rows
    match_key, fit_key = jax.random.split(problem.key)
    complete = bool(rows.complete.all())
    return fit(
        matched(problem, match_key),
        rows.values if complete else (rows.values, rows.observed),
        Blurred(Joint(contrast_for(space, settings)), bins(space)),
        optimiser=_optimiser(settings.learning_rate, settings.steps),
        steps=settings.steps,
        batch=settings.batch,
        averaging=0.99,
        key=fit_key,
        run=problem.run,
    )


def matched(problem: Problem, key: PRNGKeyArray) -> AbstractEnergy:
    """The energy before there are chains: fitted by denoising score matching to the rows without a hole."""
    settings, space, rows = problem.settings, problem.space, problem.rows
    init_key, fit_key = jax.random.split(key)
    start = build(space, settings, drawn(init_key))
    if not settings.matching or not rows.complete.any():
        return start
    return fit(
        start,
        rows.values[rows.complete],
        Blurred(Joint(DenoisingScoreMatching((blur_of(space, settings),))), bins(space)),
        optimiser=_optimiser(MATCHING_RATE, settings.matching),
        steps=settings.matching,
        batch=settings.batch,
        averaging=0.99,
        key=fit_key,
        run=replace(problem.run, stage="matching"),
    ).energy


def _optimiser(rate: float, steps: int) -> optax.GradientTransformation:
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, min(100, steps // 10), steps)
    return optax.chain(optax.clip_by_global_norm(1000.0), optax.adam(schedule, b1=0.0))


def blur_of(space: Record, settings: Settings) -> float:
    """The deviation of the noise on the pixels, in codes: one scale for all of them, as the picture has."""
    return settings.blur / float(canvas_of(space).factor[0])


def contrast_for(space: Record, settings: Settings) -> ContrastiveDivergence:
    """Unadjusted Langevin chains of the pixels, from a replay buffer."""
    blur = blur_of(space, settings)
    return ContrastiveDivergence(
        ULA(settings.stride**2 / 2, metric=Metric(jnp.float32(blur))),
        settings.chain,
        "persistent",
        chains=settings.buffer,
        refresh=settings.refresh,
        penalty=settings.penalty,
        jitter=blur,
    )


CONV_EBM = Recipe(
    name="conv-ebm",
    title="Convolutional energy of images",
    code="C2",
    paper="Du & Mordatch (2019), Implicit generation and modeling with energy-based models",
    formula="F(y) = a·h(x) − Σ log p(y_c | h(x))",
    about="Smooth convolutions over a picture with noise; labels beside it are predicted from it.",
    energy=ConvEnergy,
    settings=Settings,
    skeleton=skeleton,
    train=train,
)
