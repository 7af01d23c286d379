"""A particle in the unit square that is to visit two goals in turn, and the policy that shows how.

The task of Florence et al. (2021), *Implicit behavioral cloning*, with the constants of its published environment. The
state is position, velocity and both goals (8 numbers); nothing in it says whether the first goal was visited. A policy
sees one state or two, the last and the one before it, as the published ones do: their difference says where it was
heading. An action is a set point in the square, held for `HELD` steps of a proportional-derivative controller. The
demonstration is to set the first goal until the particle is within `CLOSE` of it, and the second from then on. An
episode is a success if it came within `NEAR` of the first goal and is within `NEAR` of the second at its end.

The published figures: 96 % of episodes for the energy with Langevin counter-examples, 5 % for squared error, of two
states, 2,000 demonstrations, and networks and trainings that are far larger (width 2,048, 100,000 steps of 512 rows).
Here the methods are those of `many_answers.py`; the implicit one acts on the answer of least energy, sought without a
slope.

    python benchmarks/particle.py [--write] [--seeds 3]
"""

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from machine import report, table
from many_answers import METHODS, Budget, Data, summary

STIFFNESS, DAMPING, STEP, HELD = 10.0, 5.0, 0.005, 10
ACTIONS, NEAR, CLOSE = 50, 0.05, 0.01
#: Rows (all), width, hidden layers, steps, rows a step.
BUDGET: Budget = (0, 128, 2, 10000, 256)
DEMONSTRATIONS, EPISODES = 2000, 100
#: States (n, 8 or 16) in, set points (n, 2) out.
Policy = Callable[[np.ndarray], np.ndarray]


class Episodes(NamedTuple):
    """What was seen and done, (actions, n, 8 or 16) and (actions, n, 2), and which episodes reached both goals."""

    seen: np.ndarray
    done: np.ndarray
    success: np.ndarray


def run(n: int, seed: int, policy: Policy | None = None, states: int = 1) -> Episodes:
    """`n` episodes of the policy (None: the demonstration), side by side."""
    rng = np.random.default_rng(seed)
    place, first, second = rng.random((3, n, 2))
    speed = np.zeros((n, 2))
    left, visited = np.zeros(n, bool), np.zeros(n, bool)
    seen, done = [], []
    before = None
    for _ in range(ACTIONS):
        state = np.concatenate([place, speed, first, second], axis=1)
        earlier = state if before is None else before
        observation, before = np.concatenate([earlier, state][-states:], axis=1), state
        left |= np.linalg.norm(place - first, axis=1) < CLOSE
        action = np.where(left[:, None], second, first) if policy is None else policy(observation)
        seen.append(observation)
        done.append(action)
        for _ in range(HELD):
            push = STIFFNESS * (action - place) - DAMPING * speed
            place, speed = place + STEP * speed, speed + STEP * push
        visited |= np.linalg.norm(place - first, axis=1) < NEAR
    reached = visited & (np.linalg.norm(place - second, axis=1) < NEAR)
    return Episodes(np.stack(seen), np.stack(done), reached)


def compare(seeds: int, states: int) -> list[list[object]]:
    """Success of each method in new episodes, and the seconds of its fit."""
    measured: dict[str, list[list[float]]] = {name: [] for name in METHODS}
    for seed in range(seeds):
        demonstrations = run(DEMONSTRATIONS, 1000 + seed, states=states)
        data = Data(demonstrations.seen.reshape(-1, 8 * states), demonstrations.done.reshape(-1, 2))
        for name, method in METHODS.items():
            began = time.perf_counter()
            fitted = method(data, BUDGET, seed)
            spent = time.perf_counter() - began
            success = run(EPISODES, 50 + seed, fitted.best, states).success.mean()
            measured[name].append([float(success), spent])
            print(states, seed, name, measured[name][-1], file=sys.stderr, flush=True)
    shown = run(1000, 1).success.mean()
    lines: list[list[object]] = [[name, *summary(np.array(found))] for name, found in measured.items()]
    return [*lines, ["the demonstration", f"{shown:.3g}", ""]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    title = (
        f"{DEMONSTRATIONS} demonstrations of {ACTIONS} actions, width {BUDGET[1]}, {BUDGET[3]} steps of {BUDGET[4]} "
        f"rows; {EPISODES} new episodes, {given.seeds} seeds"
    )
    parts = [
        table(f"{title}: {seen}", ["method", "success", "fit, s"], compare(given.seeds, states))
        for states, seen in ((2, "two states seen"), (1, "one state seen"))
    ]
    report("particle", "python benchmarks/particle.py", parts, "optax", write=given.write)


if __name__ == "__main__":
    main()
