"""Two-dimensional convolution, computed in the way that suits the device.

Inside a compiled loop XLA's own convolution is many times slower on a CPU than outside, and a chain is such a loop. A
gather of patches and one matrix product is as fast in either place, though slower than the library's in a single pass
outside of loops (`benchmarks/results/convolution.md`). On other devices the library's own is used.
"""

import math
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from thalweg.errors import SettingsError
from thalweg.nn.initial import Initial
from thalweg.nn.norms import TINY, bounded

Image = Float[Array, "h w c"]
Padding = Literal["same", "valid"]
Norm = Literal["none", "stretch", "filter"]
#: The norm of a kernel that keeps the size of what it sees through a SiLU.
GAIN = 1.7


class Convolution(eqx.Module):
    r"""\(y_{ij} = b + \sum_{ab} x_{si + a,\, sj + b} W_{ab}\) of one image (h, w, c), with kernels of `size`, one
    number or (height, width), and `stride` s.

    Padded with zeros, "same" gives an image of \(\lceil h/s \rceil \times \lceil w/s \rceil\). By the `norm`
    "stretch" the kernels are scaled down so far that the map does not stretch any difference of images
    (`thalweg.nn.norms`); by "filter" each kernel has the norm `GAIN`, whatever its weights (Salimans & Kingma 2016,
    *Weight normalization*).
    """

    weight: Float[Array, "height width c o"]
    bias: Float[Array, "o"]
    stride: int = eqx.field(static=True)
    padding: Padding = eqx.field(static=True)
    norm: Norm = eqx.field(static=True)

    def __init__(
        self,
        channels: int,
        out: int,
        size: int | tuple[int, int] = 3,
        *,
        stride: int = 1,
        padding: Padding = "same",
        norm: Norm = "none",
        initial: Initial,
    ):
        height, width = (size, size) if isinstance(size, int) else size
        if min(channels, out, height, width, stride) < 1:
            raise SettingsError(
                f"a convolution has channels, a size and a stride of at least 1, not {channels} to {out} channels, "
                f"size {size} and stride {stride}"
            )
        if padding not in ("same", "valid"):
            raise SettingsError(f"the padding is same or valid, not {padding!r}")
        fan_in = height * width * channels
        self.weight = initial.normal((height, width, channels, out), 1 / math.sqrt(fan_in))
        self.bias = initial.zeros(out)
        self.stride, self.padding, self.norm = stride, padding, norm

    @property
    def kernels(self) -> Float[Array, "height width c o"]:
        """The kernels in use, of the norm that they have to have."""
        if self.norm == "none":
            return self.weight
        if self.norm == "filter":
            return (
                GAIN * self.weight / jnp.sqrt(jnp.sum(self.weight**2, axis=(0, 1, 2), keepdims=True) + TINY)
            )
        height, width, _, out = self.weight.shape
        # A pixel is seen by so many patches, so the gather stretches by the root of that.
        overlap = math.sqrt(math.ceil(height / self.stride) * math.ceil(width / self.stride))
        return bounded(self.weight.reshape(-1, out), 1 / overlap).reshape(self.weight.shape)

    def __call__(self, x: Image) -> Image:
        own = by_patches if jax.default_backend() == "cpu" else by_library
        return own(x, self.kernels, self.stride, self.padding) + self.bias[None, None]


def by_patches(x: Image, kernels: Float[Array, "a b c o"], stride: int, padding: Padding) -> Image:
    """A gather of patches, as shifted slices, and one matrix product."""
    height, width, channels, out = kernels.shape
    x = jnp.pad(x, (*_borders(x.shape[:2], (height, width), stride, padding), (0, 0)))
    h, w = (x.shape[0] - height) // stride + 1, (x.shape[1] - width) // stride + 1
    slices = [
        jax.lax.slice(
            x, (i, j, 0), (i + (h - 1) * stride + 1, j + (w - 1) * stride + 1, channels), (stride, stride, 1)
        )
        for i in range(height)
        for j in range(width)
    ]
    return jnp.concatenate(slices, axis=-1) @ kernels.reshape(-1, out)


def by_library(x: Image, kernels: Float[Array, "a b c o"], stride: int, padding: Padding) -> Image:
    """The library's own convolution."""
    borders = _borders(x.shape[:2], kernels.shape[:2], stride, padding)
    return jax.lax.conv_general_dilated(
        x[None], kernels, (stride, stride), borders, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )[0]


def _borders(
    shape: tuple[int, ...], size: tuple[int, ...], stride: int, padding: Padding
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Zeros before and after each axis; the odd one goes after, as XLA has it."""
    if padding == "valid":
        if shape[0] < size[0] or shape[1] < size[1]:
            raise SettingsError(f"an image of {shape[0]}×{shape[1]} has no patch of {size[0]}×{size[1]}")
        return (0, 0), (0, 0)

    def around(n: int, size: int) -> tuple[int, int]:
        total = max((math.ceil(n / stride) - 1) * stride + size - n, 0)
        return total // 2, total - total // 2

    return around(shape[0], size[0]), around(shape[1], size[1])
