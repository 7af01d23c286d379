"""The compiled pieces of a training run: the first state, `advance` and `measure`.

Everything that a step reads is in `State`, and its batch is a pure function of (key, step), so that a run
that is killed and resumed ends bitwise equal to one that was not.
"""

import hashlib
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from thalweg.energy.base import AbstractEnergy
from thalweg.errors import DataError
from thalweg.learning.objective import AbstractObjective
from thalweg.learning.parallel import check_same, everywhere, of_first, over_rows

#: Rows that are measured at once: memory does not grow with how many there are, and one program serves all. Where
#: batches are small, for a row is large, they are so many batches, at least some rows.
CHUNK, BATCHES, LEAST = 256, 8, 64


class State(eqx.Module):
    """Everything that the next step depends on; `loss`, `gradient` and `metrics` gather since the last measurement.

    `tries` counts the roll-backs so far, and `rate` is what they have left of the step size.
    """

    parameters: PyTree
    average: PyTree
    optimiser: PyTree
    memory: PyTree
    order: Int[Array, "n"]
    step: Int[Array, ""]
    rate: Float[Array, ""]
    tries: Int[Array, ""]
    healthy: Bool[Array, ""]
    loss: Float[Array, ""]
    gradient: Float[Array, ""]
    metrics: dict[str, Float[Array, ""]]

    def emptied(self) -> "State":
        """With nothing gathered."""
        nothing = jnp.float32(0)
        metrics = dict.fromkeys(self.metrics, nothing)
        return replace(self, loss=nothing, gradient=nothing, metrics=metrics)


class Trainer:
    """One run: `initial`, the compiled `advance(state, until, data)`, and `measure(state, chunks)`.

    Raises `DataError` for rows that cannot be trained on.
    """

    def __init__(
        self,
        energy: AbstractEnergy,
        data: PyTree,
        objective: AbstractObjective,
        *,
        optimiser: optax.GradientTransformation,
        key: PRNGKeyArray,
        batch: int,
        held_out: PyTree | None = None,
        averaging: float = 0.0,
        mesh: Mesh | None = None,
    ):
        self.data, self.n = _rows("training", data)
        chunk = at_once(min(batch, self.n))
        self.held_out = None if held_out is None else _chunks(*_rows("held-out", held_out), chunk)
        # Evenly spaced, since rows may be sorted. Of fewer rows than a chunk some come twice: a chunk is compiled for.
        spaced = np.arange(chunk) * self.n // chunk
        self.probe = [jax.tree.map(lambda a: jnp.asarray(np.asarray(a)[spaced]), data)]
        self.batch = min(batch, self.n)
        self.epoch = self.n // self.batch
        self.objective, self.averaging, self.mesh = objective, averaging, mesh
        # A line search (optax.lbfgs) asks for the loss elsewhere; other optimisers ignore it.
        self.optimiser = optax.with_extra_args_support(optimiser)
        self.order_key, self.step_key, self.measure_key, memory_key = jax.random.split(key, 4)
        parameters, self.static = eqx.partition(energy, eqx.is_inexact_array)
        check_same("data or settings", lambda: _digest((self.data, self.held_out, key), parameters))
        initial = self._initial(of_first(parameters), memory_key)
        # Inlined where the step calls it: the trace that finds the metrics' names is the one that is compiled.
        self._loss = jax.jit(self._loss_of, inline=True)
        initial = self._with_metrics(jax.tree.map(_strong, initial))
        self.initial: State = self.placed(initial)
        self.data, self.held_out, self.probe = self.placed((self.data, self.held_out, self.probe))
        copied = None if mesh is None else NamedSharding(mesh, PartitionSpec())
        self.advance = jax.jit(self._advance, out_shardings=copied)
        self._chunk_loss = jax.jit(self._measure, out_shardings=copied)

    def placed(self, tree: PyTree) -> PyTree:
        """The arrays where this run needs them: on every device of its mesh."""
        return everywhere(tree, self.mesh)

    def energy(self, parameters: PyTree, *, training: bool = False) -> AbstractEnergy:
        """The energy with these parameters; dropout and the like act in training only."""
        return eqx.nn.inference_mode(eqx.combine(parameters, self.static), value=not training)

    def learned(self, state: State) -> PyTree:
        """The parameters that are measured and returned: the average, where there is one."""
        return state.average if self.averaging else state.parameters

    def _initial(self, parameters: PyTree, memory_key: PRNGKeyArray) -> State:
        energy = self.energy(parameters, training=True)
        # As one program: an optimiser's zeros would be one for each shape.
        optimiser, order = jax.jit(lambda p: (self.optimiser.init(p), self._order(jnp.int32(0))))(parameters)
        return State(
            parameters=parameters,
            average=parameters if self.averaging else None,
            optimiser=optimiser,
            memory=self.objective.init(energy, self.data, key=memory_key),
            order=order,
            step=jnp.int32(0),
            rate=jnp.float32(1),
            tries=jnp.int32(0),
            healthy=jnp.array(True),
            loss=jnp.float32(0),
            gradient=jnp.float32(0),
            metrics={},
        )

    def _with_metrics(self, initial: State) -> State:
        """The first state with a sum for each metric that the objective returns."""
        rows = jax.tree.map(lambda a: jax.ShapeDtypeStruct((self.batch, *a.shape[1:]), a.dtype), self.data)
        _, (_, metrics) = self._loss.eval_shape(
            initial.parameters, rows, initial.memory, self.step_key, initial.step
        )
        return replace(initial, metrics=dict.fromkeys(metrics, jnp.float32(0)))

    def _order(self, epoch: Int[Array, ""]) -> Int[Array, "n"]:
        return jax.random.permutation(
            jax.random.fold_in(self.order_key, epoch), jnp.arange(self.n, dtype=jnp.int32)
        )

    def _advance(self, state: State, until: Int[Array, ""], data: PyTree) -> State:
        """Steps until `until`, or until one is unhealthy."""
        return jax.lax.while_loop(
            lambda s: (s.step < until) & s.healthy, lambda s: self._step(s, data), state
        )

    def _step(self, state: State, data: PyTree) -> State:
        order, rows = self._batch(state, data)

        def along(parameters: PyTree) -> Float[Array, ""]:
            return self._loss(parameters, rows, state.memory, self.step_key, state.step)[0]

        (loss, (memory, metrics)), gradient = jax.value_and_grad(self._loss, has_aux=True)(
            state.parameters, rows, state.memory, self.step_key, state.step
        )
        # optax mixes integers and floats in its schedules, also where the caller has forbidden it.
        with jax.numpy_dtype_promotion("standard"):
            updates, optimiser = self.optimiser.update(
                gradient, state.optimiser, state.parameters, value=loss, grad=gradient, value_fn=along
            )
        updates = jax.tree.map(lambda u: u * state.rate.astype(u.dtype), updates)
        parameters = optax.apply_updates(state.parameters, updates)
        norm = _norm(gradient)
        sound = jnp.isfinite(loss) & jnp.isfinite(norm) & _finite(parameters) & _finite(memory)
        return State(
            parameters=parameters,
            average=self._averaged(state, parameters),
            optimiser=optimiser,
            memory=memory,
            order=order,
            step=state.step + 1,
            rate=state.rate,
            tries=state.tries,
            healthy=sound,
            loss=state.loss + loss.astype(jnp.float32),
            gradient=jnp.maximum(state.gradient, norm),
            metrics={name: state.metrics[name] + _mean(value) for name, value in metrics.items()},
        )

    def _loss_of(
        self, parameters: PyTree, rows: PyTree, memory: PyTree, key: PRNGKeyArray, step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[PyTree, dict[str, Any]]]:
        energy = self.energy(parameters, training=True)
        return self.objective(energy, rows, memory, key=jax.random.fold_in(key, step))

    def _batch(self, state: State, data: PyTree) -> tuple[Int[Array, "n"], PyTree]:
        """The rows of this step, and the order of the rows in this epoch."""
        position = state.step % self.epoch
        order = jax.lax.cond(
            position == 0, lambda: self._order(state.step // self.epoch), lambda: state.order
        )
        index = jax.lax.dynamic_slice_in_dim(order, position * self.batch, self.batch)
        rows = jax.tree.map(lambda leaf: leaf[index], data)
        if self.mesh is not None:
            rows = jax.lax.with_sharding_constraint(rows, over_rows(self.mesh, self.batch))
        return order, rows

    def _averaged(self, state: State, parameters: PyTree) -> PyTree:
        if not self.averaging:
            return None
        # A short memory at first, so that the average does not drag the initial weights along.
        t = state.step.astype(jnp.float32)
        decay = jnp.minimum(self.averaging, (1 + t) / (10 + t))

        def mean(a, p):
            return decay.astype(a.dtype) * a + (1 - decay).astype(a.dtype) * p

        return jax.tree.map(mean, state.average, parameters)

    def measure(self, state: State, chunks: list[PyTree]) -> float:
        """The mean loss of the rows of `chunks`, without dropout and with the same random numbers every time."""
        sizes = [len(jax.tree.leaves(rows)[0]) for rows in chunks]
        losses = [self._chunk_loss(state, rows, np.int32(i)) for i, rows in enumerate(chunks)]
        return sum(n * float(loss) for n, loss in zip(sizes, losses, strict=True)) / sum(sizes)

    def _measure(self, state: State, rows: PyTree, index: Int[Array, ""]) -> Float[Array, ""]:
        key = jax.random.fold_in(self.measure_key, index)
        return self.objective(self.energy(self.learned(state)), rows, state.memory, key=key)[0].astype(
            jnp.float32
        )


def at_once(batch: int) -> int:
    """How many rows are measured at once, of a run with such batches."""
    return min(CHUNK, max(LEAST, BATCHES * batch))


def _chunks(rows: PyTree, n: int, size: int) -> list[PyTree]:
    """At most `size` rows in each."""
    return [jax.tree.map(lambda a, i=i: a[i : i + size], rows) for i in range(0, n, size)]


def _rows(what: str, data: Any) -> tuple[Any, int]:
    """The arrays of a pytree on the device, and their one length."""
    rows = jax.tree.map(jnp.asarray, data)
    lengths = {leaf.shape[0] if leaf.ndim else 0 for leaf in jax.tree.leaves(rows)}
    if len(lengths) != 1 or 0 in lengths:
        raise DataError(f"{what} rows must be arrays of one length above 0, not of lengths {sorted(lengths)}")
    return rows, lengths.pop()


def _digest(same: PyTree, alike: PyTree) -> bytes:
    """A digest of arrays that must be the same everywhere, and of the shapes of others."""
    digest = hashlib.sha256(str([(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(alike)]).encode())
    for leaf in jax.tree.leaves(same):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        digest.update(np.asarray(jax.random.key_data(leaf) if is_key else leaf).tobytes())
    return digest.digest()


def _strong(leaf: Array) -> Array:
    """Never a weak type, which the first step would drop and so have everything compiled a second time."""
    leaf = jnp.asarray(leaf)
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return leaf if is_key else jax.lax.convert_element_type(leaf, leaf.dtype)


def _mean(value: Any) -> Float[Array, ""]:
    return jnp.mean(jnp.asarray(value).astype(jnp.float32))


def _norm(tree: PyTree) -> Float[Array, ""]:
    squares = [jnp.sum(jnp.abs(leaf).astype(jnp.float32) ** 2) for leaf in jax.tree.leaves(tree)]
    return jnp.sqrt(jnp.sum(jnp.stack(squares))) if squares else jnp.float32(0)


def _finite(tree: PyTree) -> Bool[Array, ""]:
    leaves = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree) if eqx.is_inexact_array(leaf)]
    return jnp.all(jnp.stack(leaves)) if leaves else jnp.array(True)
