"""A convolutional network of a window that slides over a larger picture at the cost of one pass.

No layer pads, so that what it says of a window is the same wherever in a picture the window lies.
"""

from collections.abc import Callable

import equinox as eqx
import jax
from jaxtyping import Array, Float

from thalweg.errors import SettingsError
from thalweg.nn.convolution import Convolution, Image, Norm, by_library
from thalweg.nn.initial import Initial

#: The side of the kernels, but for those of the layer that sees the whole window; one more where a stride would leave
#: pixels out.
KERNEL = 3


class WindowNetwork(eqx.Module):
    r"""What `outputs` units say of each window (height, width, channels) of a picture.

    A 3×3 convolution, `halvings` more of stride 2 with twice the channels each, one whose kernels cover what is left of
    the window (`units`), and a linear map of those; SiLU between them. Windows are `stride` \(= 2^{halvings}\) pixels
    apart. Vaillant, Monrocq & LeCun (1994), *An original approach for the localisation of objects in images*.

    Raises `SettingsError` for a window that is too small for the halvings.
    """

    layers: tuple[Convolution, ...]
    window: tuple[int, int, int] = eqx.field(static=True)

    def __init__(
        self,
        window: tuple[int, int, int],
        outputs: int,
        *,
        channels: int,
        halvings: int,
        units: int,
        initial: Initial,
    ):
        height, width, width_in = window
        layers = []
        for i in range(halvings + 1):
            if min(height, width) < KERNEL:
                raise SettingsError(
                    f"a window of {window[0]}×{window[1]} pixels is too small to be halved {halvings} times: "
                    "give larger windows, or a smaller halvings"
                )
            stride, out = (2, channels * 2**i) if i else (1, channels)
            size = (KERNEL + (height - KERNEL) % stride, KERNEL + (width - KERNEL) % stride)
            layers.append(_layer(width_in, out, size, stride, "filter", initial))
            height, width = (height - size[0]) // stride + 1, (width - size[1]) // stride + 1
            width_in = out
        layers.append(_layer(width_in, units, (height, width), 1, "filter", initial))
        layers.append(_layer(units, outputs, 1, 1, "none", initial))
        self.layers, self.window = tuple(layers), window

    @property
    def stride(self) -> int:
        """How far apart windows are, in pixels."""
        return 2 ** (len(self.layers) - 3)

    def __call__(self, x: Float[Array, "height width c"]) -> Float[Array, "outputs"]:
        """What the network says of one window; for compiled loops."""
        return self._through(x, lambda layer, x: layer(x))[0, 0]

    def slide(self, x: Image) -> Float[Array, "rows columns outputs"]:
        """What it says of every window of a picture: that at (i, j) has its corner `stride` times (i, j) from the
        picture's. For a pass outside of compiled loops."""
        return self._through(x, _outside)

    def _through(self, x: Image, apply: Callable[[Convolution, Image], Image]) -> Image:
        for layer in self.layers[:-1]:
            x = jax.nn.silu(apply(layer, x))
        return apply(self.layers[-1], x)


def _layer(
    channels: int, out: int, size: int | tuple[int, int], stride: int, norm: Norm, initial: Initial
) -> Convolution:
    return Convolution(channels, out, size, stride=stride, padding="valid", norm=norm, initial=initial)


def _outside(layer: Convolution, x: Image) -> Image:
    return by_library(x, layer.kernels, layer.stride, layer.padding) + layer.bias[None, None]
