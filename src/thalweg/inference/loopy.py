r"""Loopy belief propagation: messages between the variables and factors of a graph until they agree.

\[ m_{f \to i}(y_i) = \bigoplus_{y_f \setminus y_i} \Big(E_f(y_f) + \sum_{j \in f \setminus i} n_{j \to f}(y_j)\Big),
\qquad n_{i \to f} = \sum_{g \ni i,\, g \ne f} m_{g \to i} \]

with \(\oplus\) the free energy at \(\beta\) (sum-product) or the minimum (max-product). On a tree exact; elsewhere an
approximation, which may not converge: messages are damped, and the result says how it ended.

Pearl (1988), *Probabilistic reasoning in intelligent systems*; Murphy, Weiss & Jordan (1999), *Loopy belief propagation
for approximate inference*; Yedidia, Freeman & Weiss (2005), *Constructing free-energy approximations and generalized
belief propagation algorithms*.
"""

from collections.abc import Callable, Sequence
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from thalweg.energy.base import Scalar
from thalweg.energy.factors import FactorGraph
from thalweg.energy.semirings import soft_minimum
from thalweg.energy.tables import Group
from thalweg.errors import NotConverged, SettingsError
from thalweg.inference.solution import Solution, Status

#: For each factor group and each axis of its tables the messages (m, v) to the variables there.
Messages = list[list[Array]]
Either = Callable[[Array], Array]


class Beliefs(eqx.Module):
    r"""What messages agreed on: approximate `marginals` (..., v), and the Bethe approximation of the free energy,
    which is no bound. `change` is the greatest change of a message in the last step, in nats."""

    marginals: Float[Array, "... v"]
    bethe_free_energy: Scalar
    steps: Int[Array, ""]
    status: Int[Array, ""]
    change: Scalar

    @property
    def converged(self):
        """Whether the status is `Status.CONVERGED`; an array under `jax.vmap`."""
        return self.status == Status.CONVERGED


def loopy_beliefs(
    graph: FactorGraph,
    x: PyTree = None,
    *,
    beta: float | Scalar = 1.0,
    damping: float = 0.5,
    steps: int = 500,
    tolerance: float = 1e-4,
    throw: bool = True,
) -> Beliefs:
    r"""Approximate marginals of \(e^{-\beta F(\cdot, x)}\) by sum-product; all messages at once, each kept by the share
    `damping`, until none changes by more than `tolerance`
    nats.

    Raises `NotConverged` after `steps` steps unless `throw` is False (inside jit and vmap: look at the status).
    """
    _check(graph, damping, steps)
    found = _beliefs(graph, x, jnp.asarray(beta, jnp.float32), damping, steps, tolerance)
    if throw:
        _raise(found.status, found.change, steps)
    return found


def loopy_argmin(
    graph: FactorGraph,
    x: PyTree = None,
    *,
    damping: float = 0.5,
    steps: int = 500,
    tolerance: float = 1e-4,
    throw: bool = True,
) -> Solution:
    r"""An answer of low \(F(y, x)\) by max-product: of those that the messages stood for after each step the lowest.

    On a tree without ties it is the lowest of all. Raises as `loopy_beliefs`.
    """
    _check(graph, damping, steps)
    found, change = _argmin(graph, x, damping, steps, tolerance)
    if throw:
        _raise(found.status, change, steps)
    return found


@eqx.filter_jit
def _beliefs(
    graph: FactorGraph, x: PyTree, beta: Scalar, damping: float, steps: int, tolerance: float
) -> Beliefs:
    groups = graph.tabulated(x).groups()
    either = partial(soft_minimum, beta=beta)

    def step(state):
        messages, _, turn = state
        new, change = _updated(groups, messages, graph.sizes, either, damping)
        # In nats whatever the temperature.
        return new, beta * change, turn + 1

    messages, change, turn = _until_still(step, _start(groups), steps, tolerance)
    energies = _total(groups, messages, graph.sizes)
    free = _bethe(groups, messages, graph.sizes, energies, beta)
    # The derivative of the softened minimum: probabilities, 0 where all is forbidden.
    probabilities = jax.grad(lambda e: jnp.sum(soft_minimum(e, beta)))(energies)
    return Beliefs(
        probabilities.reshape(*graph.space.shape, -1), free, turn, _status(change, tolerance, free), change
    )


@eqx.filter_jit
def _argmin(
    graph: FactorGraph, x: PyTree, damping: float, steps: int, tolerance: float
) -> tuple[Solution, Scalar]:
    still = graph.tabulated(x)
    groups = still.groups()

    def read_off(messages: Messages) -> tuple[Array, Array]:
        y = jnp.argmin(_total(groups, messages, graph.sizes), axis=1).astype(jnp.float32)
        y = y.reshape(graph.space.shape)
        return y, still(y)

    def step(state):
        (messages, y, energy), _, turn = state
        messages, change = _updated(groups, messages, graph.sizes, partial(jnp.min, axis=-1), damping)
        new, its = read_off(messages)
        lower = its < energy
        return (messages, jnp.where(lower, new, y), jnp.where(lower, its, energy)), change, turn + 1

    start = _start(groups)
    (_, y, energy), change, turn = _until_still(step, (start, *read_off(start)), steps, tolerance)
    return Solution(y, energy, turn, _status(change, tolerance, energy), jnp.zeros(())), change


def _until_still(
    step: Callable, start: PyTree, steps: int, tolerance: float
) -> tuple[PyTree, Scalar, Int[Array, ""]]:
    def moving(state):
        _, change, turn = state
        return (turn < steps) & (change > tolerance)

    return jax.lax.while_loop(moving, step, (start, jnp.array(jnp.inf), jnp.int32(0)))


def _start(groups: Sequence[Group]) -> Messages:
    return [[jnp.zeros((len(g.scopes), v)) for v in g.tables.shape[1:]] for g in groups]


def _updated(
    groups: Sequence[Group], messages: Messages, sizes: Sequence[int], either: Either, damping: float
) -> tuple[Messages, Scalar]:
    """All messages once more, and the greatest change."""
    new, changes = [], []
    for group, old, incoming in zip(groups, messages, _incoming(groups, messages, sizes), strict=True):
        fresh = [_outgoing(group, incoming, axis, either) for axis in range(len(old))]
        mixed = [
            jnp.where(jnp.isinf(f) | jnp.isinf(o), f, f + damping * (o - f))
            for f, o in zip(fresh, old, strict=True)
        ]
        new.append(mixed)
        # Two infinities are alike, though their difference is no number.
        changes += [jnp.max(jnp.where(m == o, 0, jnp.abs(m - o))) for m, o in zip(mixed, old, strict=True)]
    return new, jnp.max(jnp.stack(changes))


def _outgoing(group: Group, incoming: list[Array], axis: int, either: Either) -> Float[Array, "m v"]:
    """The messages of all factors of a group to the variables of one axis, the least of each 0."""
    others = [None if i == axis else message for i, message in enumerate(incoming)]
    whole = jnp.moveaxis(_joined(group, others), axis + 1, 1)
    left = either(whole.reshape(*whole.shape[:2], -1))
    least = jnp.min(left, axis=1, keepdims=True)
    return left - jnp.where(jnp.isfinite(least), least, 0)


def _joined(group: Group, incoming: Sequence[Array | None]) -> Float[Array, "m ..."]:
    """The tables and what arrives at each of their axes."""
    whole = group.tables
    for i, message in enumerate(incoming):
        if message is not None:
            spread = [1] * (whole.ndim - 1)
            spread[i] = message.shape[1]
            whole = whole + message.reshape(len(message), *spread)
    return whole


def _gathered(groups: Sequence[Group], messages: Messages, sizes: Sequence[int]) -> tuple[Array, Array]:
    """At each value of each variable the sum of the finite messages, and how many are infinite."""
    whole = jnp.zeros((2, len(sizes), max(sizes)))
    for group, of in zip(groups, messages, strict=True):
        for where, message in zip(np.array(group.scopes).T, of, strict=True):
            parts = jnp.stack(
                [jnp.where(jnp.isinf(message), 0, message), jnp.isinf(message).astype(message.dtype)]
            )
            whole = whole.at[:, where, : message.shape[1]].add(parts)
    return whole[0], whole[1]


def _incoming(groups: Sequence[Group], messages: Messages, sizes: Sequence[int]) -> Messages:
    """What the variables say to each factor: all messages to them but the factor's own."""
    finite, bars = _gathered(groups, messages, sizes)

    def without(where: np.ndarray, own: Array) -> Array:
        barred = jnp.isinf(own)
        rest = finite[where, : own.shape[1]] - jnp.where(barred, 0, own)
        return jnp.where(bars[where, : own.shape[1]] - barred.astype(own.dtype) > 0.5, jnp.inf, rest)

    return [
        [without(where, own) for where, own in zip(np.array(g.scopes).T, of, strict=True)]
        for g, of in zip(groups, messages, strict=True)
    ]


def _total(groups: Sequence[Group], messages: Messages, sizes: Sequence[int]) -> Float[Array, "n v"]:
    """The energy of each value of each variable, as the messages have it; infinite beyond its values."""
    finite, bars = _gathered(groups, messages, sizes)
    own = np.arange(max(sizes))[None] < np.array(sizes)[:, None]
    return jnp.where((bars > 0.5) | ~own, jnp.inf, finite)


def _bethe(
    groups: Sequence[Group], messages: Messages, sizes: Sequence[int], energies: Array, beta: Scalar
) -> Scalar:
    r"""\(\sum_i F_i + \sum_f F_f - \sum_{fi} F_{fi}\): the free energies of the variables and of the factors with all
    that arrives at them, less that of each message and its answer, which both have counted."""
    whole = jnp.sum(soft_minimum(energies, beta))
    for group, of, incoming in zip(groups, messages, _incoming(groups, messages, sizes), strict=True):
        joined = _joined(group, incoming)
        whole = whole + jnp.sum(soft_minimum(joined.reshape(len(joined), -1), beta))
        for own, other in zip(of, incoming, strict=True):
            whole = whole - jnp.sum(soft_minimum(own + other, beta))
    return whole


def _status(change: Scalar, tolerance: float, energy: Scalar) -> Int[Array, ""]:
    status = jnp.where(change <= tolerance, Status.CONVERGED, Status.STEPS_EXHAUSTED)
    return jnp.where(jnp.isfinite(energy), status, Status.NOT_FINITE).astype(jnp.int32)


def _check(graph: FactorGraph, damping: float, steps: int) -> None:
    if not isinstance(graph, FactorGraph):
        raise SettingsError(
            f"messages run between the factors of a FactorGraph, not in {type(graph).__name__}"
        )
    if not 0 <= damping < 1:
        raise SettingsError(
            f"damping is the share of a message that is kept, from 0 up to below 1, not {damping}"
        )
    if steps < 1:
        raise SettingsError(f"messages are sent at least once, not {steps} times")


def _raise(status: Array, change: Array, steps: int) -> None:
    if isinstance(status, jax.core.Tracer) or status == Status.CONVERGED:
        return
    if status == Status.NOT_FINITE:
        raise NotConverged(
            "no answer with a finite energy was found: allow more values, or start chains from one"
        )
    raise NotConverged(
        f"messages still change by {float(change):.3g} after {steps} steps: raise the damping or the steps, or take "
        "the result as it is (throw=False)"
    )
