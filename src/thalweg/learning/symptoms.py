"""What runs suffer from: how each trouble shows in the metrics, its cause in words, and its cure.

Energies are judged in units of what they may well differ by: `AbstractObjective.unit`, or their spread before
training where that is more.
"""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from thalweg.learning.objective import Cause

Record = dict[str, Any]
History = list[Record]

#: What is judged are means over at least so many steps.
STEPS = 10
#: How many units the gap and the spread of energies may come to, and how many in a state that is worth going back to.
RUNAWAY, CALM = 20.0, 8.0
#: An energy of this size is no longer told in float32 from one that differs by a tenth of a nat.
BLIND = 1e6
#: How many units one step may change energies by, and a hundred in a row each; by how many steps do that learn.
LEAP, HASTE, STRIDE = 1.5, 0.5, 0.1
#: How many times its running median the gradient may be; the median is over so many measurements.
EXPLODING, MEDIAN = 30.0, 10
#: The share of a chain's steps that may fly apart, and how many times as wide as the data chains may lie.
FLOWN, REACH = 0.05, 10.0
#: The least share of chains that move, where rows differ; and the least share of accepted moves.
MOVED, ACCEPTED = 0.02, 0.01
#: The least spread of energies, in units.
FLAT = 1e-3
#: What is left of the spread of energies over answers where they have collapsed; and how many times as far as it the
#: energies of right answers may have fallen, as they do where an answer was far off at first.
COLLAPSED, FALLEN = 0.01, 30.0
#: How many times what answers differ by the energies of all of them may have sunk below 0, and how often right answers
#: are lower than others all the same.
SUNK, AHEAD = 5.0, 0.6
#: The share of pairs of data and negatives told apart above which negatives teach nothing.
APART = 0.99

SLOWER = "Lower the learning rate (--set learning_rate=…), or let it rise slowly at first"
CHAIN = "Take smaller steps of the chain (step_size of its kernel)"
PENALTY = "a penalty on the energies (penalty=…) or weight decay"


@dataclass(frozen=True)
class Reading:
    """The metrics `now`, of at least `STEPS` steps, the measurements before, and the `unit` of energies; `last`: where
    training would end."""

    now: Record
    past: History
    unit: float
    last: bool

    def get(self, name: str, default: float = 0.0) -> float:
        """A metric; the default where the objective has none of that name."""
        return float(self.now.get(name, default))

    @property
    def size(self) -> float:
        """The gap and the spread of energies, whichever is more, in units."""
        return max(abs(self.get("gap")), self.get("spread")) / self.unit


@dataclass(frozen=True)
class Symptom:
    """One trouble: `shows` says in words where it can be seen (None: it can't).

    It is a complaint once it has shown for `lasting` steps, or where training would end with it; `slower` where a
    smaller step size is part of the cure; `advice` is what is left to do when the guard has tried. Nothing that the
    guard can try cures one that is `hopeless`.
    """

    cause: Cause
    shows: Callable[[Reading], str | None]
    lasting: int
    slower: bool
    advice: str
    hopeless: bool = False


def leaping(at: Reading) -> str | None:
    """Weights that change so fast that the gradient of one step says nothing about the next."""
    if at.get("leap") <= LEAP * at.unit:
        return None
    return f"one step has changed energies by {at.get('leap'):.3g} nats"


def hasty(at: Reading) -> str | None:
    """Steps that go on being large: hidden units saturate one after the other, and learn nothing from then on."""
    if at.get("leap") <= HASTE * at.unit:
        return None
    return f"steps go on changing energies by up to {at.get('leap'):.3g} nats"


def flown(at: Reading) -> str | None:
    """Steps of the chain that overshoot, or chains that drift away where nothing is bounded."""
    if at.get("flown") > FLOWN:
        return f"{at.get('flown'):.0%} of the chain's steps fly apart"
    if at.get("reach") > REACH:
        return f"the chains have left the data: they lie {at.get('reach'):.3g} times as wide"
    return None


def frozen(at: Reading) -> str | None:
    """Chains that hardly move: negatives that stay what they were."""
    if at.get("moved", 1.0) < MOVED * at.get("varied", 1.0):
        return f"the chains are frozen: {at.get('moved'):.1%} of them moved"
    if at.get("acceptance", 1.0) < ACCEPTED:
        return f"the chains are frozen: {at.get('acceptance'):.2%} of their moves are accepted"
    return None


def runaway(at: Reading) -> str | None:
    """Energies that grow without end, up on the negatives or down on the data."""
    if at.size > RUNAWAY:
        return (
            f"the energies run away: a gap of {at.get('gap'):.3g} and a spread of {at.get('spread'):.3g} nats"
        )
    if abs(at.get("data_energy")) > BLIND:
        return f"the energies run away: {at.get('data_energy'):.3g} nats on the data"
    return None


def exploding(at: Reading) -> str | None:
    """A gradient far above what it has been."""
    before = [record["gradient_norm"] for record in at.past[-MEDIAN:]]
    usual = statistics.median(before) if len(before) == MEDIAN else math.inf
    now = at.get("gradient_norm")
    # A median of 0 is that of a loss that most rows are done with: any gradient is many times as much.
    if not now > EXPLODING * usual > 0:
        return None
    return f"the gradient explodes: a norm of {now:.3g} after {usual:.3g}"


def flat(at: Reading) -> str | None:
    """An energy that says the same of everything, though it once knew better or training is over."""
    flattest = FLAT * at.unit
    if at.get("spread", math.inf) > flattest:
        return None
    known = max((record.get("spread") or 0.0 for record in at.past), default=0.0) > 10 * flattest
    if not (known or at.last):
        return None
    return f"the energy is flat: data and negatives differ by {at.get('spread'):.2g} nats"


def told_apart(at: Reading) -> str | None:
    """Negatives that are no longer like the data: the energy is a classifier, and learns nothing from them."""
    share, gap = at.get("told_apart"), at.get("gap")
    if share <= APART:
        return None
    return f"the negatives are told apart from the data {share:.1%} of the time, by a gap of {gap:.3g} nats"


def collapsed(at: Reading) -> str | None:
    """An energy that says the same of every answer to an input, though it once told them apart."""
    if not at.past:
        return None
    widest = max(at.past, key=lambda record: record.get("answer_spread") or 0.0)
    before, now = widest.get("answer_spread") or 0.0, at.get("answer_spread", math.inf)
    fallen = abs(at.get("data_energy")) / max(abs(widest.get("data_energy") or 0.0), 1e-30)
    if now >= COLLAPSED * before or now > FALLEN * fallen * before:
        return None
    return f"every answer has the same energy: they differ by {now:.2g} after {before:.2g}"


def sinking(at: Reading) -> str | None:
    """Energies that fall for right and wrong answers alike, without end."""
    energy, spread, ahead = at.get("data_energy"), at.get("answer_spread"), at.get("ahead", 1.0)
    if not at.past or -energy <= SUNK * max(spread, at.unit) or ahead > AHEAD:
        return None
    return (
        f"the energies of all answers fall together, to {energy:.3g}, and right ones are lower than others "
        f"{ahead:.0%} of the time"
    )


#: In the order in which they are looked for: what lies nearest to the cause comes first.
SYMPTOMS = (
    Symptom("leaping", leaping, 0, True, SLOWER),
    Symptom("leaping", hasty, 100, True, SLOWER),
    Symptom("flown", flown, 0, False, f"{CHAIN}, bound the space, or hold the energy by {PENALTY}"),
    Symptom("frozen", frozen, 20, False, f"{CHAIN} or more of them, or lower the learning rate"),
    Symptom(
        "runaway",
        runaway,
        0,
        True,
        f"Lower the learning rate (--set learning_rate=…), hold the energy by {PENALTY}, or take more and smaller "
        "steps of the chain",
    ),
    Symptom(
        "exploding",
        exploding,
        0,
        True,
        "Lower the learning rate (--set learning_rate=…), clip the gradient (optax.clip_by_global_norm), or look "
        "for extreme values in the data",
    ),
    Symptom("flat", flat, 100, False, "Weaken the penalty and the decay of weights, or train longer"),
    Symptom(
        "told apart",
        told_apart,
        300,
        True,
        "Take more steps of the chain, start it at the data, blur the data (jitter=…), "
        f"or hold the energy by {PENALTY}",
    ),
)


_COLLAPSE = (
    "The loss pushes down on the right answers and nowhere up, or by no margin, so that a flat energy is its minimum. "
    "Take one that pushes up on wrong answers: hinge, nll or square-square"
)
#: What only losses suffer from that a flat energy minimises (`AbstractObjective.collapses`).
COLLAPSE = tuple(
    Symptom("collapsed", shows, 100, False, _COLLAPSE, hopeless=True) for shows in (collapsed, sinking)
)


def stride(history: History, unit: float) -> float:
    """The factor of the step size with which the largest leap would be no more than a good step."""
    at = reading(history, unit)
    return STRIDE * at.unit / max(at.get("leap"), 1e-30) if at else math.inf


def found(
    history: History,
    unit: float,
    *,
    last: bool,
    least: int = STEPS,
    watched: tuple[Symptom, ...] = SYMPTOMS,
) -> tuple[Symptom, str] | None:
    """The first symptom of those `watched` that has lasted, and what it says; `last`: training would end here; `least`:
    how many steps are enough to judge by."""
    for symptom in watched:
        words = _lasts(symptom, history, unit, last, least)
        if words:
            return symptom, words
    return None


def calm(history: History, unit: float) -> bool:
    """Whether no symptom shows, and energies are far from running away."""
    at = reading(history, unit)
    return at is not None and at.size < CALM and not any(symptom.shows(at) for symptom in SYMPTOMS)


def _lasts(symptom: Symptom, history: History, unit: float, last: bool, least: int) -> str | None:
    """What the symptom says now, if it has shown at every measurement of its `lasting` steps."""
    words = None
    for end in range(len(history), 0, -1):
        at = reading(history[:end], unit, last=last, least=least)
        shown = symptom.shows(at) if at else None
        if not shown:
            return None
        words = words or shown
        if last or history[-1]["step"] - history[end - 1]["step"] >= symptom.lasting:
            return words
    return None


def reading(history: History, unit: float, *, last: bool = False, least: int = STEPS) -> Reading | None:
    """The newest measurements that cover enough steps, as one; None before there are so many."""
    for first in range(len(history) - 1, -1, -1):
        began = history[first - 1]["step"] if first else 0
        if history[-1]["step"] - began >= least:
            now = _mean(history[first:], began)
            return Reading(now, history[:first], max(unit, history[0].get("spread") or 0.0), last)
    return None


def _mean(records: History, began: int) -> Record:
    """The mean of each number over the steps since `began`, but the largest gradient."""
    steps = [b - a for a, b in pairwise([began, *(record["step"] for record in records)])]

    def mean(name: str) -> float:
        values = (math.inf if record[name] is None else record[name] for record in records)
        return sum(n * value for n, value in zip(steps, values, strict=True)) / sum(steps)

    largest = max(record["gradient_norm"] for record in records)
    return {name: mean(name) for name in records[-1]} | {"gradient_norm": largest}
