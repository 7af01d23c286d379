r"""Variable elimination: \(\bigoplus_y \sum_f E_f(y_f)\) over all answers of a factor graph, one variable at a time.

All tables lie in two rows of numbers, those of the factors and those that steps leave, and a step knows from where its
cells come: so steps alike in size are one compiled loop, whatever their variables. `ordering` says in what order.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from thalweg.energy.base import Scalar
from thalweg.energy.ordering import Order, Step, entries
from thalweg.energy.semirings import AbstractSemiring
from thalweg.energy.tables import Group, Scope

#: The first cells of the row of factors: what adds nothing, and what is forbidden.
NOTHING, FORBIDDEN = 0, 1


class Phase(NamedTuple):
    """From where the cells of the tables of t steps come, (t, inputs, s, v) in the row of the factors and in that of
    what steps leave, and where those go that they leave, (t, s); filled up with what is forbidden or not kept."""

    factors: np.ndarray
    messages: np.ndarray
    out: np.ndarray
    turns: np.ndarray


def eliminate(groups: Sequence[Group], order: Order, semiring: AbstractSemiring) -> Float[Array, "k"]:
    r"""\(\bigoplus_y \sum_f E_f(y_f)\) of factors for whose scopes and sizes the order was found."""
    phases, cells = _laid_out(tuple(group.scopes for group in groups), order)
    factors = jnp.concatenate([jnp.array([0.0, jnp.inf]), *(jnp.ravel(group.tables) for group in groups)])
    messages, total = semiring.lifted(jnp.zeros(cells)), jnp.zeros(())
    for phase in phases:
        # Outside of the loop, where the derivative of the whole row is taken once and not at each step.
        own = jnp.sum(factors[phase.factors], axis=1)
        messages, total = _run(phase, own, messages, total, semiring)
    return total + messages[-1]


def _run(
    phase: Phase, own: Array, messages: Array, total: Scalar, semiring: AbstractSemiring
) -> tuple[Array, Scalar]:
    def step(carry, now):
        messages, total = carry
        table, sources, out, turn = now
        table = table[..., None]
        for source in sources:
            table = semiring.both(table, messages[source])
        left = semiring.either(table, turn)
        # What is common to a table is kept apart, so that differences keep their digits on long graphs.
        least = jax.lax.stop_gradient(jnp.min(left))
        common = jnp.where(jnp.isfinite(least), least, 0)
        kept = semiring.both(messages.at[out].get(mode="fill", fill_value=0), left - common)
        return (messages.at[out].set(kept, mode="drop"), total + common), None

    where = (jnp.asarray(part) for part in phase[1:])
    return jax.lax.scan(step, (messages, total), (own, *where))[0]


@lru_cache(maxsize=64)
def _laid_out(groups: tuple[tuple[Scope, ...], ...], order: Order) -> tuple[tuple[Phase, ...], int]:
    """The phases, and how many cells the tables have that are left; the last cell is that of no variable."""
    factors: dict[Scope, list[np.ndarray]] = {}
    start = 2
    for scopes in groups:
        for scope in scopes:
            shape, turned = [order.sizes[v] for v in scope], order.scope(scope)
            cells = start + np.arange(entries(scope, order.sizes), dtype=np.int32).reshape(shape)
            start += cells.size
            factors.setdefault(turned, []).append(cells.transpose([scope.index(v) for v in turned]))
    messages: dict[Scope, list[np.ndarray]] = {}
    start = 1
    for scope in dict.fromkeys(step.scope for step in order.steps if step.scope):
        shape = [order.sizes[v] for v in scope]
        cells = start + np.arange(entries(scope, order.sizes), dtype=np.int32).reshape(shape)
        start += cells.size
        messages[scope] = [cells]
    messages[()] = [np.array(start, np.int32)]
    turns = np.cumsum([0, *(len(phase) for phase in order.phases)])
    phases = [
        _phase(steps, factors, messages, start + 1, int(turn), order.sizes)
        for steps, turn in zip(order.phases, turns[:-1], strict=True)
    ]
    return tuple(phases), start + 1


def _phase(
    steps: tuple[Step, ...],
    factors: dict[Scope, list[np.ndarray]],
    messages: dict[Scope, list[np.ndarray]],
    nowhere: int,
    turn: int,
    sizes: tuple[int, ...],
) -> Phase:
    left = max(entries(step.scope, sizes) for step in steps)
    values = max(sizes[step.joint[-1]] for step in steps)

    def sources(tables: dict[Scope, list[np.ndarray]], beyond: int) -> np.ndarray:
        found = [
            [(scope, cells) for scope in step.inputs for cells in tables.get(scope, [])] for step in steps
        ]
        index = np.full((len(steps), max(1, *(len(f) for f in found)), left, values), NOTHING, np.int32)
        for at, step, inputs in zip(index, steps, found, strict=True):
            size = entries(step.scope, sizes), sizes[step.joint[-1]]
            for slot, (scope, cells) in zip(at, inputs, strict=False):
                slot[: size[0], : size[1]] = _spread(cells, scope, step.joint, sizes).reshape(size)
            at[0, size[0] :], at[0, :, size[1] :] = beyond, beyond
        return index

    out = np.full((len(steps), left), nowhere, np.int32)
    for at, step in zip(out, steps, strict=True):
        at[: entries(step.scope, sizes)] = messages[step.scope][0].ravel()
    return Phase(
        sources(factors, FORBIDDEN),
        sources(messages, NOTHING),
        out,
        np.arange(turn, turn + len(steps), dtype=np.int32),
    )


def _spread(cells: np.ndarray, scope: Scope, joint: Scope, sizes: tuple[int, ...]) -> np.ndarray:
    """The cells with an axis for each variable of `joint`, repeated over what they do not depend on."""
    shape = [sizes[v] if v in scope else 1 for v in joint]
    return np.broadcast_to(cells.reshape(shape), [sizes[v] for v in joint])
