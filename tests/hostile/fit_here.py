"""`thalweg` with checkpoints at every chance and a death where asked: `fit_here.py [--die-at N] ARGUMENTS…`.

N counts what is done to files: writes, synchronisations, renames, removals. The N-th is not done; of a write, half is.
"""

import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import thalweg.fitting
from thalweg.cli.main import main


def counted(call: Callable, die_at: int, half: Callable | None = None) -> Callable:
    def wrapped(*args, **keywords):
        counted.calls += 1
        if counted.calls == die_at:
            if half is not None:
                half(*args)
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **keywords)

    return wrapped


counted.calls = 0


def mortal(die_at: int) -> None:
    for name in ("fsync", "replace", "rename", "rmdir", "unlink", "ftruncate"):
        setattr(os, name, counted(getattr(os, name), die_at))
    write = Path.write_bytes
    Path.write_bytes = counted(write, die_at, lambda path, blob: write(path, blob[: len(blob) // 2]))


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if arguments[0] == "--die-at":
        mortal(int(arguments[1]))
        arguments = arguments[2:]
    thalweg.fitting.Run = partial(thalweg.fitting.Run, checkpoint_every=0.0)
    status = main(arguments)
    sys.stdout.flush()
    print(f"{counted.calls} done to files", file=sys.stderr)
    os._exit(status)
