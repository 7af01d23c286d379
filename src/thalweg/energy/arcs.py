"""Acyclic graphs as arrays: nodes in topological order, and the arcs that come into each.

They are made outside compiled code, where cycles and graphs without a path are refused; graphs of different sizes are
filled up to one shape, so that a batch of them is one pytree for `jax.vmap`.
"""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from graphlib import CycleError, TopologicalSorter

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from thalweg.errors import SettingsError


class Arcs(eqx.Module):
    """The arcs of an acyclic graph, in the order in which they were given: `sources` and `targets` (a,) are nodes, of
    which 0 is the start; `incoming` (n, d) are the arcs into each node, filled up with a. Arcs that lie on no path from
    the start to the `end` are not `used`."""

    sources: Int[Array, "a"]
    targets: Int[Array, "a"]
    incoming: Int[Array, "n d"]
    end: Int[Array, ""]
    used: Bool[Array, "a"]

    @classmethod
    def of(cls, pairs: Sequence[tuple[Hashable, Hashable]], start: Hashable, end: Hashable) -> "Arcs":
        """The graph of arcs (source, target) between nodes of any names.

        Raises `SettingsError` for a cycle, and where no path leads from `start` to `end`.
        """
        if start == end:
            raise SettingsError(
                f"the start and the end of a lattice are different nodes, and both are {start!r}"
            )
        order = _topological(pairs)
        ahead, back = _reached(pairs, start), _reached([pair[::-1] for pair in pairs], end)
        if end not in ahead:
            raise SettingsError(
                f"no path leads from {start!r} to {end!r}: {_stuck(pairs, ahead, order)}; add arcs, or name another end"
            )
        place = {node: i for i, node in enumerate(node for node in order if node in ahead and node in back)}
        used = np.array([a in place and b in place for a, b in pairs])
        into: dict[int, list[int]] = defaultdict(list)
        for i in np.flatnonzero(used).tolist():
            into[place[pairs[i][1]]].append(i)
        incoming = np.full((len(place), max(map(len, into.values()))), len(pairs), np.int32)
        for node, arcs in into.items():
            incoming[node, : len(arcs)] = arcs
        ends = np.array([[place.get(node, 0) for node in pair] for pair in pairs], np.int32)
        return cls(
            *(jnp.asarray(part) for part in (ends[:, 0], ends[:, 1], incoming, np.int32(place[end]), used))
        )


def stacked(graphs: Sequence[Arcs]) -> Arcs:
    """Graphs side by side, all filled up to the shapes of the largest: a leading axis for `jax.vmap`.

    Energies of arcs are to be filled up in the same way, with any finite number.
    """
    arcs = max(len(graph.used) for graph in graphs)
    nodes, degree = (max(graph.incoming.shape[axis] for graph in graphs) for axis in (0, 1))
    filled = [_filled(graph, arcs, nodes, degree) for graph in graphs]
    return jax.tree.map(lambda *parts: jnp.asarray(np.stack(parts)), *filled)


def path_lengths(graphs: Arcs) -> tuple[np.ndarray, np.ndarray]:
    """How many arcs the shortest and the longest path of each of `stacked` graphs have; made on the host."""
    sources, incoming, ends = (np.asarray(part) for part in (graphs.sources, graphs.incoming, graphs.end))
    (count, arcs), nodes = sources.shape, incoming.shape[1]
    fewest, most = np.full((count, nodes), np.inf), np.full((count, nodes), -np.inf)
    fewest[:, 0] = most[:, 0] = 0
    rows = np.arange(count)[:, None]
    for node in range(1, nodes):
        into = incoming[:, node]
        before = sources[rows, np.minimum(into, arcs - 1)]
        fewest[:, node] = np.where(into < arcs, fewest[rows, before] + 1, np.inf).min(axis=1)
        most[:, node] = np.where(into < arcs, most[rows, before] + 1, -np.inf).max(axis=1)
    return fewest[rows[:, 0], ends].astype(int), most[rows[:, 0], ends].astype(int)


def _filled(graph: Arcs, arcs: int, nodes: int, degree: int) -> Arcs:
    sources, targets, incoming, end, used = (np.asarray(part) for part in jax.tree.leaves(graph))
    more, (n, d) = (0, arcs - len(used)), incoming.shape
    into = np.full((nodes, degree), arcs, np.int32)
    into[:n, :d] = np.where(incoming == len(used), arcs, incoming)
    parts = np.pad(sources, more), np.pad(targets, more), into, end, np.pad(used, more)
    return Arcs(*(jnp.asarray(part) for part in parts))


def _topological(pairs: Sequence[tuple[Hashable, Hashable]]) -> list[Hashable]:
    sorter: TopologicalSorter = TopologicalSorter()
    for a, b in pairs:
        sorter.add(b, a)
    try:
        return list(sorter.static_order())
    except CycleError as error:
        cycle = error.args[1]
        shown = " → ".join(map(repr, cycle[:8])) + (" → …" if len(cycle) > 8 else "")
        raise SettingsError(
            f"a lattice has no cycles, and its arcs lead around {shown}: leave one out, or number the nodes by time "
            "and let arcs lead onwards"
        ) from None


def _reached(pairs: Sequence[tuple[Hashable, Hashable]], start: Hashable) -> set[Hashable]:
    onwards = defaultdict(list)
    for a, b in pairs:
        onwards[a].append(b)
    found, waiting = {start}, [start]
    while waiting:
        for node in onwards[waiting.pop()]:
            if node not in found:
                found.add(node)
                waiting.append(node)
    return found


def _stuck(pairs: Sequence[tuple[Hashable, Hashable]], ahead: set[Hashable], order: list[Hashable]) -> str:
    reached = [node for node in order if node in ahead]
    return f"the last node that is reached is {reached[-1]!r}" if reached else "no arc leaves the start"
