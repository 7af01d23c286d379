r"""What is where in a picture: an energy of windows that slides over pictures of any size.

\[ E(Y, c, Z, X) = Y\,G_c(X_Z) + (1 - Y)\,T \]

for the window Z of the picture X: something of the label c is in it (Y = 1), or nothing (Y = 0). G is a convolutional
network without padding (`thalweg.nn.windows`), so that all windows of a picture take one pass, and T a threshold that
is learnt with it, from windows of which some are background, by any loss over answers. Of presence alone the labels
are summed out, \(G = -\frac1\beta \log \sum_c e^{-\beta G_c}\), and \(p(Y = 1) = \sigma(\beta (T - G))\).

Osadchy, LeCun & Miller (2007), *Synergistic face detection and pose estimation with energy-based models*; the same
network on windows and on whole pictures: Vaillant, Monrocq & LeCun (1994), *An original approach for the localisation
of objects in images*.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from thalweg.data.schema import Schema
from thalweg.energy.capabilities import AbstractFewAnswers, AbstractSliding
from thalweg.energy.spaces import Categorical, Record
from thalweg.errors import DataError, SettingsError
from thalweg.learning.run import Fit
from thalweg.models import classes
from thalweg.models.answered import category
from thalweg.models.classes import AbstractClasses, LearningSettings, learned
from thalweg.models.inputs import Seen
from thalweg.models.recipe import Problem, Recipe, place_of, setting
from thalweg.nn.initial import OUTLINE, Initial, drawn
from thalweg.nn.windows import WindowNetwork


class Pane(NamedTuple):
    """Where the pixels of a row lie in the window of a `shape`, in C order, and what makes their codes shades: one
    scale for all of them, so that a shade means the same in every place. In NumPy."""

    pixels: np.ndarray
    shape: tuple[int, int, int]
    origin: np.ndarray
    unit: np.ndarray
    typical: np.ndarray
    mean: float
    deviation: float


@lru_cache(maxsize=64)
def pane_of(space: Record) -> Pane:
    """The window in a row. Raises `SettingsError` where there is none, or not all of it."""
    pixels = np.array([i for i, column in enumerate(space.columns) if len(column.place) in (2, 3)], int)
    if not len(pixels):
        raise SettingsError(
            "detector is for windows of pictures: an array (n, height, width) or (n, height, width, channels) with "
            "labels, or what `thalweg windows` cuts out; for a table fit classifier"
        )
    columns = [space.columns[i] for i in pixels]
    places = np.array([(*column.place, 0)[:3] for column in columns])
    height, width, channels = (int(n) for n in places.max(axis=0) + 1)
    order = np.lexsort(places.T[::-1])
    if len(pixels) < height * width * channels:
        raise SettingsError(
            f"{height * width * channels - len(pixels)} pixels of the windows never vary, and a detector has to know "
            "what is beside: give background windows that are like the pictures to be searched"
        )
    ordered = [columns[i] for i in order]
    origin = np.array([column.origin for column in ordered])
    unit = np.array([column.unit for column in ordered])
    halves = [
        (0.5, 0.5) if column.kind == "categorical" else (column.center, column.spread) for column in ordered
    ]
    center, spread = np.array(halves).T
    means = origin + unit * center
    variance = np.mean((unit * spread) ** 2 + (means - means.mean()) ** 2)
    return Pane(
        pixels[order],
        (height, width, channels),
        origin,
        unit,
        center.astype(np.float32),
        float(means.mean()),
        float(np.sqrt(variance)) or 1.0,
    )


class Windows(AbstractFewAnswers):
    r"""\(G_c(X_Z)\) of each label and \(T\) of the background, whose code is `nothing`, of a window that is a row
    without its answer (`Seen`); a missing pixel is the mean of its column."""

    network: WindowNetwork
    threshold: Float[Array, ""]
    space: Categorical = eqx.field(static=True)
    row: Record = eqx.field(static=True)
    nothing: int = eqx.field(static=True)

    def answer_energies(self, x=None):
        assert isinstance(x, Seen)
        pane = pane_of(self.row)
        codes = jnp.where(x.observed[pane.pixels], x.values[pane.pixels], pane.typical)
        energies = self.network(self._shades(codes).reshape(pane.shape))
        threshold = self.threshold.reshape(1)
        return jnp.concatenate([energies[: self.nothing], threshold, energies[self.nothing :]])

    def __call__(self, y, x=None):
        return self.answer_energies(x)[y.astype(jnp.int32)]

    def slide(self, picture: Float[Array, "height width c"]) -> Float[Array, "rows columns k"]:
        """The energies of the labels in every window of a picture in the user's own units."""
        pane = pane_of(self.row)
        return self.network.slide((picture - pane.mean) / pane.deviation)

    def _shades(self, codes: Float[Array, "p"]) -> Float[Array, "p"]:
        pane = pane_of(self.row)
        factor = (pane.unit / pane.deviation).astype(np.float32)
        return jnp.asarray(factor) * codes + ((pane.origin - pane.mean) / pane.deviation).astype(np.float32)


class Detector(AbstractClasses, AbstractSliding):
    r"""\(F(c \mid x) = -\log p(c \mid x)\) in nats of the label of a window, the background's among them; and the
    energies of all windows of a picture."""

    energy: Windows
    beta: Float[Array, ""]
    answers: tuple[int, ...] = eqx.field(static=True)

    @property
    def space(self) -> Record:
        return self.energy.row

    @property
    def window(self):
        return self.energy.network.window

    @property
    def stride(self):
        return self.energy.network.stride

    @property
    def nothing(self):
        return self.energy.nothing

    def class_energies(self, y: Float[Array, "d"], observed: Bool[Array, "d"]) -> Float[Array, "k"]:
        return -jax.nn.log_softmax(-self.beta * self.energy.answer_energies(Seen(y, observed)))

    def slide(self, picture):
        return self.energy.slide(picture), self.energy.threshold, self.beta


@dataclass(frozen=True)
class Settings(LearningSettings):
    """Settings of `detector`."""

    background: str = setting("background", "the label of windows with nothing in them")
    channels: int = setting(8, "channels of the first convolution; each halving doubles them")
    halvings: int = setting(2, "convolutions of stride 2; windows slide by 2 to that many pixels")
    units: int = setting(64, "units of the layer that sees the whole window")
    nothing: int = setting(-1, "the code of the background's label; -1: found by its name")

    def __post_init__(self):
        LearningSettings.__post_init__(self)
        for name in ("channels", "halvings", "units"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} must be at least 1, not {getattr(self, name)}")


def settle(settings: Settings, schema: Schema, rows: int) -> Settings:
    """The steps that suit so many rows, and which label is the background's."""
    levels = [str(level) for level in schema[settings.target].levels]
    if settings.background not in levels:
        there = ", ".join(map(repr, levels[:20])) or "numbers"
        raise DataError(
            f"no window is labelled {settings.background!r}: a detector learns from windows with nothing in them too; "
            f"cut some out (thalweg windows), or name their label, background=… ({settings.target!r} has {there})"
        )
    return replace(classes.settle(settings, schema, rows), nothing=levels.index(settings.background))


def build(space: Record, settings: Settings, initial: Initial) -> Detector:
    """The network before training."""
    target = place_of(space, settings.target)
    size = category(space, target, "detector").size
    if not 0 <= settings.nothing < size:
        raise SettingsError(f"nothing is the code of a label, from 0 to {size - 1}, not {settings.nothing}")
    network = WindowNetwork(
        pane_of(space).shape,
        size - 1,
        channels=settings.channels,
        halvings=settings.halvings,
        units=settings.units,
        initial=initial,
    )
    energy = Windows(network, initial.zeros(), Categorical((), size), space, settings.nothing)
    return Detector(energy, initial.constant((), lambda: 1.0), (target,))


def skeleton(space: Record, settings: Settings) -> Detector:
    """An energy of the right shapes."""
    return build(space, settings, OUTLINE)


def train(problem: Problem) -> Fit:
    """Network and threshold by the loss that is asked for, then the temperature."""
    init_key, fit_key = jax.random.split(problem.key)
    start = build(problem.space, problem.settings, drawn(init_key))
    result, beta = learned(problem, start.energy, start.answers, key=fit_key)
    assert isinstance(result.energy, Windows)
    return replace(result, energy=replace(start, energy=result.energy, beta=beta))


DETECTOR = Recipe(
    name="detector",
    title="Detector of objects in pictures",
    code="C2",
    paper="Osadchy, LeCun & Miller (2007), Synergistic face detection and pose estimation with energy-based models",
    formula="E(Y, c, Z, X) = Y·G_c(X_Z) + (1 − Y)·T",
    about="A convolutional energy of windows, learnt from labelled ones and background, that slides over pictures.",
    energy=Detector,
    settings=Settings,
    skeleton=skeleton,
    train=train,
    validates=True,
    settle=settle,
)
