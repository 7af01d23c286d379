"""Checkpoints of a run: whole or not at all, and exact to the last bit."""

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as read_tensors
from safetensors.numpy import save as write_tensors

from thalweg.errors import ModelDirectoryError, OutputError
from thalweg.files import atomic_file, naming, tidy
from thalweg.learning.parallel import alone, bytes_of_first
from thalweg.learning.run import Run
from thalweg.learning.trainer import Trainer

#: The file of a run that has not ended.
CHECKPOINT = "checkpoint.safetensors"
#: The training curve, a line a measurement.
METRICS = "metrics.jsonl"
#: The largest share of the time that writing checkpoints may take.
SHARE = 0.05

# A position is a named tuple of pytrees of arrays that ends with `history`, a list of records.
P = TypeVar("P", bound=tuple)


def checkpoints(directory: Path) -> list[Path]:
    """The checkpoints of a run that has not ended, those of earlier stages first."""
    return sorted(directory.glob(f"*{CHECKPOINT}"), key=lambda path: path.name == CHECKPOINT)


class Checkpoint:
    """`checkpoint.safetensors` and `metrics.jsonl` of one run directory; without a directory, nothing.

    A checkpoint is due `interval` seconds after the last one, later where writing one takes long.
    """

    def __init__(self, run: Run, trainer: Trainer, steps: int, every: int):
        self.directory = None if run.directory is None else Path(run.directory)
        self.name = f"{run.stage}-{CHECKPOINT}" if run.stage else CHECKPOINT
        self.interval, self.log = run.checkpoint_every, run.log
        self.due = time.monotonic() + self.interval
        used = (
            self.directory is not None or not alone()
        )  # all of several processes read the checkpoint of the first
        self.fingerprint = _fingerprint(trainer, steps, every) if used else ""
        self.program = _program(trainer) if used else ""
        self.lines: list[str] = []

    @property
    def path(self) -> Path:
        assert self.directory is not None
        return self.directory / self.name

    @property
    def metrics(self) -> Path:
        assert self.directory is not None
        return self.directory / METRICS

    def start(self, fresh: P, *, resume: bool) -> P:
        """The position to begin at: `fresh`, or that of the first process's checkpoint where there is one and `resume`.

        Raises `ModelDirectoryError` for a checkpoint that is damaged or belongs to another run.
        """
        there = resume and self.directory is not None and self.path.exists()
        data = bytes_of_first(self.path.read_bytes() if there else None)
        position = fresh if data is None else self._read(data, fresh)
        if self.directory is not None:
            self.directory.mkdir(parents=True, exist_ok=True)
            tidy(self.path)
            self._write_metrics(position[-1], anew=True)
        return position

    def save(self, position: P, *, now: bool = False) -> None:
        """Append the newest measurement; write the checkpoint if one is due."""
        if self.directory is None:
            return
        with self._pointing_back():
            self._write_metrics(position[-1])
            if now or time.monotonic() >= self.due:
                self._write(position)

    @contextmanager
    def _pointing_back(self) -> Iterator[None]:
        """Say, where the disk refuses, that nothing is lost but what came after the last checkpoint."""
        try:
            yield
        except OutputError as error:
            kept = (
                "the last checkpoint is whole, continue with --resume"
                if self.path.exists()
                else "start again"
            )
            raise OutputError(f"{error}; then {kept}") from error

    def _write(self, position: P) -> None:
        began = time.monotonic()
        *arrays, history = position
        leaves = jax.tree.leaves(arrays)
        tensors = {f"{i:05d}": _to_numpy(leaf) for i, leaf in enumerate(leaves)}
        note = {"fingerprint": self.fingerprint, "program": self.program, "history": json.dumps(history)}
        blob = write_tensors(tensors, metadata=note)
        with atomic_file(self.path, force=True) as temporary, open(temporary, "wb") as file:
            file.write(hashlib.sha256(blob).digest())
            file.write(blob)
        ended = time.monotonic()
        self.due = ended + max(self.interval, (ended - began) / SHARE if self.interval else 0.0)

    def _write_metrics(self, history: list[dict[str, Any]], *, anew: bool = False) -> None:
        """One line a measurement, appended; written anew after a roll-back or a resumption."""
        lines = [json.dumps(record) for record in history[len(self.lines) :]]
        if anew or len(history) < len(self.lines) or self._rolled_back(history):
            self.lines = [json.dumps(record) for record in history]
            with atomic_file(self.metrics, force=True) as temporary:
                temporary.write_text("".join(line + "\n" for line in self.lines))
        elif lines:
            with naming(self.metrics), open(self.metrics, "a") as file:
                file.writelines(line + "\n" for line in lines)
            self.lines += lines

    def _rolled_back(self, history: list[dict[str, Any]]) -> bool:
        known = len(self.lines)
        return bool(known) and json.dumps(history[known - 1]) != self.lines[-1]

    def _read(self, data: bytes, fresh: P) -> P:
        path = "the first process's checkpoint" if self.directory is None else self.path
        blob = data[32:]
        if hashlib.sha256(blob).digest() != data[:32]:
            raise ModelDirectoryError(f"{path} is damaged: delete it, and fit again without --resume")
        try:
            tensors = read_tensors(blob)
            header = json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])["__metadata__"]
        except (SafetensorError, KeyError, ValueError) as error:
            raise ModelDirectoryError(
                f"{path} is not a checkpoint ({error}): delete it, and fit again without --resume"
            ) from None
        leaves, structure = jax.tree.flatten(fresh[:-1])
        names = [f"{i:05d}" for i in range(len(leaves))]
        if header.get("fingerprint") != self.fingerprint or set(names) != set(tensors):
            raise ModelDirectoryError(
                f"{path} belongs to a run with other data, settings or seed: "
                "resume with the same ones, or fit again without --resume"
            )
        if header.get("program") != self.program:
            self.log(
                f"{path} was written with another optimiser, objective, version of JAX or number of "
                "devices: continuing with those of now"
            )
        arrays = [_from_numpy(tensors[name], leaf) for name, leaf in zip(names, leaves, strict=True)]
        return type(fresh)(*jax.tree.unflatten(structure, arrays), json.loads(header["history"]))  # type: ignore[call-arg]


def _to_numpy(leaf: Any) -> np.ndarray:
    array = np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
    # bfloat16 and its kin are not NumPy's own: stored as bits.
    return array if array.dtype.kind in "biufc" else array.view(f"u{array.dtype.itemsize}")


def _from_numpy(array: np.ndarray, like: Any) -> jax.Array:
    if _is_key(like):
        return jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(like))
    return jnp.asarray(array.view(like.dtype) if like.dtype.kind not in "biufc" else array)


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _fingerprint(trainer: Trainer, steps: int, every: int) -> str:
    """A digest of what makes a run what it is: data, first weights, seed and schedule."""
    digest = hashlib.sha256(f"{steps},{every},{trainer.batch},{trainer.averaging}".encode())
    for leaf in jax.tree.leaves((trainer.data, trainer.held_out, trainer.initial, trainer.step_key)):
        array = np.ascontiguousarray(_to_numpy(leaf))
        digest.update(f"{array.shape}{array.dtype}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _program(trainer: Trainer) -> str:
    """A digest of the lowered step, which holds every constant of the objective and the optimiser."""
    lowered = trainer.advance.lower(trainer.initial, np.int32(1), trainer.data)
    return hashlib.sha256(lowered.as_text().encode()).hexdigest()
