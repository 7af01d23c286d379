r"""In which order the variables of a factor graph are eliminated, and what that costs; found outside compiled code.

To eliminate a variable is to add the tables that it is in and to bring its values together, which leaves a table over
the variables beside it. On a tree none is larger than the factors' own tables. Steps alike are gathered in phases, so
that compiled code does not grow with the graph.

Dechter (1999), *Bucket elimination: a unifying framework for reasoning*; Koller & Friedman (2009), *Probabilistic
graphical models*, chapter 9.
"""

import heapq
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

from thalweg.energy.tables import Scope
from thalweg.errors import SettingsError

#: The most entries of all tables together that an elimination makes.
LARGEST = 1 << 20
#: Phases are one where their tables, filled up to one shape, have at most twice the entries and so many more.
SMALL = 1 << 12


class Step(NamedTuple):
    """The last variable of `joint` is eliminated from the sum of the tables over `inputs`."""

    joint: Scope
    inputs: tuple[Scope, ...]

    @property
    def scope(self) -> Scope:
        """The variables of the table that is left."""
        return self.joint[:-1]


class Order(NamedTuple):
    """The steps of an elimination in `phases` of tables of about one size; `rank` is the turn of each variable."""

    phases: tuple[tuple[Step, ...], ...]
    sizes: tuple[int, ...]
    rank: tuple[int, ...]

    @property
    def steps(self) -> tuple[Step, ...]:
        return tuple(step for phase in self.phases for step in phase)

    @property
    def entries(self) -> tuple[int, ...]:
        """The numbers of entries of the tables that are made, one a step."""
        return tuple(entries(step.joint, self.sizes) for step in self.steps)

    def scope(self, variables: Sequence[int]) -> Scope:
        """The variables in the order of a table's axes: what is eliminated first stands last."""
        return tuple(sorted(variables, key=lambda v: -self.rank[v]))


@lru_cache(maxsize=256)
def order(scopes: tuple[Scope, ...], sizes: tuple[int, ...], largest: int = LARGEST) -> Order:
    """The better of two greedy orders: that of the least fill, and that of the least table.

    Raises `SettingsError` where both make tables of more than `largest` entries.
    """
    ranked = [_ranked(scopes, sizes, score, largest) for score in (_fill, _table)]
    best = min(ranked, key=lambda found: found.entries)
    if best.entries > largest:
        raise SettingsError(
            f"exact inference would make tables of at least {best.entries:,} entries, the largest over {best.widest} "
            f"variables at once, and at most {largest:,} are made: use loopy belief propagation "
            "(thalweg.inference.loopy), iterated conditional modes (thalweg.inference.icm) or chains "
            "(thalweg.sampling.Gibbs)"
        )
    phases = _merged(_gathered(_steps(best.rank, scopes), sizes), sizes)
    return Order(tuple(tuple(phase) for phase in phases), sizes, best.rank)


def entries(variables: Sequence[int], sizes: tuple[int, ...]) -> int:
    return math.prod(sizes[v] for v in variables)


def _gathered(steps: list[Step], sizes: tuple[int, ...]) -> list[list[Step]]:
    """The steps in an order in which many of one size follow one another; each comes after those that it needs."""
    at = {step.joint[-1]: i for i, step in enumerate(steps)}
    # What a step leaves is needed where the first of its variables is eliminated.
    after = [at[step.scope[-1]] if step.scope else None for step in steps]
    needs = [0] * len(steps)
    for i in after:
        if i is not None:
            needs[i] += 1
    ready: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i, step in enumerate(steps):
        if not needs[i]:
            ready[_size(step, sizes)].append(i)
    groups = []
    while any(ready.values()):
        now = ready[max(ready, key=lambda size: (len(ready[size]), size))]
        group: list[Step] = []
        while now:
            i = now.pop(0)
            group.append(steps[i])
            following = after[i]
            if following is not None:
                needs[following] -= 1
                if not needs[following]:
                    ready[_size(steps[following], sizes)].append(following)
        groups.append(group)
    return groups


def _size(step: Step, sizes: tuple[int, ...]) -> tuple[int, int]:
    """About how large the table is: what is left, by eights, and the values of what is eliminated, by twos."""
    return -(-entries(step.scope, sizes).bit_length() // 3), sizes[step.joint[-1]].bit_length()


def _merged(groups: list[list[Step]], sizes: tuple[int, ...]) -> list[list[Step]]:
    """Neighbouring groups as one, where filling their tables up to one shape costs little."""

    def filled(group: list[Step]) -> int:
        left = max(entries(step.scope, sizes) for step in group)
        return len(group) * left * max(sizes[step.joint[-1]] for step in group)

    merged: list[list[Step]] = []
    for group in groups:
        if merged and filled(merged[-1] + group) <= 2 * (filled(merged[-1]) + filled(group)) + SMALL:
            merged[-1] = merged[-1] + group
        else:
            merged.append(group)
    return merged


def _steps(rank: tuple[int, ...], scopes: tuple[Scope, ...]) -> list[Step]:
    """What is to be done to eliminate the variables in this order."""
    of: list[set[Scope]] = [set() for _ in rank]
    for scope in scopes:
        for v in scope:
            of[v].add(tuple(sorted(scope, key=lambda v: -rank[v])))
    steps = []
    for variable in sorted(range(len(rank)), key=lambda v: rank[v]):
        inputs = tuple(sorted(of[variable]))
        joint = tuple(sorted({v for scope in inputs for v in scope} | {variable}, key=lambda v: -rank[v]))
        for scope in inputs:
            for v in scope:
                of[v].discard(scope)
        for v in joint[:-1]:
            of[v].add(joint[:-1])
        steps.append(Step(joint, inputs))
    return steps


Score = Callable[[int, list[set[int]], tuple[int, ...]], tuple[int, ...]]


class _Ranking(NamedTuple):
    """The turn of each variable, how many entries the tables have, and over how many variables the widest is."""

    rank: tuple[int, ...]
    entries: int
    widest: int


def _ranked(scopes: tuple[Scope, ...], sizes: tuple[int, ...], score: Score, largest: int) -> _Ranking:
    """Greedily the variable of the least score, of variables alike the first; no further than to `largest` entries."""
    near: list[set[int]] = [set() for _ in sizes]
    for scope in scopes:
        for v in scope:
            near[v].update(scope)
            near[v].discard(v)
    now = {v: score(v, near, sizes) for v in range(len(sizes))}
    heap = [(value, v) for v, value in now.items()]
    heapq.heapify(heap)
    rank, total, widest = [0] * len(sizes), 0, 0
    while heap and total <= largest:
        value, v = heapq.heappop(heap)
        # A score that has changed since stands further on.
        if now.get(v) != value:
            continue
        rank[v] = len(sizes) - len(now)
        del now[v]
        around = near[v]
        total, widest = total + entries((v, *around), sizes), max(widest, len(around) + 1)
        for u in around:
            near[u] |= around
            near[u] -= {u, v}
        for u in around.union(*(near[u] for u in around)):
            new = score(u, near, sizes)
            if new != now[u]:
                now[u] = new
                heapq.heappush(heap, (new, u))
    return _Ranking(tuple(rank), total, widest)


def _fill(v: int, near: list[set[int]], sizes: tuple[int, ...]) -> tuple[int, ...]:
    missing = sum(len(near[v] - near[u]) - 1 for u in near[v])
    return missing, *_table(v, near, sizes)


def _table(v: int, near: list[set[int]], sizes: tuple[int, ...]) -> tuple[int, ...]:
    return (entries((v, *near[v]), sizes),)
