"""The watch over a training run: what is unhealthy, what to do about it, and when to give up."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp

from thalweg.errors import Diverged

#: A loss this many times the whole descent so far above the best one is a run that flies apart.
RUNAWAY = 10.0


class Guard:
    """Judges each measurement; on a complaint, restarts from the last healthy state with a smaller step.

    How many tries are used up is read off the state's `rate`, so that a resumed run knows it too.
    """

    def __init__(self, retries: int = 5, factor: float = 0.3):
        self.retries = retries
        self.factor = factor

    def complaint(self, state: Any, record: dict[str, Any], history: list[dict[str, Any]]) -> str | None:
        """What is wrong with this measurement; None where it is healthy."""
        if not bool(state.healthy) or not math.isfinite(record["loss"]):
            return f"the loss or its gradient is not finite at step {record['step']}"
        if not math.isfinite(record.get("held_out", 0.0)):
            return f"the held-out loss is not finite at step {record['step']}"
        if history:
            first, best = history[0]["loss"], min(past["loss"] for past in history)
            # Also when nothing has been gained yet, one percent of the loss is within the noise of a batch.
            descent = max(first - best, 0.01 * abs(first), 1e-3)
            if record["loss"] > best + RUNAWAY * descent:
                return f"the loss ran away at step {record['step']}: {record['loss']:.4g} after {best:.4g}"
        return None

    def lower(self, healthy: Any, complaint: str, log: Callable[[str], None]) -> Any:
        """The last healthy state with a smaller step size; raises `Diverged` when the tries are used up."""
        if round(math.log(float(healthy.rate)) / math.log(self.factor)) >= self.retries:
            raise Diverged(
                f"training diverged: {complaint}, and again after {self.retries} smaller step sizes. "
                "Lower the learning rate (--set learning_rate=…), or look for extreme values in the data"
            )
        rate = float(healthy.rate) * self.factor
        log(f"{complaint}: back to step {int(healthy.step)} with the step size times {rate:.3g}")
        return eqx.tree_at(lambda s: s.rate, healthy, jnp.float32(rate))
