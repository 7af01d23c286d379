r"""Two-dimensional densities with an exact \(\log p\) and exact draws: what an energy can be checked against.

The shapes are those that the literature draws (Neal 2003; Haario, Saksman & Tamminen 1999; Johnson et al.
2016; Grathwohl et al. 2019), each given here as a normalised density of its own.
"""

import math
from abc import abstractmethod

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from thalweg.energy.base import AbstractDensity, Scalar
from thalweg.energy.spaces import Real

Point = Float[Array, "2"]
_ARC = 64


def _normal(value: Float[Array, "..."], scale: Float[Array, ""] | float) -> Float[Array, "..."]:
    r"""\(\log N(value; 0, scale^2)\)."""
    return -0.5 * (value / scale) ** 2 - jnp.log(scale) - 0.5 * math.log(2 * math.pi)


class AbstractMixture(AbstractDensity):
    r"""\(p(y) = \frac1K \sum_k N(y; m_k, \sigma^2 I)\)."""

    space: eqx.AbstractVar[Real]
    scale: eqx.AbstractVar[float]

    @abstractmethod
    def centres(self) -> Float[np.ndarray, "k 2"]:
        """The means of the parts, of equal weight."""

    def log_prob(self, y, x=None):
        centres = jnp.asarray(self.centres(), jnp.float32)
        parts = _normal(y[None, :] - centres, self.scale).sum(axis=-1)
        return jax.nn.logsumexp(parts) - math.log(len(centres))

    def sample(self, x=None, *, key):
        which, noise = jax.random.split(key)
        centre = jax.random.choice(which, jnp.asarray(self.centres(), jnp.float32))
        return centre + self.scale * jax.random.normal(noise, (2,))


class TwoMoons(AbstractMixture):
    """Two interleaved half circles, blurred: a mixture of 64 Gaussians along each arc.

    The parts lie half a deviation apart, so that no seam shows.
    """

    space: Real = Real((2,))
    scale: float = 0.1

    def centres(self):
        angle = (np.arange(_ARC) + 0.5) * math.pi / _ARC
        upper = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        return np.concatenate([upper, [1.0, 0.5] - upper])


class EightGaussians(AbstractMixture):
    """Eight Gaussians on a circle of radius 2."""

    space: Real = Real((2,))
    scale: float = 0.2

    def centres(self):
        angle = np.arange(8) * math.pi / 4
        return 2 * np.stack([np.cos(angle), np.sin(angle)], axis=1)


class Grid25(AbstractMixture):
    """Twenty-five Gaussians on a square lattice of step 2."""

    space: Real = Real((2,))
    scale: float = 0.1

    def centres(self):
        steps = np.arange(-4.0, 5.0, 2.0)
        return np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)


class Rings(AbstractDensity):
    r"""Three concentric rings: \(p(y) = q(\lVert y\rVert) / (2\pi \lVert y\rVert)\).

    The radius has the density \(q\) of \(\lvert r\rvert\), \(r \sim \frac13\sum_k N(k, \sigma^2)\).
    """

    space: Real = Real((2,))
    scale: float = 0.1

    def log_prob(self, y, x=None):
        # The gradient of a norm is not finite at 0.
        radius = jnp.sqrt(jnp.maximum(jnp.sum(y**2), 1e-12))
        radii = jnp.arange(1.0, 4.0)
        folded = jnp.concatenate([_normal(radius - radii, self.scale), _normal(radius + radii, self.scale)])
        return jax.nn.logsumexp(folded) - math.log(3) - jnp.log(2 * math.pi * radius)

    def sample(self, x=None, *, key):
        ring, noise, turn = jax.random.split(key, 3)
        radius = jax.random.randint(ring, (), 1, 4).astype(float) + self.scale * jax.random.normal(noise)
        angle = jax.random.uniform(turn, maxval=2 * math.pi)
        return jnp.abs(radius) * jnp.stack([jnp.cos(angle), jnp.sin(angle)])


class Pinwheel(AbstractDensity):
    r"""Five swirling arms.

    A Gaussian, long in the first coordinate, is turned by one of five angles and by a twist that grows with
    the distance from the origin: \(y = R(2\pi k/5 + twist\,\lVert a\rVert)\,a\). Turning a circle by its own
    angle preserves area, so \(p(y) = \frac15\sum_k N(R^{-1}y; (2, 0), diag(\sigma^2))\) exactly.
    """

    space: Real = Real((2,))
    long: float = 0.5
    narrow: float = 0.15
    twist: float = 0.6

    def log_prob(self, y, x=None):
        arms = jax.vmap(lambda k: self._turn(y, -self._angle(k, y)))(jnp.arange(5.0))
        parts = _normal(arms[:, 0] - 2.0, self.long) + _normal(arms[:, 1], self.narrow)
        return jax.nn.logsumexp(parts) - math.log(5)

    def sample(self, x=None, *, key):
        which, noise = jax.random.split(key)
        arm = jnp.array([2.0, 0.0]) + jnp.array([self.long, self.narrow]) * jax.random.normal(noise, (2,))
        return self._turn(arm, self._angle(jax.random.randint(which, (), 0, 5).astype(float), arm))

    def _angle(self, k: Scalar, y: Point) -> Scalar:
        return 2 * math.pi * k / 5 + self.twist * jnp.sqrt(jnp.maximum(jnp.sum(y**2), 1e-12))

    def _turn(self, y: Point, angle: Scalar) -> Point:
        c, s = jnp.cos(angle), jnp.sin(angle)
        return jnp.stack([c * y[0] - s * y[1], s * y[0] + c * y[1]])


class Checkerboard(AbstractDensity):
    r"""Uniform on the eight dark squares of a 4×4 board over \([-4, 4]^2\): \(p = 1/32\) there."""

    space: Real = Real((2,), -4.0, 4.0)

    def log_prob(self, y, x=None):
        column, row = jnp.floor(y / 2)
        dark = jnp.mod(column + row, 2) == 0
        inside = jnp.all((y >= -4) & (y < 4))
        return jnp.where(dark & inside, -math.log(32), -jnp.inf)

    def sample(self, x=None, *, key):
        square, place = jax.random.split(key)
        row, pair = jnp.divmod(jax.random.randint(square, (), 0, 8).astype(float), 2.0)
        corner = jnp.stack([2 * pair + row % 2.0, row]) * 2.0 - 4.0
        return corner + 2 * jax.random.uniform(place, (2,))


class Banana(AbstractDensity):
    r"""A bent Gaussian: \(y_0 \sim N(0, 1)\), \(y_1 \mid y_0 \sim N(y_0^2 - 1, \sigma^2)\).

    Haario, Saksman & Tamminen (1999), *Adaptive proposal distribution for random walk Metropolis algorithm*.
    """

    space: Real = Real((2,))
    scale: float = 0.5

    def log_prob(self, y, x=None):
        return _normal(y[0], 1.0) + _normal(y[1] - (y[0] ** 2 - 1), self.scale)

    def sample(self, x=None, *, key):
        a, b = jax.random.normal(key, (2,))
        return jnp.stack([a, a**2 - 1 + self.scale * b])


class Funnel(AbstractDensity):
    r"""A funnel: \(y_1 \sim N(0, \sigma^2)\), \(y_0 \mid y_1 \sim N(0, e^{y_1})\), with \(\sigma = 1.5\).

    Neal (2003), *Slice sampling*, whose deviation is 3.
    """

    space: Real = Real((2,))
    scale: float = 1.5

    def log_prob(self, y, x=None):
        return _normal(y[1], self.scale) + _normal(y[0], jnp.exp(y[1] / 2))

    def sample(self, x=None, *, key):
        a, b = jax.random.normal(key, (2,))
        height = self.scale * a
        return jnp.stack([jnp.exp(height / 2) * b, height])


#: The toys by name, each built without arguments.
TOYS: dict[str, type[AbstractDensity]] = {
    "two_moons": TwoMoons,
    "rings": Rings,
    "pinwheel": Pinwheel,
    "eight_gaussians": EightGaussians,
    "grid_25": Grid25,
    "checkerboard": Checkerboard,
    "banana": Banana,
    "funnel": Funnel,
}
