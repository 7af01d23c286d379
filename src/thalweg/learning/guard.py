"""The watch over a training run: what is unhealthy, what to do about it, and when to give up."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import jax.numpy as jnp

from thalweg.errors import Diverged
from thalweg.learning import symptoms
from thalweg.learning.objective import AbstractObjective, Cause
from thalweg.learning.symptoms import History, Record
from thalweg.learning.trainer import State

#: A loss this many times the whole descent so far above the best one is a run that flies apart.
RUNAWAY = 10.0
#: How many measurements the probe may stay above where it began.
WINDOW = 10
#: Noise that is told from the data more often than this teaches next to nothing.
FAR = 0.99

ADVICE = "Lower the learning rate (--set learning_rate=…), or look for extreme values in the data"


@dataclass(frozen=True)
class Complaint:
    """What is wrong, in words; its cause; what a user can do; whether a smaller step size may cure it, and the largest
    factor that would; whether nothing would."""

    words: str
    cause: Cause
    advice: str = ADVICE
    slower: bool = True
    factor: float = math.inf
    hopeless: bool = False


class Guard:
    """Judges each measurement; on a complaint, restarts from the last healthy state with a remedy.

    Three things can be wrong with any run: numbers that are not finite; a loss that flies apart; and, quietly,
    a loss that stays or ends above where it began. The last is judged on the `probe`, always the same rows
    and random numbers, against its `baseline` before the first step. Where there is none, since the loss does not
    measure progress, the metrics are judged (`thalweg.learning.symptoms`), with the objective's `unit` of energies; and
    where a flat energy minimises the loss (`collapses`), whether it has come to that. How many tries are used up, and
    what they changed, is in the state, so that a resumed run knows it too.
    """

    def __init__(
        self,
        retries: int = 5,
        factor: float = 0.3,
        baseline: float | None = None,
        unit: float = 1.0,
        collapses: bool = False,
    ):
        self.retries = retries
        self.factor = factor
        self.baseline = baseline
        self.unit = unit
        self.collapses = collapses

    def complaint(self, history: History, *, sound: bool, last: bool) -> Complaint | None:
        """What is wrong with the newest measurement; None where it is healthy.

        `sound`: every number of the last step was finite; `last`: training would end here.
        """
        newest = history[-1]
        step = newest["step"]
        if not sound:
            words = f"the loss, its gradient or a parameter is not finite at step {step}"
            return self._of_metrics(history, last=True, least=1, after=f"{words}: ") or Complaint(
                words, "not finite"
            )
        if not all(math.isfinite(newest.get(name, 0.0)) for name in ("probe", "held_out")):
            return Complaint(f"the measured loss is not finite at step {step}", "not finite")
        seen = self._of_metrics(history, last=last)
        if seen or self.baseline is None:
            return seen
        worse = self._of_loss(history, last=last)
        return Complaint(worse, "worse") if worse else None

    def _of_metrics(
        self, history: History, *, last: bool, least: int = symptoms.STEPS, after: str = ""
    ) -> Complaint | None:
        watched: tuple[symptoms.Symptom, ...] = symptoms.COLLAPSE if self.collapses else ()
        watched += symptoms.SYMPTOMS if self.baseline is None else ()
        seen = symptoms.found(history, self.unit, last=last, least=least, watched=watched)
        if seen is None:
            return None
        symptom, words = seen
        factor = symptoms.stride(history, self.unit) if symptom.cause == "leaping" else math.inf
        words = f"{after}{words}" if after else f"{words} at step {history[-1]['step']}"
        return Complaint(words, symptom.cause, symptom.advice, symptom.slower, factor, symptom.hopeless)

    def _of_loss(self, history: History, *, last: bool) -> str | None:
        step = history[-1]["step"]
        losses = [record["loss"] for record in history]
        best = min(losses)
        if losses[-1] > best + RUNAWAY * max(losses[0] - best, _unit(losses[0])):
            return f"the loss ran away at step {step}: {losses[-1]:.4g} after {best:.4g}"
        recent = [self._worse(record) for record in history[-WINDOW:]]
        if recent[-1] and (last or (all(recent) and len(recent) == WINDOW)):
            now, then = history[-1]["probe"], self.baseline
            return f"the loss is above where it began at step {step}: {now:.4g} after {then:.4g}"
        return None

    def no_worse(self, history: History) -> bool:
        """Whether a roll-back may return to this measurement: nothing is wrong with it, nor about to be."""
        if self.baseline is None:
            return symptoms.calm(history, self.unit)
        return not self._worse(history[-1])

    def _worse(self, record: Record) -> bool:
        return self.baseline is not None and record["probe"] > self.baseline + 0.1 * _unit(self.baseline)

    def remedied(
        self,
        healthy: State,
        complaint: Complaint,
        objective: AbstractObjective,
        log: Callable[[str], None],
    ) -> State:
        """The last healthy state with a remedy: the objective's own for this cause, a smaller step size, or both.

        Raises `Diverged` when the tries are used up, or none would help.
        """
        if complaint.hopeless:
            raise Diverged(f"training {complaint.cause}: {complaint.words}. {complaint.advice}")
        rate, tries = float(healthy.rate), int(healthy.tries)
        if tries >= self.retries:
            remedies = "smaller step sizes" if self.baseline is not None else "remedies"
            raise Diverged(
                f"training diverged: {complaint.words}, and again after {tries} {remedies}. {complaint.advice}"
            )
        memory, words = objective.remedied(healthy.memory, complaint.cause)
        if complaint.slower or not words:
            rate *= min(self.factor, complaint.factor)
            words = f"the step size times {rate:.3g}" + (f", {words}" if words else "")
        log(f"{complaint.words}: back to step {int(healthy.step)} with {words}")
        return replace(healthy, memory=memory, rate=jnp.float32(rate), tries=jnp.int32(tries + 1))

    def warning(self, history: History) -> str | None:
        """What a run that has ended well should have been told."""
        at = symptoms.reading(history, self.unit, last=True)
        if at and (words := symptoms.collapsed(at)):
            return (
                f"{words}. Either the inputs say nothing about the answers, or training is stuck at a flat energy: "
                "lower the learning rate, or take the loss nll, which pushes up on all answers"
            )
        told = [record.get("told_apart") or 0.0 for record in history[len(history) // 2 :]]
        if self.baseline is None or not told or min(told) <= FAR:
            return None
        return (
            f"the noise is told from the data {min(told):.1%} of the time or more: it is too far from the data to "
            "teach the energy much. Take noise that is nearer, such as a density fitted to the same rows"
        )


def _unit(loss: float) -> float:
    """What counts as one unit of change of a loss: its own size, and at least one nat."""
    return max(abs(loss), 1.0)
