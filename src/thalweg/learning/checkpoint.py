"""Checkpoints of a run: whole or not at all, and exact to the last bit."""

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as read_tensors
from safetensors.numpy import save as write_tensors

from thalweg.errors import ModelDirectoryError
from thalweg.files import atomic_file

#: Seconds between two checkpoints of a healthy run.
INTERVAL = 5.0


class Checkpoint:
    """`checkpoint.safetensors` and `metrics.jsonl` of one run directory."""

    def __init__(self, directory: Path | None, trainer: Any, steps: int, every: int):
        self.directory = None if directory is None else Path(directory)
        self.trainer = trainer
        self.written = time.monotonic()
        self.fingerprint = _fingerprint(trainer, steps, every)

    @property
    def path(self) -> Path:
        assert self.directory is not None
        return self.directory / "checkpoint.safetensors"

    @property
    def metrics(self) -> Path:
        assert self.directory is not None
        return self.directory / "metrics.jsonl"

    def start(self, *, resume: bool) -> tuple[Any, Any, list[dict[str, Any]]]:
        """The state, best parameters and curve to begin with: fresh, or those of the checkpoint.

        Raises `ModelDirectoryError` for a checkpoint that is damaged or belongs to another run.
        """
        from thalweg.learning.fit import Best

        initial = self.trainer.initial
        fresh = initial, Best(initial.parameters, jnp.float32(jnp.inf), jnp.int32(0)), []
        if self.directory is None:
            return fresh
        self.directory.mkdir(parents=True, exist_ok=True)
        if not (resume and self.path.exists()):
            self.metrics.write_text("")
            return fresh
        state, best, history = self._read(fresh[:2])
        self._rewrite(history)
        return state, best, history

    def save(self, state: Any, best: Any, history: list[dict[str, Any]], *, now: bool = False) -> None:
        """Append the newest measurement; write the checkpoint if one is due."""
        if self.directory is None:
            return
        self._rewrite(history)
        if not now and time.monotonic() - self.written < INTERVAL:
            return
        leaves = jax.tree.leaves((state, best))
        tensors = {f"{i:05d}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
        note = {"fingerprint": self.fingerprint, "history": json.dumps(history)}
        blob = write_tensors(tensors, metadata=note)
        with atomic_file(self.path, force=True) as temporary:
            Path(temporary).write_bytes(hashlib.sha256(blob).digest() + blob)
        self.written = time.monotonic()

    def _rewrite(self, history: list[dict[str, Any]]) -> None:
        """One line a measurement, appended; written anew after a roll-back or a resumption."""
        lines = [json.dumps(record) for record in history]
        known = self.metrics.read_text().splitlines() if self.metrics.exists() else []
        if lines[: len(known)] == known:
            with open(self.metrics, "a") as file:
                file.writelines(line + "\n" for line in lines[len(known) :])
                file.flush()
                os.fsync(file.fileno())
            return
        with atomic_file(self.metrics, force=True) as temporary:
            Path(temporary).write_text("".join(line + "\n" for line in lines))

    def _read(self, template: Any) -> tuple[Any, Any, list[dict[str, Any]]]:
        data = self.path.read_bytes()
        blob = data[32:]
        if hashlib.sha256(blob).digest() != data[:32]:
            raise ModelDirectoryError(f"{self.path} is damaged: delete it, and fit again without --resume")
        try:
            tensors = read_tensors(blob)
            header = json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])["__metadata__"]
        except (SafetensorError, KeyError, ValueError) as error:
            raise ModelDirectoryError(f"{self.path} is not a checkpoint: {error}") from None
        if header.get("fingerprint") != self.fingerprint:
            raise ModelDirectoryError(
                f"{self.path} belongs to a run with other data, settings or seed: "
                "resume with the same ones, or fit again without --resume"
            )
        structure = jax.tree.structure(template)
        leaves = [jnp.asarray(tensors[f"{i:05d}"]) for i in range(structure.num_leaves)]
        state, best = jax.tree.unflatten(structure, leaves)
        return state, best, json.loads(header["history"])


def _fingerprint(trainer: Any, steps: int, every: int) -> str:
    """A digest of all that makes a run what it is: data, initial weights, seed and schedule."""
    digest = hashlib.sha256(f"{steps},{every},{trainer.batch},{trainer.averaging}".encode())
    key = jax.random.key_data(trainer.step_key)
    for leaf in jax.tree.leaves((trainer.data, trainer.held_out, trainer.initial, key)):
        array = np.ascontiguousarray(np.asarray(leaf))
        digest.update(f"{array.shape}{array.dtype}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
