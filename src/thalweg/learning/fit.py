"""The one training loop: many compiled steps a dispatch, watched by the guard, resumable at any moment."""

import math
import time
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from thalweg.energy.base import AbstractEnergy
from thalweg.errors import Interrupted, SettingsError
from thalweg.learning.checkpoint import Checkpoint
from thalweg.learning.guard import Guard
from thalweg.learning.objective import AbstractObjective
from thalweg.learning.parallel import agreed, first, home, together
from thalweg.learning.run import Fit, Run
from thalweg.learning.trainer import State, Trainer
from thalweg.progress import Show, next_pace, progress_bar


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

    `data` and `held_out` are pytrees of arrays with one leading axis of rows. With `held_out` the energy
    returned is the one with the lowest held-out loss, and training stops after `patience` measurements
    without a lower one. `averaging` is the decay of an exponential average of the parameters, which is then
    what is measured and returned (0: none). The last, incomplete batch of an epoch is dropped; a batch larger
    than the data is the data. The first measurement is that of the first step, so the curve begins where
    training began.

    Raises `Diverged` when the run stays unhealthy after `retries` remedies, `Interrupted` on Ctrl-C
    (with a checkpoint, where the run has a directory), `DataError` for no rows or arrays of different
    lengths, `SettingsError` for impossible settings.
    """
    run = run or Run()
    _check(steps=steps, batch=batch, measure_every=measure_every, patience=patience)
    if not 0 <= averaging < 1:
        raise SettingsError(f"averaging is the decay of a mean, from 0 up to below 1, not {averaging}")
    if patience is not None and held_out is None:
        raise SettingsError("patience waits for a lower held-out loss: give held-out rows, or no patience")
    if held_out is not None and not objective.measures_progress:
        raise SettingsError(
            f"the loss of {type(objective).__name__} does not say which energy is best: give no held-out rows, and "
            "judge what was learnt by its likelihood (thalweg.evaluate)"
        )
    with together():
        trainer = Trainer(
            energy,
            data,
            objective,
            optimiser=optimiser,
            key=key,
            batch=batch,
            held_out=held_out,
            averaging=averaging,
            mesh=run.mesh,
        )
        every = measure_every or max(1, min(trainer.epoch, steps // 20))
        return _Training(trainer, steps, every, patience, Guard(retries), run).run()


def _check(**counts: int | None) -> None:
    for name, count in counts.items():
        if count is not None and count < 1:
            raise SettingsError(f"{name} must be at least 1, not {count}")


class Best(eqx.Module):
    """The parameters with the lowest held-out loss so far."""

    parameters: PyTree
    loss: Float[Array, ""]
    measured: Int[Array, ""]


class Position(NamedTuple):
    """Where a run stands; replaced in one go, so that an interruption never sees half of a change."""

    state: State
    healthy: State  # what a roll-back returns to
    best: Best
    history: list[dict[str, Any]]


class _Training:
    """The host's side of a run: dispatch, measure, judge, keep."""

    def __init__(
        self, trainer: Trainer, steps: int, every: int, patience: int | None, guard: Guard, run: Run
    ):
        self.trainer, self.steps, self.every, self.patience = trainer, steps, every, patience
        self.guard, self.settings = guard, run
        self.checkpoint = Checkpoint(run, trainer, steps, every)
        start = trainer.initial
        best = Best(trainer.learned(start), jnp.float32(jnp.inf), jnp.int32(0))
        self.at = Position(start, start, best, [])
        if trainer.objective.measures_progress:
            guard.baseline = trainer.measure(start, trainer.probe)
        guard.collapses = trainer.objective.collapses
        guard.unit = trainer.objective.unit(trainer.energy(start.parameters))

    def run(self) -> Fit:
        # Outside the `try`: an interruption while the checkpoint is read must not overwrite it.
        self.at = self.checkpoint.start(self.at, resume=self.settings.resume)
        self.began = time.monotonic() - (self.at.history[-1]["seconds"] if self.at.history else 0.0)
        with progress_bar(self.settings.progress, "fitting", self.steps) as show:
            try:
                self._loop(show)
                self.checkpoint.save(self.at, now=True)
            except KeyboardInterrupt:
                self.checkpoint.save(self.at, now=True)
                raise Interrupted(self._stopped()) from None
        return self._result()

    def _loop(self, show: Show) -> None:
        pace = 1
        while not self._finished():
            step, mark = int(self.at.state.step), self._mark()
            before = time.monotonic()
            until = np.int32(min(mark, step + pace))
            state = self.trainer.advance(self.trainer.placed(self.at.state), until, self.trainer.data)
            done = int(state.step) - step
            pace = agreed(next_pace(pace, done, time.monotonic() - before))
            if bool(state.healthy) and int(state.step) < mark:
                self.at = self.at._replace(state=state)
            else:
                self.at = self._measured(state)
            self.checkpoint.save(self.at)
            show(int(self.at.state.step), _losses(self.at.history))

    def _mark(self) -> int:
        """The step of the next measurement: the first step, then every multiple of `every`."""
        step = int(self.at.state.step)
        return 1 if step == 0 else min((step // self.every + 1) * self.every, self.steps)

    def _finished(self) -> bool:
        step = int(self.at.state.step)
        return step >= self.steps or self._stalled(step, self.at.best)

    def _stalled(self, step: int, best: Best) -> bool:
        waited = step - int(best.measured)
        return self.patience is not None and waited >= self.patience * self.every

    def _measured(self, state: State) -> Position:
        """The position after a measurement: one further, or rolled back."""
        at, guard = self.at, self.guard
        record = self._record(state)
        history = [*at.history, record]
        best = self._better(state, record)
        last = record["step"] >= self.steps or self._stalled(record["step"], best)
        complaint = guard.complaint(history, sound=bool(state.healthy), last=last)
        if complaint:
            healthy = guard.remedied(at.healthy, complaint, self.trainer.objective, self.settings.log)
            past = [record for record in at.history if record["step"] <= int(healthy.step)]
            return at._replace(state=healthy, healthy=healthy, history=past)
        state = state.emptied()
        healthy = state if guard.no_worse(history) else at.healthy
        return Position(state, healthy, best, history)

    def _record(self, state: State) -> dict[str, Any]:
        step = int(state.step)
        since = step - (self.at.history[-1]["step"] if self.at.history else 0)
        record: dict[str, Any] = {
            "step": step,
            "epoch": round(step / self.trainer.epoch, 3),
            "loss": float(state.loss) / since,
            "gradient_norm": float(state.gradient),
            "rate": float(state.rate),
        }
        means = {name: float(total) / since for name, total in state.metrics.items()}
        record |= {name: mean if math.isfinite(mean) else None for name, mean in means.items()}
        if self.trainer.objective.measures_progress:
            record["probe"] = self.trainer.measure(state, self.trainer.probe)
        if self.trainer.held_out is not None:
            record["held_out"] = self.trainer.measure(state, self.trainer.held_out)
        return record | {"seconds": round(time.monotonic() - self.began, 3)}

    def _better(self, state: State, record: dict[str, Any]) -> Best:
        best = self.at.best
        if not record.get("held_out", float("inf")) < float(best.loss):
            return best
        return Best(self.trainer.learned(state), jnp.float32(record["held_out"]), state.step)

    def _stopped(self) -> str:
        directory = self.settings.directory
        if directory:
            where = f"; continue with --resume (directory {directory})"
        elif first():
            where = "; nothing was kept (give a directory to be able to resume)"
        else:
            where = "; what there is to resume is kept by process 0"
        return f"stopped at step {int(self.at.state.step)} of {self.steps}{where}"

    def _result(self) -> Fit:
        at, trainer = self.at, self.trainer
        if warning := self.guard.warning(at.history):
            self.settings.log(warning)
        parameters = trainer.learned(at.state) if trainer.held_out is None else at.best.parameters
        return Fit(
            energy=trainer.energy(home(parameters, trainer.mesh)),
            status="stopped early" if int(at.state.step) < self.steps else "ran all steps",
            steps=int(at.state.step),
            seconds=time.monotonic() - self.began,
            history=at.history,
        )


def _losses(history: list[dict[str, Any]]) -> str:
    if not history:
        return ""
    last = history[-1]
    held_out = f", held out {last['held_out']:.4g}" if "held_out" in last else ""
    return f"loss {last['loss']:.4g}{held_out}"
