r"""Coordinates in which every real coordinate of a space is free: boxes and simplices as all of \(\mathbb{R}^d\).

A density over \(y\) is one over \(u\) by the Jacobian, \(p(u) = p(y(u))\,|dy/du|\). A box may instead be folded:
\(u\) runs over mirror images of it, and where it crosses a face the chain is reflected; no Jacobian is needed.
Betancourt (2012), *Cruising the simplex*; Neal (2011), *MCMC using Hamiltonian dynamics*, section 5.1.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from thalweg.energy.base import Scalar
from thalweg.energy.spaces import AbstractSpace, Simplex

#: How near to a bound, as a share of the box, a point may be taken to coordinates.
MARGIN = 1e-6


class Box(NamedTuple):
    """The bounds of the real coordinates, flat: where there are any, and what they are (0: none)."""

    low: np.ndarray
    high: np.ndarray
    lower: np.ndarray
    upper: np.ndarray

    @property
    def both(self) -> np.ndarray:
        return self.low & self.high

    @property
    def any(self) -> np.ndarray:
        return self.low | self.high

    @property
    def width(self) -> np.ndarray:
        return np.where(self.both, self.upper - self.lower, 1.0).astype(np.float32)


def box(space: AbstractSpace) -> Box:
    """The bounds of a space that is a product of intervals and lattices, flat."""
    lower, upper = (bound.reshape(-1).astype(np.float32) for bound in space.bounds())
    real = space.real.reshape(-1)
    low, high = real & np.isfinite(lower), real & np.isfinite(upper)
    return Box(low, high, np.where(low, lower, 0), np.where(high, upper, 0))


def point(space: AbstractSpace, u: Float[Array, "d"], *, folded: bool) -> tuple[Float[Array, "d"], Scalar]:
    r"""\(y(u)\), flat, and \(\log |dy/du|\); finite coordinates are as they are."""
    if isinstance(space, Simplex):
        return _broken_stick(u)
    b = box(space)
    if not b.any.any():
        return u, jnp.zeros(())
    if folded:
        inside = b.lower + jnp.abs(jnp.mod(u - b.lower + b.width, 2 * b.width) - b.width)
        mirrored = jnp.where(b.low, b.lower + jnp.abs(u - b.lower), b.upper - jnp.abs(b.upper - u))
        return jnp.where(b.any, jnp.where(b.both, inside, mirrored), u), jnp.zeros(())
    # An exponential of an unbounded coordinate might overflow, and its derivative with it.
    v = jnp.where(b.any, u, 0.0)
    squashed = b.lower + b.width * jax.nn.sigmoid(v)
    stretched = jnp.where(b.low, b.lower + jnp.exp(v), b.upper - jnp.exp(v))
    inner = np.log(b.width) + jax.nn.log_sigmoid(v) + jax.nn.log_sigmoid(-v)
    log_volume = jnp.sum(jnp.where(b.both, inner, v))
    return jnp.where(b.any, jnp.where(b.both, squashed, stretched), u), log_volume


def reflected(space: AbstractSpace, y: Float[Array, "..."]) -> Float[Array, "..."]:
    """A point beyond a face of a box as its mirror image inside; a simplex has no mirrors, and is projected to."""
    if isinstance(space, Simplex):
        return space.project(y)
    return jnp.reshape(point(space, jnp.ravel(y), folded=True)[0], y.shape)


def coordinates(space: AbstractSpace, y: Float[Array, "d"], *, folded: bool) -> Float[Array, "d"]:
    """The inverse of `point`; a point on a bound is moved a little inside, or its coordinates were infinite."""
    if isinstance(space, Simplex):
        return _stick(y)
    b = box(space)
    if folded or not b.any.any():
        return y
    share = jnp.clip((y - b.lower) / b.width, MARGIN, 1 - MARGIN)
    inner = jnp.log(share) - jnp.log1p(-share)
    apart = jnp.where(b.low, y - b.lower, b.upper - y)
    return jnp.where(b.any, jnp.where(b.both, inner, jnp.log(jnp.maximum(apart, MARGIN))), y)


def _offsets(size: int) -> np.ndarray:
    """What centres the broken stick: u = 0 is the middle of the simplex."""
    return -np.log(np.arange(size - 1, 0, -1)).astype(np.float32)


def _broken_stick(u: Float[Array, "k"]) -> tuple[Float[Array, "k"], Scalar]:
    """Shares broken off one after the other; the last coordinate of `u` has no part."""
    logits = u[:-1] + _offsets(len(u))
    rest = jnp.concatenate([jnp.zeros(1), jnp.cumsum(jax.nn.log_sigmoid(-logits))])
    y = jnp.exp(rest + jnp.append(jax.nn.log_sigmoid(logits), 0.0))
    return y, jnp.sum(rest[:-1] + jax.nn.log_sigmoid(logits) + jax.nn.log_sigmoid(-logits))


def _stick(y: Float[Array, "k"]) -> Float[Array, "k"]:
    y = jnp.clip(y, MARGIN, 1.0)
    after = jnp.cumsum(y[::-1])[::-1][1:]
    return jnp.append(jnp.log(y[:-1]) - jnp.log(after) - _offsets(len(y)), 0.0)
