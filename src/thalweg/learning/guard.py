"""The watch over a training run: what is unhealthy, what to do about it, and when to give up."""

import math
from collections.abc import Callable
from itertools import pairwise
from statistics import mean, median
from typing import Any

import equinox as eqx
import jax.numpy as jnp

from thalweg.errors import Diverged
from thalweg.learning.trainer import State

#: A loss this many times the whole descent so far above the best one is a run that flies apart.
RUNAWAY = 10.0
#: How many measurements the loss may stay above where it began.
WINDOW = 10

History = list[dict[str, Any]]


class Guard:
    """Judges each measurement; on a complaint, restarts from the last healthy state with a smaller step.

    Three things can be wrong with a run: numbers that are not finite; a loss that flies apart; and, quietly,
    a loss that stays or ends above where it began. With `judge_loss` False only the first is looked at. How
    many tries are used up is read off the state's `rate`, so that a resumed run knows it too.
    """

    def __init__(self, retries: int = 5, factor: float = 0.3, *, judge_loss: bool = True):
        self.retries = retries
        self.factor = factor
        self.judge_loss = judge_loss

    def complaint(self, history: History, *, sound: bool, last: bool) -> str | None:
        """What is wrong with the newest measurement; None where it is healthy.

        `sound`: every number of the last step was finite; `last`: no steps are left.
        """
        newest = history[-1]
        step = newest["step"]
        if not sound or not math.isfinite(newest["loss"]):
            return f"the loss, its gradient or a parameter is not finite at step {step}"
        if not math.isfinite(newest.get("held_out", 0.0)):
            return f"the held-out loss is not finite at step {step}"
        if not self.judge_loss:
            return None
        losses = [record["loss"] for record in history]
        first, best = losses[0], min(losses)
        if losses[-1] > best + RUNAWAY * max(first - best, _unit(first)):
            return f"the loss ran away at step {step}: {losses[-1]:.4g} after {best:.4g}"
        recent = losses[1:][-WINDOW:]
        if recent and (last or len(recent) == WINDOW) and median(recent) > self._allowed(losses):
            return f"the loss is above where it began at step {step}: {median(recent):.4g} after {first:.4g}"
        return None

    def no_worse(self, history: History) -> bool:
        """Whether the newest loss is at or below where the run began, so that a roll-back may return to it.

        Never after the first step alone: its loss was taken before its update, which nothing has judged yet.
        """
        losses = [record["loss"] for record in history]
        return len(losses) > 1 and (not self.judge_loss or losses[-1] <= self._allowed(losses))

    def _allowed(self, losses: list[float]) -> float:
        """The loss at the start, with room for the noise of a batch."""
        recent = losses[-WINDOW:]
        noise = mean(abs(b - a) for a, b in pairwise(recent)) if recent[1:] else 0.0
        return losses[0] + max(0.1 * _unit(losses[0]), min(2 * noise, _unit(losses[0])))

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
