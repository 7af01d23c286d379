r"""Objectives on the slope of F, so that log Z falls out: score matching, exact, sliced and denoising.

The score of \(p \propto e^{-F}\) is \(s = -\nabla F\). For real coordinates; F must be smooth (softplus, not ReLU, of
which the second derivative is 0).
"""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from thalweg.energy.base import AbstractEnergy, Scalar
from thalweg.errors import SettingsError
from thalweg.learning.objective import AbstractObjective
from thalweg.learning.rows import require, whole
from thalweg.sampling import charts


class ScoreMatching(AbstractObjective):
    r"""\(L = E[\tfrac12 \|\nabla F(y)\|^2 - \Delta F(y)]\), the Fisher divergence up to a constant.

    The Laplacian is exact, a derivative a coordinate (`trace="full"`), or Hutchinson's estimate from `probes` random
    signs, \(v^\top \nabla^2 F\, v\). Not for data on the border of a bounded space, where the identity that it rests
    on does not hold. Hyvärinen (2005), *Estimation of non-normalized statistical models by score matching*;
    Hutchinson (1990), *A stochastic estimator of the trace of the influence matrix*.
    """

    trace: Literal["full", "hutchinson"] = eqx.field(static=True, default="full")
    probes: int = eqx.field(static=True, default=1)

    def __check_init__(self):
        if self.trace not in ("full", "hutchinson"):
            raise SettingsError(f"the trace is full or hutchinson, not {self.trace!r}")
        if self.probes < 1:
            raise SettingsError(f"an estimate needs at least one probe, not {self.probes}")

    def __call__(self, energy, batch, memory, *, key):
        require("real", "score matching", energy)
        values = whole(batch, "score matching")
        probes = None
        if self.trace == "hutchinson":
            probes = jax.random.rademacher(key, (len(values), self.probes, *values.shape[1:]), values.dtype)

        def of_row(y, probes):
            slope = jax.grad(energy)(y)
            if probes is None:
                flat = jnp.eye(y.size).reshape(y.size, *y.shape)
                bend = jnp.sum(jax.vmap(lambda v: _curvature(energy, y, v)[1])(flat))
            else:
                bend = jnp.mean(jax.vmap(lambda v: _curvature(energy, y, v)[1])(probes))
            return jnp.sum(slope**2) / 2 - bend

        return jnp.mean(jax.vmap(of_row)(values, probes)), (memory, {})


class SlicedScoreMatching(AbstractObjective):
    r"""\(L = E_v E[\tfrac12 (v^\top \nabla F(y))^2 - v^\top \nabla^2 F(y)\, v]\), with `slices` normal
    directions a row.

    With `reduced` the first term is its expectation, \(\tfrac12\|\nabla F\|^2\) (SSM-VR).
    Song, Garg, Shi & Ermon (2019), *Sliced score matching*.
    """

    slices: int = eqx.field(static=True, default=1)
    reduced: bool = eqx.field(static=True, default=True)

    def __check_init__(self):
        if self.slices < 1:
            raise SettingsError(f"sliced score matching needs at least one slice, not {self.slices}")

    def __call__(self, energy, batch, memory, *, key):
        require("real", "sliced score matching", energy)
        values = whole(batch, "sliced score matching")
        directions = jax.random.normal(key, (len(values), self.slices, *values.shape[1:]))

        def of_slice(y, v):
            along, bend = _curvature(energy, y, v)
            first = jnp.sum(jax.grad(energy)(y) ** 2) if self.reduced else along**2
            return first / 2 - bend

        return jnp.mean(jax.vmap(jax.vmap(of_slice, (None, 0)))(values, directions)), (memory, {})


class DenoisingScoreMatching(AbstractObjective):
    r"""\(L = E\,\tfrac12 \sigma^2 \|\nabla F(y + \sigma\xi) - \xi/\sigma\|^2\): the slope at a blurred row points back
    to it.

    What is learnt is the energy of the data blurred by \(\sigma\). With several `scales` each row takes one of them at
    random; an energy that is `conditional` is given it as its `x`, one that is not is fitted to their mixture. With
    `falling` all rows have one scale, which falls from the first to the last over so many steps: blurred until they
    touch, separate parts of the data learn how much each of them holds, which slopes alone do not say.
    Noise is reflected at the faces of a box, and with it the energy: that of data whose noise is reflected has the same
    slopes.
    Vincent (2011), *A connection between score matching and denoising autoencoders*; many scales: Song & Ermon
    (2019), *Generative modeling by estimating gradients of the data distribution*.
    """

    scales: tuple[float, ...] = eqx.field(static=True, default=(0.1,))
    conditional: bool = eqx.field(static=True, default=False)
    falling: int = eqx.field(static=True, default=0)

    @property
    def measures_progress(self):  # type: ignore[override]  # losses of different scales do not compare
        return not self.falling

    def __check_init__(self):
        if self.falling < 0 or (self.falling and (self.conditional or len(self.scales) < 2)):
            raise SettingsError(
                "a blur that falls needs a first and a last scale, and an energy that is not given it: not "
                f"falling={self.falling} with scales {self.scales}"
            )
        if not self.scales or not all(0 < scale < float("inf") for scale in self.scales):
            raise SettingsError(f"the scales of the noise are positive, not {self.scales}")

    def init(self, energy, data, *, key):
        return jnp.zeros(()) if self.falling else None

    def _blur(self, memory: PyTree, rows: int, key: PRNGKeyArray) -> Float[Array, "n"]:
        if self.falling:
            share = jnp.minimum(memory / self.falling, 1.0)
            first, last = self.scales[0], self.scales[-1]
            return jnp.full(rows, first * (last / first) ** share)
        return jnp.asarray(self.scales)[jax.random.randint(key, (rows,), 0, len(self.scales))]

    def __call__(self, energy, batch, memory, *, key):
        require("real", "denoising score matching", energy)
        values = whole(batch, "denoising score matching")
        scale_key, noise_key = jax.random.split(key)
        scales = self._blur(memory, len(values), scale_key)
        noise = jax.random.normal(noise_key, values.shape)

        def beyond(y, x):
            return energy(charts.reflected(energy.space, y), x)

        def of_row(y, sigma, xi):
            slope = jax.grad(beyond)(y + sigma * xi, sigma if self.conditional else None)
            return jnp.sum((sigma * slope - xi) ** 2) / 2

        loss = jnp.mean(jax.vmap(of_row)(values, scales, noise))
        return loss, (memory + 1 if self.falling else memory, {})


def _curvature(energy: AbstractEnergy, y: Float[Array, "..."], v: Array) -> tuple[Scalar, Scalar]:
    r"""\(v^\top \nabla F\) and \(v^\top \nabla^2 F\, v\), by two forward derivatives."""

    def along(y):
        return jax.jvp(energy, (y,), (v,))[1]

    return jax.jvp(along, (y,), (v,))
