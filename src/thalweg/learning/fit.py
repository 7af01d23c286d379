"""The one compiled training loop.

Batches are a pure function of (key, step), many steps run in one dispatch, and everything that a step reads is in
`State`, so a run that is killed and resumed ends bitwise equal to one that was not.
"""

import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from thalweg.energy.base import AbstractEnergy
from thalweg.errors import DataError, Interrupted, SettingsError
from thalweg.learning.checkpoint import Checkpoint
from thalweg.learning.guard import Guard
from thalweg.learning.objective import AbstractObjective
from thalweg.learning.progress import progress_bar
from thalweg.learning.run import Fit, Run


class State(eqx.Module):
    """Everything that the next step depends on."""

    parameters: PyTree
    average: PyTree
    optimiser: PyTree
    memory: PyTree
    order: Int[Array, "n"]
    step: Int[Array, ""]
    rate: Float[Array, ""]
    healthy: Bool[Array, ""]
    loss: Float[Array, ""]
    gradient: Float[Array, ""]


class Best(eqx.Module):
    """The parameters with the lowest held-out loss so far."""

    parameters: PyTree
    loss: Float[Array, ""]
    measured: Int[Array, ""]


def fit(
    energy: AbstractEnergy,
    data: PyTree,
    objective: AbstractObjective,
    *,
    optimiser: optax.GradientTransformation,
    steps: int,
    key: PRNGKeyArray,
    batch: int = 128,
    held_out: PyTree | None = None,
    measure_every: int | None = None,
    patience: int | None = None,
    averaging: float = 0.0,
    retries: int = 5,
    run: Run | None = None,
) -> Fit:
    r"""Minimise an objective over an energy's arrays, watching its health.

    `data` and `held_out` are pytrees of arrays with one leading axis of rows. With `held_out` the energy returned is
    the one with the lowest held-out loss, and training stops after `patience` measurements without a lower one.
    `averaging` is the decay of an exponential average of the parameters, which is then what is measured and
    returned (0: none). The last, incomplete batch of an epoch is dropped; a batch larger than the data is the data.

    Raises `Diverged` when the run stays unhealthy after `retries` smaller step sizes, `Interrupted` on Ctrl-C
    (with a checkpoint, where the run has a directory), `SettingsError` for impossible settings.
    """
    run = run or Run()
    trainer = _Trainer(energy, data, objective, optimiser, key, batch, held_out, averaging, run)
    if steps < 1:
        raise SettingsError(f"steps must be at least 1, not {steps}")
    every = measure_every or max(1, min(trainer.epoch, steps // 20 or 1))
    return _train(trainer, steps, every, patience, Guard(retries), run)


class _Trainer:
    """The compiled pieces of one run: the initial state, `advance` and `measure`."""

    def __init__(self, energy, data, objective, optimiser, key, batch, held_out, averaging, run):
        self.data = jax.tree.map(jnp.asarray, data)
        lengths = {leaf.shape[0] for leaf in jax.tree.leaves(self.data)}
        if len(lengths) != 1 or 0 in lengths:
            raise DataError(f"training needs arrays of one length above 0, not of lengths {sorted(lengths)}")
        self.n = lengths.pop()
        self.batch = min(batch, self.n)
        self.epoch = self.n // self.batch
        self.held_out = None if held_out is None else jax.tree.map(jnp.asarray, held_out)
        self.objective, self.optimiser, self.averaging = objective, optimiser, averaging
        self.mesh = run.mesh
        if self.mesh is not None and self.batch % self.mesh.size:
            raise SettingsError(f"a batch of {self.batch} does not divide over a mesh of {self.mesh.size} devices")
        self.order_key, self.step_key, self.measure_key, self.memory_key = jax.random.split(key, 4)
        parameters, self.static = eqx.partition(energy, eqx.is_inexact_array)
        self.initial = State(
            parameters=parameters,
            average=parameters if averaging else None,
            optimiser=optimiser.init(parameters),
            memory=objective.init(energy, self.data, key=self.memory_key),
            order=self._order(jnp.int32(0)),
            step=jnp.int32(0),
            rate=jnp.float32(1.0),
            healthy=jnp.array(True),
            loss=jnp.float32(0.0),
            gradient=jnp.float32(0.0),
        )
        self.advance = jax.jit(self._advance)
        self.measure = jax.jit(self._measure)

    def energy(self, parameters: PyTree) -> AbstractEnergy:
        return eqx.combine(parameters, self.static)

    def _order(self, epoch):
        return jax.random.permutation(jax.random.fold_in(self.order_key, epoch), self.n).astype(jnp.int32)

    def _advance(self, state: State, until: Int[Array, ""], data: PyTree) -> State:
        """Steps until `until`, or until one is unhealthy."""
        return jax.lax.while_loop(
            lambda s: (s.step < until) & s.healthy, lambda s: self._step(s, data), state
        )

    def _step(self, state: State, data: PyTree) -> State:
        position = state.step % self.epoch
        order = jax.lax.cond(
            position == 0, lambda: self._order(state.step // self.epoch), lambda: state.order
        )
        index = jax.lax.dynamic_slice_in_dim(order, position * self.batch, self.batch)
        rows = jax.tree.map(lambda leaf: leaf[index], data)
        if self.mesh is not None:
            shard = NamedSharding(self.mesh, PartitionSpec(self.mesh.axis_names[0]))
            rows = jax.lax.with_sharding_constraint(rows, shard)

        def loss_of(parameters):
            return self.objective(
                self.energy(parameters), rows, state.memory, key=jax.random.fold_in(self.step_key, state.step)
            )

        (loss, (memory, _)), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.parameters)
        norm = optax.global_norm(gradient)
        updates, optimiser = self.optimiser.update(gradient, state.optimiser, state.parameters)
        updates = jax.tree.map(lambda u: u * state.rate, updates)
        parameters = optax.apply_updates(state.parameters, updates)
        average = None
        if self.averaging:
            # A short memory at first, so that the average does not drag the initial weights along.
            decay = jnp.minimum(self.averaging, (1.0 + state.step) / (10.0 + state.step))
            average = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, state.average, parameters)
        return State(
            parameters=parameters,
            average=average,
            optimiser=optimiser,
            memory=memory,
            order=order,
            step=state.step + 1,
            rate=state.rate,
            healthy=jnp.isfinite(loss) & jnp.isfinite(norm),
            loss=state.loss + loss,
            gradient=jnp.maximum(state.gradient, norm),
        )

    def _measure(self, state: State, held_out: PyTree) -> Float[Array, ""]:
        """The held-out loss, with the same random numbers every time."""
        parameters = state.average if self.averaging else state.parameters
        energy = eqx.nn.inference_mode(self.energy(parameters))
        loss, _ = self.objective(energy, held_out, state.memory, key=self.measure_key)
        return loss


def _train(trainer: _Trainer, steps: int, every: int, patience: int | None, guard: Guard, run: Run) -> Fit:
    checkpoint = Checkpoint(run.directory, trainer, steps, every)
    state, best, history = checkpoint.start(resume=run.resume)
    began = time.monotonic() - (history[-1]["seconds"] if history else 0.0)
    healthy, pace, status = state, 1, "ran all steps"
    with progress_bar(run.progress, steps) as show:
        try:
            while int(state.step) < steps:
                step = int(state.step)
                mark = min((step // every + 1) * every, steps)
                before = time.monotonic()
                after = jax.block_until_ready(
                    trainer.advance(state, jnp.int32(min(mark, step + pace)), trainer.data)
                )
                pace = _pace(pace, int(after.step) - step, time.monotonic() - before)
                state = after
                if bool(state.healthy) and int(state.step) < mark:
                    show(int(state.step), history)
                    continue
                record = _record(trainer, state, every, time.monotonic() - began)
                complaint = guard.complaint(state, record, history)
                if complaint:
                    state = healthy = guard.lower(healthy, complaint, run.log)
                    history = [past for past in history if past["step"] <= int(state.step)]
                    continue
                history.append(record)
                state = eqx.tree_at(
                    lambda s: (s.loss, s.gradient), state, (jnp.float32(0.0), jnp.float32(0.0))
                )
                best = _better(trainer, best, state, record)
                healthy = state
                checkpoint.save(state, best, history)
                show(int(state.step), history)
                if patience and int(best.measured) + patience * every <= int(state.step):
                    status = "stopped early"
                    break
        except KeyboardInterrupt:
            checkpoint.save(state if bool(state.healthy) else healthy, best, history, now=True)
            where = f"; continue with --resume (directory {run.directory})" if run.directory else ""
            raise Interrupted(f"stopped at step {int(state.step)} of {steps}{where}") from None
    if trainer.held_out is None:
        parameters = state.average if trainer.averaging else state.parameters
    else:
        parameters = best.parameters
    return Fit(
        energy=eqx.nn.inference_mode(trainer.energy(parameters)),
        status=status,
        steps=int(state.step),
        seconds=time.monotonic() - began,
        history=history,
    )


def _pace(pace: int, done: int, seconds: float) -> int:
    """How many steps a dispatch may take so that it lasts about a second."""
    return max(1, min(4 * pace, int(done / max(seconds, 1e-6)))) if done else pace


def _record(trainer: _Trainer, state: State, every: int, seconds: float) -> dict[str, Any]:
    step = int(state.step)
    since = step - (step - 1) // every * every
    record = {
        "step": step,
        "epoch": round(step / trainer.epoch, 3),
        "loss": float(state.loss) / since,
        "gradient_norm": float(state.gradient),
        "rate": float(state.rate),
    }
    if trainer.held_out is not None:
        record["held_out"] = float(trainer.measure(state, trainer.held_out))
    return record | {"seconds": round(seconds, 3)}


def _better(trainer: _Trainer, best: Best, state: State, record: dict[str, Any]) -> Best:
    if "held_out" not in record or not record["held_out"] < float(best.loss):
        return best
    parameters = state.average if trainer.averaging else state.parameters
    return Best(parameters, jnp.float32(record["held_out"]), state.step)
