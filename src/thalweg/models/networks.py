r"""Networks over the input columns of a row, for conditional energies: linear, a perceptron, or convolutions.

A recipe's settings inherit `NetworkSettings`; `network_of` builds what they say.
"""

from dataclasses import dataclass, replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from thalweg.errors import SettingsError
from thalweg.models.inputs import Inputs
from thalweg.models.recipe import setting
from thalweg.nn.convolution import Convolution
from thalweg.nn.initial import Initial
from thalweg.nn.mlp import Trunk, linear_weights
from thalweg.nn.waves import Waves

NETWORKS = ("auto", "linear", "mlp", "conv")


@dataclass(frozen=True)
class NetworkSettings:
    """What network reads the inputs."""

    network: str = setting(
        "auto", f"what reads the inputs: {', '.join(NETWORKS)} (conv for images, else mlp)"
    )
    width: int = setting(128, "mlp, conv: units of each hidden layer")
    layers: int = setting(2, "mlp, conv: hidden layers; of conv those after the convolutions")
    channels: int = setting(
        16, "conv: channels of the first convolution; the next ones have twice, four times …"
    )
    convolutions: int = setting(
        3, "conv: 3×3 convolutions; the first sees every pixel, the others every second"
    )
    waves: int = setting(
        0,
        "mlp: sines and as many cosines that read each number beside itself, for answers that change quickly",
    )
    frequency: float = setting(
        0.3, "mlp: deviation of their frequencies before training, in waves a deviation of the number"
    )
    dropout: float = setting(0.1, "share of hidden units left out in training")
    shift: int = setting(0, "conv: pixels by which pictures are moved at random in training, at most")

    def __post_init__(self):
        if self.network not in NETWORKS:
            raise SettingsError(f"network {self.network!r} is not known: choose one of {', '.join(NETWORKS)}")
        for name in ("width", "layers", "channels", "convolutions"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.waves < 0:
            raise SettingsError(f"waves are counted from 0, not {self.waves}")
        if not self.frequency > 0:
            raise SettingsError(f"frequencies have a deviation above 0, not {self.frequency:g}")
        if self.shift < 0:
            raise SettingsError(f"a shift is a number of pixels, not {self.shift}")
        if not 0 <= self.dropout < 1:
            raise SettingsError(f"dropout is a share from 0 up to below 1, not {self.dropout:g}")


class Hidden(eqx.Module):
    """Layers between the features of a row and the outputs: a first one, and a trunk after it."""

    first: Float[Array, "f h"]
    bias: Float[Array, "h"]
    trunk: Trunk

    def __call__(self, a: Float[Array, "h"], *, key: PRNGKeyArray | None) -> Float[Array, "h"]:
        """From what the first layer makes of the features."""
        return self.trunk(a + self.bias, key=key)


class Network(eqx.Module):
    r"""\(f(x) = W^\top h(x) + b\), numbers from the inputs of a row; h(x) = x where there is no hidden layer.

    `convolutions` read the picture among the inputs, whose features come after those of the other columns; in training
    it is moved by up to `shift` pixels. `waves` of the numbers come last.
    """

    inputs: Inputs
    waves: Waves | None
    convolutions: tuple[Convolution, ...]
    hidden: Hidden | None
    last: Float[Array, "h o"]
    bias: Float[Array, "o"]
    shift: int = eqx.field(static=True, default=0)

    def __call__(
        self,
        y: Float[Array, "d"],
        observed: Bool[Array, "d"] | None = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "o"]:
        """The outputs for a row; `key` drives the dropout of training, None switches it off."""
        known = jnp.ones(y.shape, bool) if observed is None else observed
        if self.hidden is None:
            return self._first(y, known, self.last, key) + self.bias
        return self.hidden(self._first(y, known, self.hidden.first, key), key=key) @ self.last + self.bias

    def _first(
        self,
        y: Float[Array, "d"],
        observed: Bool[Array, "d"],
        weights: Float[Array, "f h"],
        key: PRNGKeyArray | None,
    ) -> Float[Array, "h"]:
        """The features times the weights: the columns, or what convolutions make of the picture among them."""
        if self.waves is not None:
            columns = self.inputs.width
            found = self.inputs.project(y, observed, weights[:columns])
            return found + self.waves(self.inputs.numbers(y, observed)) @ weights[columns:]
        if not self.convolutions:
            return self.inputs.project(y, observed, weights)
        picture = self.inputs.picture(y, observed)
        if self.shift and key is not None:
            picture = moved(picture, self.shift, key=jax.random.fold_in(key, 1))
        for layer in self.convolutions:
            picture = jax.nn.silu(layer(picture))
        pixels = jnp.ravel(picture)
        found = pixels @ weights[-len(pixels) :]
        if len(self.inputs.canvas.others):
            found = found + self.inputs.beside.project(y, observed, weights[: -len(pixels)])
        return found

    def bare(self) -> "Network":
        """The same over a space without names, bounds and units."""
        return eqx.tree_at(
            lambda f: f.inputs, self, self.inputs.bare(), is_leaf=lambda x: isinstance(x, Inputs)
        )


def moved(picture: Float[Array, "h w c"], most: int, *, key: PRNGKeyArray) -> Float[Array, "h w c"]:
    """The picture moved by up to `most` pixels along both axes, with the mean (0) where nothing was."""
    # As products with matrices of 0 and 1: a slice at places that differ within a batch is a gather, which is slower.
    steps = jax.random.randint(key, (2,), -most, most + 1)
    rows, columns = (
        (jnp.arange(n)[:, None] + step == jnp.arange(n)[None]).astype(picture.dtype)
        for n, step in zip(picture.shape[:2], steps, strict=True)
    )
    return jnp.einsum("ih,hwc,jw->ijc", rows, picture, columns)


def network_of(
    inputs: Inputs, outputs: int, settings: NetworkSettings, initial: Initial, *, spread: float = 0.0
) -> Network:
    """The network that the settings name; before training its outputs are 0, or of deviation about `spread`."""
    kind = settings.network
    if kind == "auto":
        kind = "conv" if inputs.is_picture else "mlp"
    # What is linear in the columns should be linear.
    inputs = replace(inputs, squashed=kind != "linear")
    layers, width = _convolutions(inputs, settings, initial) if kind == "conv" else ((), inputs.width)
    active = width if layers else inputs.fan_in
    waves = _waves(inputs, settings, initial) if kind == "mlp" else None
    if waves is not None:
        # Each is about as large as 1/√2.
        width, active = width + waves.width, active + waves.width // 2
    hidden = None if kind == "linear" else _hidden(width, active, settings, initial)
    width = width if hidden is None else settings.width
    last = initial.normal((width, outputs), spread / width**0.5)
    return Network(
        inputs, waves, layers, hidden, last, initial.zeros(outputs), settings.shift if layers else 0
    )


def _convolutions(
    inputs: Inputs, settings: NetworkSettings, initial: Initial
) -> tuple[tuple[Convolution, ...], int]:
    """The convolutions, and how many features they and the columns beside the picture make."""
    canvas, layers = inputs.canvas, []
    shape = canvas.shape
    for i in range(settings.convolutions):
        out = settings.channels * min(4, 2**i)
        stride = 2 if i and min(shape[:2]) > 2 else 1
        layers.append(Convolution(shape[2], out, stride=stride, initial=initial))
        shape = (-(-shape[0] // stride), -(-shape[1] // stride), out)
    beside = inputs.beside.width if len(canvas.others) else 0
    return tuple(layers), beside + int(np.prod(shape))


def _waves(inputs: Inputs, settings: NetworkSettings, initial: Initial) -> Waves | None:
    numbers = len(inputs.numeric)
    if not settings.waves or not numbers:
        return None
    return Waves(numbers, settings.waves, settings.frequency, initial=initial)


def _hidden(features: int, active: int, settings: NetworkSettings, initial: Initial) -> Hidden:
    return Hidden(
        linear_weights(initial, rows=features, columns=settings.width, fan_in=active),
        initial.zeros(settings.width),
        Trunk(settings.width, settings.layers, dropout=settings.dropout, initial=initial),
    )
