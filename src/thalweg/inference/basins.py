r"""The basins of an energy on a grid: its minima, and the mass of \(e^{-F}\) around each.

Every cell drains to its lowest neighbour until it comes to one that has no lower: a minimum. Two basins whose pass lies
less than a `barrier` above the shallower minimum are one.

Vincent & Soille (1991), *Watersheds in digital spaces*; heights of passes above minima: Edelsbrunner, Letscher &
Zomorodian (2002), *Topological persistence and simplification*.
"""

import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.special import logsumexp


class Basins(NamedTuple):
    """The minima of a grid, lowest first: their `cells` (flat indices), `energies` and `shares` of the mass."""

    cells: Int[np.ndarray, "m"]
    energies: Float[np.ndarray, "m"]
    shares: Float[np.ndarray, "m"]


def basins(
    energies: Float[np.ndarray, "..."],
    barrier: float = 0.1,
    log_volumes: Float[np.ndarray, "..."] | None = None,
) -> Basins:
    """The basins of the energies on a grid of any dimension, `barrier` in nats.

    `log_volumes` are the logarithms of the cells' volumes (None: all alike). Cells without a finite energy belong to
    none.
    """
    energies = np.where(np.isfinite(energies), energies, np.inf)
    flat = energies.ravel()
    roots, edges = _drained(energies)
    merged = _merged(flat, roots, edges, barrier)
    cells, of_cell = np.unique(merged[roots], return_inverse=True)
    log_mass = -flat if log_volumes is None else log_volumes.ravel() - flat
    masses = np.bincount(of_cell.ravel(), np.exp(log_mass - logsumexp(log_mass)), len(cells))
    order = np.argsort(flat[cells], kind="stable")
    order = order[np.isfinite(flat[cells][order])]
    return Basins(cells[order], flat[cells][order], masses[order])


def _drained(energies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The minimum that each cell drains to, and all pairs of neighbouring cells (diagonals too)."""
    flat, index = energies.ravel(), np.arange(energies.size).reshape(energies.shape)
    pairs = []
    for move in itertools.product((-1, 0, 1), repeat=energies.ndim):
        if move > (0,) * energies.ndim:
            here, there = (
                tuple(slice(max(sign * m, 0), min(sign * m, 0) or None) for m in move) for sign in (-1, 1)
            )
            pairs.append(np.stack([index[here].ravel(), index[there].ravel()]))
    edges = np.concatenate(pairs, axis=1)
    # Of cells with equal energies the first is the lower, so that a plain drains too.
    rank = np.empty(flat.size, np.int64)
    rank[np.argsort(flat, kind="stable")] = np.arange(flat.size)
    lowest = rank.copy()
    np.minimum.at(lowest, edges[0], rank[edges[1]])
    np.minimum.at(lowest, edges[1], rank[edges[0]])
    by_rank = np.argsort(rank)
    drain = by_rank[lowest]
    while not np.array_equal(drain, further := drain[drain]):
        drain = further
    return drain, edges


def _merged(flat: np.ndarray, roots: np.ndarray, edges: np.ndarray, barrier: float) -> np.ndarray:
    """For each minimum (by cell) the one that it counts as: itself, or a deeper one over a low pass."""
    water, label = np.arange(flat.size), np.arange(flat.size)
    for a, b, height in _passes(flat, roots, edges):
        if (first := _top(water, a)) == (second := _top(water, b)):
            continue
        # `low` and `high` are the deepest minima on either side of the pass.
        (_, low, _), (_, high, beyond) = sorted([(flat[first], first, b), (flat[second], second, a)])
        water[high] = low
        if height - flat[high] < barrier:
            label[high] = _top(label, beyond)
    return np.array([_top(label, cell) if label[cell] != cell else cell for cell in range(flat.size)])


def _passes(flat: np.ndarray, roots: np.ndarray, edges: np.ndarray) -> list[tuple[int, int, float]]:
    """The lowest pass between every two basins that touch, the lowest of all first."""
    touching = edges[:, roots[edges[0]] != roots[edges[1]]]
    heights = np.maximum(flat[touching[0]], flat[touching[1]])
    order = np.argsort(heights, kind="stable")
    pairs = np.sort(roots[touching[:, order]], axis=0)
    _, lowest = np.unique(pairs, axis=1, return_index=True)
    lowest = np.sort(lowest)
    return list(zip(*pairs[:, lowest].tolist(), heights[order][lowest].tolist(), strict=True))


def _top(of: np.ndarray, cell: int) -> int:
    while of[cell] != cell:
        cell = int(of[cell])
    return cell
