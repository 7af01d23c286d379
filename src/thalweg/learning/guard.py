"""The watch over a training run: what is unhealthy, what to do about it, and when to give up."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp

from thalweg.errors import Diverged
from thalweg.learning.trainer import State

#: A loss this many times the whole descent so far above the best one is a run that flies apart.
RUNAWAY = 10.0
#: How many measurements the probe may stay above where it began.
WINDOW = 10

History = list[dict[str, Any]]


class Guard:
    """Judges each measurement; on a complaint, restarts from the last healthy state with a smaller step.

    Three things can be wrong with a run: numbers that are not finite; a loss that flies apart; and, quietly,
    a loss that stays or ends above where it began. The last is judged on the `probe`, always the same rows
    and random numbers, against its `baseline` before the first step (None: the loss does not measure
    progress, and only finite numbers are asked for). How many tries are used up is read off the state's
    `rate`, so that a resumed run knows it too.
    """

    def __init__(self, retries: int = 5, factor: float = 0.3, baseline: float | None = None):
        self.retries = retries
        self.factor = factor
        self.baseline = baseline

    def complaint(self, history: History, *, sound: bool, last: bool) -> str | None:
        """What is wrong with the newest measurement; None where it is healthy.

        `sound`: every number of the last step was finite; `last`: training would end here.
        """
        newest = history[-1]
        step = newest["step"]
        if not sound:
            return f"the loss, its gradient or a parameter is not finite at step {step}"
        if not all(math.isfinite(newest.get(name, 0.0)) for name in ("probe", "held_out")):
            return f"the measured loss is not finite at step {step}"
        if self.baseline is None:
            return None
        losses = [record["loss"] for record in history]
        best = min(losses)
        if losses[-1] > best + RUNAWAY * max(losses[0] - best, _unit(losses[0])):
            return f"the loss ran away at step {step}: {losses[-1]:.4g} after {best:.4g}"
        recent = [self._worse(record) for record in history[-WINDOW:]]
        if recent[-1] and (last or (all(recent) and len(recent) == WINDOW)):
            now, then = newest["probe"], self.baseline
            return f"the loss is above where it began at step {step}: {now:.4g} after {then:.4g}"
        return None

    def no_worse(self, history: History) -> bool:
        """Whether a roll-back may return to this measurement: it is not above where the run began."""
        return not self._worse(history[-1])

    def _worse(self, record: dict[str, Any]) -> bool:
        return self.baseline is not None and record["probe"] > self.baseline + 0.1 * _unit(self.baseline)

    def lower(self, healthy: State, complaint: str, log: Callable[[str], None]) -> State:
        """The last healthy state with a smaller step size; raises `Diverged` when the tries are used up."""
        if round(math.log(float(healthy.rate)) / math.log(self.factor)) >= self.retries:
            raise Diverged(
                f"training diverged: {complaint}, and again after {self.retries} smaller step sizes. "
                "Lower the learning rate (--set learning_rate=…), or look for extreme values in the data"
            )
        rate = float(healthy.rate) * self.factor
        log(f"{complaint}: back to step {int(healthy.step)} with the step size times {rate:.3g}")
        return eqx.tree_at(lambda s: s.rate, healthy, jnp.float32(rate))


def _unit(loss: float) -> float:
    """What counts as one unit of change of a loss: its own size, and at least one nat."""
    return max(abs(loss), 1.0)
