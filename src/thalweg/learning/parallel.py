"""Many devices and many processes: what lies where, and what all processes must agree on.

Every process runs the same program on the same data. Arrays are on all devices; the rows of a batch are divided
among them, and the compiler adds up the gradients. Only the first process writes.
"""

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from thalweg.errors import ProcessLost, SettingsError, ThalwegError

#: How the message of a failed exchange begins; JAX raises it as one of several classes.
_STATUS = re.compile(
    "UNKNOWN|UNAVAILABLE|INTERNAL|ABORTED|CANCELLED|DEADLINE_EXCEEDED|FAILED_PRECONDITION|.*Gloo"
)
#: Seconds without a sign of life after which a process counts as lost.
SILENCE = 20


def join(coordinator: str, processes: int, process: int) -> None:
    """Make this process one of several that train together; to be called before anything else uses JAX.

    Raises `SettingsError` where the numbers make no sense, `ProcessLost` where the others do not come.
    """
    if processes < 1 or not 0 <= process < processes:
        raise SettingsError(
            f"there is no process {process} of {processes}: they count from 0 to {processes - 1}"
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise SettingsError(f"the coordinator is HOST:PORT of process 0, not {coordinator!r}")
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            initialization_timeout=300,
            heartbeat_timeout_seconds=SILENCE,
            shutdown_timeout_seconds=300,
        )
    except RuntimeError as error:
        raise ProcessLost(
            f"process {process} of {processes} found no others at {coordinator} ({_short(error)}): start all of "
            "them, with the same --coordinator, within five minutes"
        ) from error


def alone() -> bool:
    return jax.process_count() == 1


def first() -> bool:
    """Whether this is the process that writes and speaks."""
    return jax.process_index() == 0


def mesh_of(devices: int | None = None) -> Mesh | None:
    """A mesh of the first `devices` devices (None: all where there are several processes, otherwise no mesh)."""
    if devices is None:
        return None if alone() else Mesh(np.array(jax.devices()), ("rows",))
    if not 1 <= devices <= jax.device_count():
        raise SettingsError(
            f"JAX sees {jax.device_count()} of the {devices} devices asked for: ask for fewer"
        )
    if not alone() and devices != jax.device_count():
        raise SettingsError("several processes use all their devices: leave --devices out")
    return Mesh(np.array(jax.devices()[:devices]), ("rows",))


def everywhere(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """The arrays on every device of the mesh; those that are there already stay."""
    if mesh is None:
        return tree
    sharding = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda a: a if _lies(a, sharding) else jax.device_put(a, sharding), tree)


def home(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """The arrays on this process's own first device, for what it does by itself."""
    return tree if mesh is None else jax.tree.map(lambda a: jax.device_put(np.asarray(a)), tree)


def _lies(leaf: Any, sharding: NamedSharding) -> bool:
    return isinstance(leaf, jax.Array) and leaf.sharding == sharding


def over_rows(mesh: Mesh, batch: int) -> NamedSharding:
    """How the rows of a batch are divided: into as many equal parts as the devices allow, copies of them elsewhere."""
    parts = math.gcd(batch, mesh.size)
    grid = Mesh(mesh.devices.reshape(parts, -1), ("rows", "copies"))
    return NamedSharding(grid, PartitionSpec("rows"))


def of_first(tree: PyTree) -> PyTree:
    """The arrays as the first process has them: another kind of processor may differ in the last digit."""
    return tree if alone() else multihost_utils.broadcast_one_to_all(tree)


def agreed(number: int) -> int:
    """The number that the first process says."""
    return number if alone() else int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def bytes_of_first(blob: bytes | None) -> bytes | None:
    """The bytes that the first process has; what the others give is not looked at."""
    if alone():
        return blob
    size = agreed(-1 if blob is None else len(blob))
    if size < 0:
        return None
    mine = np.frombuffer(blob, np.uint8) if blob is not None and first() else np.zeros(size, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(mine)).tobytes()


def check_same(what: str, digest: Callable[[], bytes]) -> None:
    """Raise `SettingsError` in every process unless all have the same digest."""
    if alone():
        return
    every = np.asarray(multihost_utils.process_allgather(np.frombuffer(digest(), np.uint8)))
    if (every != every[0]).any():
        other = int(np.argmax((every != every[0]).any(axis=1)))
        raise SettingsError(f"process {other} has other {what} than process 0: give all of them the same")


@contextmanager
def together() -> Iterator[None]:
    """Turn the end of another process, as the next exchange with it finds it, into `ProcessLost`."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        if alone() or isinstance(error, ThalwegError) or not _STATUS.match(str(error)):
            raise
        raise ProcessLost(
            f"process {jax.process_index()} of {jax.process_count()} has lost another ({_short(error)}): end what "
            "is left, and start all of them again with --resume"
        ) from error


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:160]
