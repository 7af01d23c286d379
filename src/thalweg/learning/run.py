"""Where a training happens and what comes out of it: the `Run` asked for and the `Fit` that results."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from thalweg.energy.base import AbstractEnergy


@dataclass(frozen=True)
class Run:
    """The surroundings of a training: nothing in it changes the result.

    `directory` receives `metrics.jsonl` and, about every `checkpoint_every` seconds, the checkpoint (None:
    nothing is written); `resume` continues from that checkpoint; `progress` draws a bar on a terminal; `log`
    receives one line for each event worth a line. A training of several fits names all but the last: each `stage` has
    a checkpoint of its own, and one that is done is not done again.
    """

    directory: Path | None = None
    resume: bool = False
    progress: bool = True
    mesh: Mesh | None = None
    log: Callable[[str], None] = lambda line: None
    checkpoint_every: float = 5.0
    stage: str = ""


@dataclass(frozen=True)
class Fit:
    """A finished training: the energy, why it stopped, and its curve.

    `history` has one record a measurement: `step`, `epoch`, the mean `loss` and largest `gradient_norm` since
    the last one, the step size's factor `rate`, `probe` (the loss on fixed training rows, without dropout;
    only where the objective's loss measures progress), `held_out` (where there are such rows) and `seconds`;
    and the mean of each metric of the objective since the last one (None: not finite), such as `gap`, `spread`,
    `acceptance` and `moved` of `ContrastiveDivergence` or `told_apart` of `NoiseContrastive`.
    `status` is one of `converged`, `stopped early`, `ran all steps`, `closed form`.
    """

    energy: AbstractEnergy
    status: str
    steps: int
    seconds: float
    history: list[dict[str, Any]] = field(default_factory=list)
