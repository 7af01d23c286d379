"""`fit`: from data to a model that answers."""

import os
import platform
import resource
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from thalweg.compiled import make_room
from thalweg.data.dataset import Dataset
from thalweg.data.load import load
from thalweg.data.rows import Rows
from thalweg.data.schema import Schema
from thalweg.data.split import split
from thalweg.energy.base import AbstractEnergy
from thalweg.energy.capabilities import AbstractConditional, AbstractSequential
from thalweg.energy.spaces import Record
from thalweg.errors import DataError, DataWarning, Interrupted, OutputError, SettingsError
from thalweg.files import tidy
from thalweg.learning.checkpoint import CHECKPOINT, METRICS, checkpoints
from thalweg.learning.objective import AbstractObjective
from thalweg.learning.parallel import agreed, first, mesh_of, together
from thalweg.learning.run import Fit, Run
from thalweg.locks import alone_in
from thalweg.model import Calibration, Model, load_rows, origin
from thalweg.models import DEFAULT, recipe_named
from thalweg.models.custom import recipe_for
from thalweg.models.recipe import Problem, Recipe
from thalweg.persist import MODEL_FILE, check_destination, check_schema
from thalweg.persist import load as load_model
from thalweg.progress import stage
from thalweg.questions.score import surprises, usual_energies

REPORT = "report.html"
#: Rows kept as evidence for the report, of each kind.
EVIDENCE = 500
#: Rows that are enough to say what energies are usual.
ENOUGH = 30


def fit(
    data: Any,
    recipe: str | AbstractEnergy | Callable[..., AbstractEnergy] | None = None,
    *,
    target: str | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = False,
    force: bool = False,
    drop: tuple[str, ...] | list[str] = (),
    kinds: Mapping[str, str] | None = None,
    calibrate: bool = True,
    objective: AbstractObjective | None = None,
    mesh: Mesh | None = None,
    progress: bool = True,
    log: Callable[[str], None] | None = None,
    **settings: Any,
) -> Model:
    """Fit an energy to data and calibrate it on rows held out.

    `data` is anything that `thalweg.data.load` reads. `recipe` is a name from `thalweg.models.RECIPES` (default
    `orderless`), an energy of your own, or a function of `(space, key)` that builds one. `target` names the column
    that `predict` answers by default. `calibrate=False` holds no rows out for p-values: the model learns from them
    too, and `score` has nothing to compare with. `out` is a directory for the model, its curve and its report; with
    `resume` an interrupted run there goes on, bitwise as if it had never stopped. `mesh` divides each batch over
    devices; of several processes (`thalweg.learning.parallel.join`) each reads the same data and the first alone
    writes. Other keywords are the recipe's settings.

    Raises `DataError`, `SettingsError`, `OutputError`, `Diverged`, `Interrupted` on Ctrl-C, or `ProcessLost`
    where another process ended.
    """
    log = (log or _to_stderr) if first() else _to_nobody
    chosen, configured = _configure(recipe, objective, settings)
    configured, target = chosen.aimed(configured, target)
    # Of several processes the first alone looks at the directory and writes there.
    directory = _directory(out, resume=resume) if first() else None
    with _run_in(directory, resume=resume, force=force):
        with together():
            finished = agreed(directory is not None and resume and _finished(directory))
        if finished:
            energy = None if recipe is None or isinstance(recipe, str) else recipe
            return load_model(str(out), energy=energy)
        if directory is not None and resume and not checkpoints(directory):
            log(f"{directory} holds no checkpoint yet: starting at the beginning")
        make_room()
        began = time.monotonic()
        dataset = (
            load(data, drop=drop, kinds=kinds)
            if drop or kinds or not isinstance(data, Dataset)
            else load_rows(data)
        )
        schema = Schema.infer(dataset, target=target, classes=not chosen.ordered)
        if directory is not None:
            check_schema(schema)
        _check_sequences(chosen, schema)
        rows = schema.encode(dataset.table, name=dataset.where)
        belongs = _belongs(rows, chosen, configured, schema)
        train, validation, held_out = _parts(rows, belongs, chosen, seed, calibrate)
        configured = chosen.settle(configured, schema, len(train))
        run = Run(
            directory=directory,
            resume=resume,
            progress=progress and first(),
            mesh=mesh_of() if mesh is None else mesh,
            log=log,
        )
        key = jax.random.key(seed)
        result = chosen.train(Problem(schema.space, train, validation, configured, key, run))
        held_out = _answered(result.energy, held_out)
        model = Model(
            F=result.energy,
            recipe=chosen.name,
            settings=vars(configured),
            schema=schema,
            calibration=_uncalibrated(held_out),
            card=_card(dataset, chosen, vars(configured), seed, result, began, (train, validation, held_out)),
            history=result.history,
        )
        if calibrate:
            with stage(run.progress, f"energies of {len(held_out):,} held-out rows"):
                model = _calibrated(model, train, validation, seed)
        if directory is not None:
            with stage(run.progress, f"report on {dataset.where}"):
                model.save(directory, force=True)
                model.report(directory / REPORT, dataset, force=True)
            for path in checkpoints(directory):
                path.unlink()
        return model


def _answered(F: AbstractEnergy, rows: Rows) -> Rows:
    """The rows whose answers are known: the energy of others is 0 and says nothing about what is usual."""
    if not isinstance(F, AbstractConditional) or isinstance(F, AbstractSequential):
        return rows
    known = rows.observed[:, list(F.answers)].all(axis=1)
    return rows[known] if known.any() else rows


def _configure(
    recipe: str | AbstractEnergy | Callable[..., AbstractEnergy] | None,
    objective: AbstractObjective | None,
    settings: dict[str, Any],
) -> tuple[Recipe, Any]:
    if recipe is None or isinstance(recipe, str):
        if objective is not None:
            raise SettingsError("objective= is for an energy of your own; a recipe brings its own")
        chosen = recipe_named(recipe or DEFAULT)
    else:
        chosen = recipe_for(recipe, objective)
    return chosen, chosen.configure(settings)


def _directory(out: str | Path | None, *, resume: bool) -> Path | None:
    """The run's directory, which is there or can be made."""
    if out is None:
        if resume:
            raise SettingsError("resume needs the directory of the run: out=…")
        return None
    directory = Path(out)
    if resume and not directory.exists():
        raise OutputError(
            f"{directory} does not exist: there is no run to resume, start one without --resume"
        )
    if not directory.is_dir():
        check_destination(directory)
    return directory


@contextmanager
def _run_in(directory: Path | None, *, resume: bool, force: bool) -> Iterator[None]:
    """A run that is alone in its directory, which holds nothing that nobody said to replace."""
    if directory is None:
        yield
        return
    with alone_in(directory):
        if checkpoints(directory) and not (resume or force):
            raise OutputError(
                f"{directory} holds an unfinished run: continue with --resume, or start over with --force"
            )
        check_destination(directory, force=force or resume)
        for name in (CHECKPOINT, METRICS, REPORT):
            tidy(directory / name)
        try:
            yield
        except KeyboardInterrupt as stop:
            if isinstance(stop, Interrupted) or not checkpoints(directory):
                raise
            raise Interrupted(
                f"stopped before or after the training; continue with --resume (directory {directory})"
            ) from None


def _finished(directory: Path) -> bool:
    """Whether there is nothing left to resume: a model and its report, and no run that would replace them."""
    return all((directory / name).exists() for name in (MODEL_FILE, REPORT)) and not checkpoints(directory)


def _check_sequences(recipe: Recipe, schema: Schema) -> None:
    """Raise `SettingsError` for a recipe of sequences without any, and for words where they would not be read."""
    if issubclass(recipe.energy, AbstractSequential):
        if schema.sequence is None:
            raise SettingsError(
                f"recipe {recipe.name!r} labels sequences of rows: say which column has one value for all rows of a "
                "sequence, kinds={'COLUMN': 'sequence'} (--kind COLUMN=sequence)"
            )
        return
    if schema.sequence is not None:
        told = f"recipe {recipe.name!r} sees each row by itself, and not the sequences of {schema.sequence!r}"
        warnings.warn(DataWarning(told), stacklevel=3)
    words = [column.name for column in schema.columns if column.kind == "word"]
    if words and not recipe.conditional:
        raise SettingsError(
            f"column {words[0]!r} is of words, and recipe {recipe.name!r} needs few categories: drop it (--drop "
            f"{words[0]}), or fit one that only reads them, such as crf or classifier"
        )


def _belongs(rows: Rows, recipe: Recipe, settings: Any, schema: Schema) -> np.ndarray | None:
    """Which sequence or list each row is of, None where rows are each by themselves."""
    if rows.sequence is not None:
        return np.cumsum(np.diff(rows.sequence, prepend=rows.sequence[:1]) != 0)
    if not recipe.lists:
        return None
    column = schema.index(getattr(settings, recipe.lists))
    return np.unique(np.where(rows.observed, rows.values, np.nan)[:, column], return_inverse=True)[1]


def _parts(
    rows: Rows, belongs: np.ndarray | None, recipe: Recipe, seed: int, calibrate: bool
) -> tuple[Rows, Rows, Rows]:
    """Rows for training, for early stopping and for calibration; the last two never train.

    Rows that belong together stay together, or the held-out ones would have neighbours that trained.
    """
    n = len(rows)
    if n < 8 and (calibrate or recipe.validates):
        raise DataError(f"{n} rows are too few: fitting needs at least 8, some of which are held out")
    calibration = min(max(round(0.1 * n), min(100, n // 3)), 2000) if calibrate else 0
    validation = min(max(round(0.06 * n), 2), 2000) if recipe.validates else 0
    shares = (1 - (calibration + validation) / n, validation / n, calibration / n)
    if belongs is None:
        train, stop, held_out = split(n, shares, seed=seed)
    else:
        parts = split(int(belongs.max()) + 1, shares, seed=seed)
        train, stop, held_out = (np.flatnonzero(np.isin(belongs, part)) for part in parts)
    return rows[train], rows[stop], rows[held_out]


def _uncalibrated(held_out: Rows) -> Calibration:
    return Calibration(held_out, np.zeros(len(held_out)), np.zeros(len(held_out)), np.ones((2, 2)))


def _calibrated(model: Model, train: Rows, validation: Rows, seed: int) -> Model:
    """The model with the energies of its held-out rows, and the evidence for its report."""
    held_out = model.calibration.rows
    noise = _noise(model.schema.space, EVIDENCE, seed)
    parts = {"train": train, "validation": validation, "held-out": held_out, "uniform noise": noise}
    parts = {name: part[:EVIDENCE] for name, part in parts.items() if len(part)}
    energies = model._code_energies(held_out)
    coded = {
        name: energies[:EVIDENCE] if name == "held-out" else model._code_energies(part)
        for name, part in parts.items()
    }
    # What is usual must not depend on the rows that calibrate.
    others = "validation" if len(validation) >= ENOUGH else "train"
    usual = usual_energies(model.F, coded[others], parts[others])
    odd = {name: surprises(model.F, coded[name], part, usual) for name, part in parts.items()}
    calibration = Calibration(held_out, energies, surprises(model.F, energies, held_out, usual), usual)
    evidence = {
        "energies": {name: model._in_units(coded[name], part).tolist() for name, part in parts.items()},
        "surprises": {name: values.tolist() for name, values in odd.items()},
    }
    return replace(model, calibration=calibration, evidence=evidence)


def _noise(space: Record, n: int, seed: int) -> Rows:
    """Rows drawn uniformly from the ranges of the columns; on the host, for a draw compiles longer than it takes."""
    share = np.random.default_rng(seed).random((n, len(space.columns)))
    low = np.array([0 if column.finite else column.lower for column in space.columns])
    high = np.array([column.size if column.finite else column.upper for column in space.columns])
    finite = np.array([column.finite for column in space.columns])
    drawn = low + (high - low) * share
    values = np.where(finite, np.floor(drawn), drawn).astype(np.float32)
    return Rows(values, np.ones(values.shape, bool), np.zeros(n, np.int64))


def _card(
    dataset: Dataset,
    recipe: Recipe,
    settings: dict[str, Any],
    seed: int,
    result: Fit,
    began: float,
    parts: tuple[Rows, ...],
) -> dict[str, Any]:
    return {
        "data": dataset.name,
        "rows": len(dataset),
        "columns": len(dataset.table.column_names),
        "split": dict(zip(("train", "validation", "calibration"), map(len, parts), strict=True)),
        "recipe": recipe.name,
        "title": recipe.title,
        "code": recipe.code,
        "paper": recipe.paper,
        "formula": recipe.formula,
        "settings": dict(settings),
        "seed": seed,
        "status": result.status,
        "steps": result.steps,
        "seconds": round(time.monotonic() - began, 2),
        "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        // (1024 if sys.platform != "darwin" else 1 << 20),
        "platform": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {jax.default_backend()}",
        **origin(result.energy),
    }


def _to_nobody(line: str) -> None:
    pass


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)
