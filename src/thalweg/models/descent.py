"""How recipes train by Adam: the one call of `fit` that they share."""

from typing import Any

import jax
import optax

from thalweg.energy.base import AbstractEnergy
from thalweg.errors import SettingsError
from thalweg.learning.fit import fit
from thalweg.learning.objective import AbstractObjective
from thalweg.learning.run import Fit
from thalweg.models.recipe import Problem


def by_adam(
    problem: Problem,
    start: AbstractEnergy,
    data: Any,
    objective: AbstractObjective,
    *,
    key: jax.Array,
    batch: int = 0,
    held_out: Any = None,
    patience: int | None = None,
    warm: bool = True,
    clip: float = 10.0,
    decay: float = 0.0,
    decayed: Any = None,
    looks: int = 40,
) -> Fit:
    """`start` after `settings.steps` of Adam, whose step falls along a cosine to 0 from `settings.learning_rate`.

    `batch` stands in for that of the settings. `warm`: the step rises to that over the first twentieth. Gradients
    longer than `clip` are cut to it; `decay` is that of Loshchilov & Hutter (2019), *Decoupled weight decay
    regularization*, of the leaves that `decayed` marks (None: of all). The mean of the last hundred steps or so is
    kept. With `held_out` rows, measured `looks` times, training stops after `patience` of them without a lower loss.
    """
    settings = problem.settings
    rate, steps = settings.learning_rate, settings.steps
    if steps < 1:
        raise SettingsError(f"training takes at least one step, not {steps}")
    schedule = (
        optax.warmup_cosine_decay_schedule(0.0, rate, steps // 20, steps)
        if warm
        else optax.cosine_decay_schedule(rate, steps)
    )
    return fit(
        start,
        data,
        objective,
        optimiser=optax.chain(
            optax.clip_by_global_norm(clip), optax.adamw(schedule, weight_decay=decay, mask=decayed)
        ),
        steps=steps,
        batch=batch or settings.batch,
        held_out=held_out,
        patience=None if held_out is None else patience,
        measure_every=max(1, steps // looks),
        averaging=0.99,
        key=key,
        run=problem.run,
    )
