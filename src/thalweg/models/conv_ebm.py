r"""A convolutional energy over images, and what lies beside them in a row.

\[ F(y) = a^\top h(x) / \sigma - \sum_c \log p(y_c \mid h(x)), \]

h the features of the picture x, s times what 3×3 convolutions with smooth units say, whose kernels have one norm
(`thalweg.nn.convolution`); the columns that are no pixels (a label) have closed-form conditionals given h. Contrastive
(C2): \(e^{-a^\top h / \sigma}\) is fitted to pictures with Gaussian noise of a deviation \(\sigma\), of which the
network is told: first by denoising score matching at all levels of noise, which makes it right near the data, then at
the least, `blur`, also by contrastive divergence with Langevin chains from a replay buffer, which finds what is low
elsewhere; both have the same optimum, and the conditionals their own likelihood. A chain that comes down the levels
leads from noise to pictures.

Chains take numbers: a count is its unit bin (`thalweg.models.relaxation`), and the energy at a count is that of the
bin's middle. Noise is reflected at black and at white, as chains are. Short chains that are not corrected are not
maximum likelihood: F is nearly what its own chains of training sample.

Vincent (2011), *A connection between score matching and denoising autoencoders*; many levels of noise: Song & Ermon
(2019), *Generative modeling by estimating gradients of the data distribution*; Du & Mordatch (2019), *Implicit
generation and modeling with energy-based models*; Nijkamp, Hill, Zhu & Wu (2019), *Learning non-convergent
non-persistent short-run MCMC toward energy-based model*; with labels: Grathwohl, Wang, Jacobsen, Duvenaud, Norouzi &
Swersky (2020), *Your classifier is secretly an energy based model and you should treat it like one*.
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from thalweg.energy.base import AbstractEnergy, Scalar
from thalweg.energy.capabilities import AbstractAnnealed, AbstractBlurred, AbstractGibbs
from thalweg.energy.spaces import Column, Record
from thalweg.errors import SettingsError
from thalweg.learning.fit import fit
from thalweg.learning.objective import AbstractAround, AbstractObjective
from thalweg.learning.rows import split_batch
from thalweg.learning.run import Fit
from thalweg.learning.samples import ContrastiveDivergence
from thalweg.learning.scores import DenoisingScoreMatching
from thalweg.models.canvas import canvas_of, shared_box, widest
from thalweg.models.gaussian import log_normal_1d
from thalweg.models.recipe import Problem, Recipe, setting
from thalweg.models.relaxation import Blurred, bins, relaxed
from thalweg.nn.convolution import Convolution
from thalweg.nn.initial import OUTLINE, Initial, drawn
from thalweg.sampling import charts
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
#: Layers whose units see too little of the picture to be asked.
FINE = 2
#: Levels of noise that a chain from noise comes down by, and its Langevin step at each, in deviations of the noise.
LEVELS, CORRECTION = 150, 0.3
#: Levels that training draws from.
NOISES = 40
#: Functions of the noise that a layer is told.
TONES = 4
#: The least deviation of a number beside the picture, given it.
FLOOR = 1e-2
#: The largest step of Adam before there are chains.
MATCHING_RATE = 1e-2


class ConvEnergy(AbstractBlurred, AbstractAnnealed, AbstractGibbs):
    r"""\(F(y) = a^\top h(x) / \sigma - \sum_c \log p(y_c \mid h(x))\), in nats, not normalised.

    `layers` make the features h, times `scale`, told of the noise by `tones`, one for each; `last` is a (h,). `heads`
    (h, o) and `bias` (o,) give the logits of the categories beside the picture, and the means of the numbers, of
    deviation `log_deviation` in their own units. F is the member with the noise `blur`, in deviations of the pixels, of
    a family up to the noise of which nothing is left of a picture.

    `tied`, with one category and nothing else beside the picture: there is no `last`, and the logits are the energy
    too, \(F(y) = -f(x)_{y_c} / \sigma\) (`thalweg.models.jem`).
    """

    space: Record
    layers: tuple[Convolution, ...]
    tones: tuple[Float[Array, "t o"], ...]
    last: Float[Array, "h"]
    heads: Float[Array, "h o"]
    bias: Float[Array, "o"]
    log_deviation: Float[Array, "n"]
    scale: float = eqx.field(static=True)
    blur: float = eqx.field(static=True)
    tied: bool = eqx.field(static=True, default=False)

    def __call__(self, y, x=None):
        h = self.features(y[canvas_of(self.space).pixels])
        return self.of_picture(h) - jnp.sum(self.log_probs(h, y))

    def of_picture(self, h: Float[Array, "h"], noise: float | Scalar | None = None) -> Scalar:
        """The energy of a picture with these features at this noise (None: `blur`): as steep as the noise allows."""
        if self.tied:
            return -jax.nn.logsumexp(self.outputs(h, noise))
        return self.last @ h / (self.blur if noise is None else noise)

    def outputs(self, h: Float[Array, "h"], noise: float | Scalar | None = None) -> Float[Array, "o"]:
        """What the features say about the columns beside the picture."""
        out = h @ self.heads + self.bias
        return out / (self.blur if noise is None else noise) if self.tied else out

    def features(self, codes: Float[Array, "p"], noise: float | Scalar | None = None) -> Float[Array, "h"]:
        """h, from the codes of pixels with this noise (None: `blur`): what each layer says but the first `FINE`."""
        noise = jnp.asarray(self.blur if noise is None else noise, jnp.float32)
        image, tone = canvas_of(self.space).picture(codes) / jnp.sqrt(1 + noise**2), self._tone(noise)
        found = []
        for layer, tones in zip(self.layers, self.tones, strict=True):
            image = jax.nn.silu(layer(image) + (tone @ tones)[None, None])
            found.append(jnp.ravel(image))
        return self.scale * jnp.concatenate(found[min(FINE, len(found) - 1) :])

    def _tone(self, noise: Scalar) -> Float[Array, "t"]:
        """Smooth functions of the noise, from `blur` to the widest."""
        t = jnp.log(noise / self.blur) / math.log(widest(self.space, self.blur) / self.blur)
        return jnp.stack([t, t**2, jnp.sin(np.pi * t), jnp.cos(np.pi * t)])

    def log_probs(
        self, h: Float[Array, "h"], y: Float[Array, "d"], noise: float | Scalar | None = None
    ) -> Float[Array, "c"]:
        """log p of each column beside the picture, given its features at this noise (None: `blur`)."""
        out = self.outputs(h, noise)
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
        slope = jax.grad(lambda codes: self.of_picture(self.features(codes)))(pixels)
        lower, upper = (jnp.asarray(bound[canvas.pixels]) for bound in self.space.bounds())
        clean = pixels - jnp.asarray((self.blur / canvas.factor) ** 2) * slope
        return y.at[canvas.pixels].set(jnp.clip(clean, lower, upper))

    def annealed(self, y, observed, *, key):
        r"""Pixels from noise, down the levels \(\sigma_i\): \(x \leftarrow x - (\sigma_i^2 - \sigma_{i+1}^2) \nabla F_i
        + \sigma_{i+1} \sqrt{1 - \sigma_{i+1}^2 / \sigma_i^2}\, \xi\) and a Langevin step at the new one; those that are
        known have their noise at each level. Song, Sohl-Dickstein, Kingma, Kumar, Ermon & Poole (2021), *Score-based
        generative modeling through stochastic differential equations*."""
        canvas, picture = canvas_of(self.space), replace(_picture(self), row=y, observed=observed)
        held, known, unit = y[canvas.pixels], observed[canvas.pixels], 1 / float(canvas.factor[0])

        def noisy(codes, noise, key):
            moved = codes + unit * noise * jax.random.normal(key, codes.shape)
            return charts.reflected(picture.space, moved)

        noises = jnp.geomspace(widest(self.space, self.blur), self.blur, LEVELS + 1)

        def step(codes, noise, down, spread, key):
            """Down the slope of the member at this noise, with noise of its own."""
            hold_key, key = jax.random.split(key)
            codes = jnp.where(known, noisy(held, noise, hold_key), codes)
            codes = codes - unit**2 * down * jax.grad(picture)(codes, unit * noise)
            return noisy(codes, spread, key)

        def level(codes, now):
            high, low, key = now
            first, second = jax.random.split(key)
            codes = step(codes, high, high**2 - low**2, low * jnp.sqrt(1 - (low / high) ** 2), first)
            stride = CORRECTION * low
            return step(codes, low, stride**2 / 2, stride, second), None

        key, own = jax.random.split(key)
        start = self._nowhere(picture.space, key=own)
        codes, _ = jax.lax.scan(level, start, (noises[:-1], noises[1:], jax.random.split(key, LEVELS)))
        return y.at[canvas.pixels].set(jnp.where(known, held, codes))

    def _nowhere(self, box: Record, *, key: PRNGKeyArray) -> Float[Array, "p"]:
        """Pixels of which nothing is left: uniform in their box, or normal where there is none."""
        canvas = canvas_of(self.space)
        if box.columns[0].bounded:
            return box.draw(key=key)
        deviation = jnp.asarray(math.sqrt(1 + widest(self.space, self.blur) ** 2) / canvas.factor)
        return jnp.asarray(canvas.center) + deviation * jax.random.normal(key, canvas.center.shape)

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
        out = self.outputs(self.features(y[canvas_of(self.space).pixels]))
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
    """The energy of the pixels alone, over the numbers that chains move, of the noise x (in codes; None: `blur`).

    What lies beside them is summed out, or known where `row` (d,) is `observed`.
    """

    energy: ConvEnergy
    space: Record = eqx.field(static=True)
    row: Float[Array, "d"] | None = None
    observed: Bool[Array, "d"] | None = None

    def __call__(self, y, x=None):
        noise = None if x is None else x * float(canvas_of(self.energy.space).factor[0])
        h = self.energy.features(y, noise)
        alone = self.energy.of_picture(h, noise)
        others = canvas_of(self.energy.space).others
        if self.row is None or self.observed is None or not len(others):
            return alone
        return alone - jnp.sum(
            jnp.where(self.observed[others], self.energy.log_probs(h, self.row, noise), 0.0)
        )


class Beside(AbstractAround):
    """An objective, and score matching of the same energy beside it."""

    objective: AbstractObjective
    matching: DenoisingScoreMatching

    def __call__(self, energy, batch, memory, *, key):
        own_key, key = jax.random.split(key)
        loss, rest = self.objective(energy, batch, memory, key=own_key)
        return loss + self.matching(energy, batch, None, key=key)[0], rest


class Joint(AbstractAround):
    r"""An objective of the picture, and \(-\log p(y_c \mid x)\) of what lies beside it, given the picture as it is and
    with one of the `noises` (in deviations)."""

    objective: AbstractObjective
    noises: tuple[float, ...] = eqx.field(static=True)

    def init(self, energy, data, *, key):
        return self.objective.init(_picture(energy), _pixels(energy, data), key=key)

    def __call__(self, energy, batch, memory, *, key):
        beside_key, key = jax.random.split(key)
        loss, rest = self.objective(_picture(energy), _pixels(energy, batch), memory, key=key)
        if len(canvas_of(energy.space).others):
            loss = loss - self._of_others(energy, batch, key=beside_key)
        return loss, rest

    def _of_others(self, energy: ConvEnergy, batch: PyTree, *, key: PRNGKeyArray) -> Scalar:
        values, observed = split_batch(batch)
        pixels, others = canvas_of(energy.space).pixels, canvas_of(energy.space).others
        scale_key, noise_key = jax.random.split(key)
        noises = jnp.asarray(self.noises)[jax.random.randint(scale_key, (len(values),), 0, len(self.noises))]
        moves = jax.random.normal(noise_key, (len(values), len(pixels)))
        box, unit = _picture(energy).space, 1 / float(canvas_of(energy.space).factor[0])

        def of_row(y, noise, move):
            noisy = charts.reflected(box, y[pixels] + unit * noise * move)
            clean, blurred = energy.features(y[pixels]), energy.features(noisy, noise)
            return (energy.log_probs(clean, y) + energy.log_probs(blurred, y, noise)) / 2

        log_probs = jax.vmap(of_row)(values, noises, moves)
        if observed is not None:
            whole = jnp.all(observed[:, pixels], axis=1, keepdims=True)
            log_probs = jnp.where(whole & observed[:, others], log_probs, 0.0)
        return jnp.mean(jnp.sum(log_probs, axis=1))

    def unit(self, energy):
        return SPREAD * self.objective.unit(_picture(energy))


def _picture(energy: ConvEnergy) -> Picture:
    columns = tuple(energy.space.columns[i] for i in canvas_of(energy.space).pixels)
    return Picture(energy, shared_box(relaxed(Record(columns))))


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

    tied: ClassVar[bool] = False
    channels: int = setting(
        16, "channels of the first convolution; the next two have twice, others four times as many"
    )
    layers: int = setting(5, "3×3 convolutions; the first sees every pixel, the others every second")
    scale: float = setting(3.0, "what the features are multiplied by")
    blur: float = setting(0.3, "least deviation of the noise on rows, in deviations of the pixels")
    matching: int = setting(1500, "steps of denoising score matching before the chains begin")
    chain: int = setting(20, "steps of the chains a training step")
    stride: float = setting(0.6, "length of a step of the chains, in deviations of the noise")
    buffer: int = setting(500, "pictures in the replay buffer")
    refresh: float = setting(0.02, "share of chains that start anew from noise")
    penalty: float = setting(1e-5, "weight of the squared energies, which keeps them near 0")
    steps: int = setting(300, "training steps with chains")
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
    shape, layers, sizes = canvas.shape, [], []
    for i in range(settings.layers):
        out = settings.channels * min(4, 2 ** ((i + 1) // 2))
        stride = 2 if i and min(shape[:2]) > 2 else 1
        layers.append(Convolution(shape[2], out, stride=stride, norm="filter", initial=initial))
        shape = (-(-shape[0] // stride), -(-shape[1] // stride), out)
        sizes.append(int(np.prod(shape)))
    features = sum(sizes[min(FINE, len(sizes) - 1) :])
    columns = [space.columns[i] for i in canvas.others]
    outputs = sum(column.size if column.kind == "categorical" else 1 for column in columns)
    return ConvEnergy(
        space,
        tuple(layers),
        tuple(initial.zeros(TONES, len(layer.bias)) for layer in layers),
        initial.normal((0 if settings.tied else features,), features**-0.5),
        initial.normal((features, outputs), features**-0.5 if settings.tied else 0.0),
        initial.zeros(outputs),
        initial.zeros(sum(column.kind != "categorical" for column in columns)),
        settings.scale,
        settings.blur,
        settings.tied,
    )


def skeleton(space: Record, settings: Settings) -> ConvEnergy:
    """An energy of the right shapes."""
    return build(space, settings, OUTLINE)


def train(problem: Problem) -> Fit:
    """Score matching near the data, then chains, which find what is low elsewhere."""
    settings, space, rows = problem.settings, problem.space, problem.rows
    match_key, fit_key = jax.random.split(problem.key)
    complete = bool(rows.complete.all())
    contrast: AbstractObjective = contrast_for(space, settings)
    if complete:
        contrast = Beside(contrast, matching_for(space, settings))
    return fit(
        matched(problem, match_key),
        rows.values if complete else (rows.values, rows.observed),
        Blurred(Joint(contrast, noises_of(space, settings)), bins(space)),
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
        Blurred(Joint(matching_for(space, settings), noises_of(space, settings)), bins(space)),
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


def noises_of(space: Record, settings: Settings) -> tuple[float, ...]:
    """The levels of noise that training draws from, in deviations of the pixels."""
    return tuple(np.geomspace(settings.blur, widest(space, settings.blur), NOISES).tolist())


def matching_for(space: Record, settings: Settings) -> DenoisingScoreMatching:
    """Denoising score matching at every level, of which the energy is told."""
    unit = 1 / float(canvas_of(space).factor[0])
    return DenoisingScoreMatching(tuple(unit * n for n in noises_of(space, settings)), conditional=True)


def contrast_for(space: Record, settings: Settings) -> ContrastiveDivergence:
    """Unadjusted Langevin chains of the pixels, from a replay buffer."""
    blur = settings.blur / float(canvas_of(space).factor[0])
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
    formula="F(y) = a·h(x)/σ − Σ log p(y_c | h(x))",
    about="Smooth convolutions over a picture at every level of noise; labels beside it are predicted from it.",
    energy=ConvEnergy,
    settings=Settings,
    skeleton=skeleton,
    train=train,
)
