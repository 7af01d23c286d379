r"""The partition function: \(\log Z = \log\sum_y e^{-F(y)}\), exact where it can be had."""

import itertools
import math
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from thalweg.energy.base import AbstractDensity, AbstractEnergy, Scalar
from thalweg.energy.capabilities import AbstractPartition
from thalweg.energy.spaces import LARGEST_ENUMERATION, AbstractSpace, Simplex
from thalweg.errors import SettingsError
from thalweg.inference.enumeration import log_partition as enumerated

#: Nodes that are evaluated at once.
CHUNK = 4096


@dataclass(frozen=True)
class LogZ:
    """A log partition function in nats: its `value` and standard `error`, and a bracket.

    Of kind `exact` all agree; of kind `bracket`, `lower` is below log Z and `upper` above it except with a small
    probability (`thalweg.evaluate.annealing`).
    """

    value: float
    error: float
    lower: float
    upper: float
    kind: Literal["exact", "bracket"]
    how: str

    @classmethod
    def exactly(cls, value: float, how: str) -> "LogZ":
        return cls(value, 0.0, value, value, "exact", how)

    def __str__(self) -> str:
        if self.kind == "exact":
            return f"log Z = {self.value:.6g} nats, exact ({self.how})"
        within = f"within [{self.lower:.6g}, {self.upper:.6g}]"
        return f"log Z = {self.value:.6g} ± {self.error:.2g} nats, {within} ({self.how})"


def exact_log_partition(energy: AbstractEnergy, x: PyTree = None, *, nodes: int = 64) -> Scalar:
    r"""\(\log Z(x)\), differentiable: 0 of a density, an energy's own sum, an enumeration, or quadrature.

    Raises `SettingsError` where none of them can be had.
    """
    if isinstance(energy, AbstractDensity):
        return jnp.zeros(())
    if isinstance(energy, AbstractPartition):
        return energy.log_partition(x)
    if energy.space.cardinality is not None:
        return enumerated(energy, x)
    return quadrature(energy, x, nodes=nodes)


def how_exact(energy: AbstractEnergy) -> str | None:
    """How the exact log Z of an energy is had; None where it isn't."""
    if isinstance(energy, AbstractDensity):
        return "normalised"
    if isinstance(energy, AbstractPartition):
        try:
            jax.eval_shape(lambda: energy.log_partition())
        except SettingsError:
            return None
        return "its own sum"
    count = energy.space.cardinality
    if count is not None:
        return "enumeration" if count <= LARGEST_ENUMERATION else None
    return "quadrature" if _can_integrate(energy.space) else None


def quadrature(energy: AbstractEnergy, x: PyTree = None, *, nodes: int = 64) -> Scalar:
    r"""\(\log\int e^{-F(y, x)}\,dy\) over a bounded box of one to three real dimensions, by Gauss-Legendre nodes.

    Each dimension is cut into panels of eight nodes, `nodes` in all (rounded up). Raises `SettingsError` for any other
    space.
    """
    if not _can_integrate(energy.space):
        raise SettingsError(
            f"quadrature is for one to three real dimensions in a bounded box, not {energy.space}: bound the space "
            "(Real(shape, lower, upper)), or use annealed importance sampling"
        )
    bounds = (bound.reshape(-1).tolist() for bound in energy.space.bounds())
    axes = [_panels(low, high, nodes) for low, high in zip(*bounds, strict=True)]
    points = np.array(list(itertools.product(*[node for node, _ in axes])), np.float32)
    weights = np.array([math.prod(w) for w in itertools.product(*[weight for _, weight in axes])], np.float64)
    short = -len(points) % min(CHUNK, len(points))
    chunked = np.pad(points, ((0, short), (0, 0)), mode="edge").reshape(
        -1, min(CHUNK, len(points)), points.shape[1]
    )
    shape = energy.space.shape
    energies = jax.lax.map(jax.vmap(lambda y: energy(y.reshape(shape), x)), jnp.asarray(chunked)).reshape(-1)
    logs = np.pad(np.log(weights), (0, short), constant_values=-np.inf).astype(np.float32)
    return jax.nn.logsumexp(logs - energies)


def _can_integrate(space: AbstractSpace) -> bool:
    if isinstance(space, Simplex) or not space.real.all():
        return False
    lower, upper = space.bounds()
    return 1 <= lower.size <= 3 and bool(np.isfinite(lower).all() and np.isfinite(upper).all())


def _panels(low: float, high: float, nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Eight Gauss-Legendre nodes in each of equal panels, and their weights."""
    count = max(1, -(-nodes // 8))
    node, weight = np.polynomial.legendre.leggauss(8)
    half = (high - low) / count / 2
    middles = low + half * (2 * np.arange(count) + 1)
    return (middles[:, None] + half * node).reshape(-1), np.tile(half * weight, count)
