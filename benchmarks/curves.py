"""What training has reached, against the seconds that it took."""

import time
from collections.abc import Callable

import jax
import numpy as np

from thalweg.energy.base import AbstractEnergy
from thalweg.learning.trainer import Trainer

#: (seconds, what was measured) at growing steps.
Curve = list[tuple[float, float]]


def timed(
    trainer: Trainer,
    measure: Callable[[AbstractEnergy], float],
    *,
    steps: int,
    limit: float,
    growth: float = 1.17,
    began_with: float = 0.0,
) -> tuple[Curve, AbstractEnergy]:
    """`measure` of the energy while it trains, and the last energy; compilation and measuring are not counted.

    Ends at `steps`, or after `limit` seconds, or where a step was not finite. `began_with` are seconds spent before.
    """
    jax.block_until_ready(trainer.advance(trainer.initial, np.int32(1), trainer.data))
    state, seconds, step, found = trainer.initial, began_with, 0, []
    while seconds < limit and step < steps and bool(state.healthy):
        step = min(max(step + 1, int(growth * step)), steps)
        began = time.perf_counter()
        state = jax.block_until_ready(trainer.advance(state, np.int32(step), trainer.data))
        seconds += time.perf_counter() - began
        found.append((seconds, measure(trainer.energy(trainer.learned(state)))))
    return found, trainer.energy(trainer.learned(state))


def at(curve: Curve, seconds: float) -> float | str:
    """What was measured last after so long; "-" before the first step has ended."""
    reached = [value for when, value in curve if when <= seconds]
    return reached[-1] if reached else "-"


def below(curve: Curve, level: float) -> float | str:
    """The seconds after which the curve first is at or below a level; "-" where it never is."""
    return next((when for when, value in curve if value <= level), "-")


def stays(curve: Curve, factor: float = 1.1) -> float:
    """The seconds after which the curve stays within a factor of its last value."""
    late = [i for i, (_, value) in enumerate(curve) if value > factor * curve[-1][1]]
    return curve[min(late[-1] + 1, len(curve) - 1) if late else 0][0]
