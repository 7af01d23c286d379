"""One of several processes that train together, watched from outside.

When another process ends, JAX aborts this one from a thread of its own, where no exception can be caught. So the
work is done in a child, and what is left to say when it dies is said here.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

import typer

from thalweg.errors import ProcessLost

#: Set for the child; its value is the process that watches it.
WATCHED = "_THALWEG_WATCHED_BY"


def watched() -> bool:
    return WATCHED in os.environ


def run_watched(args: Sequence[str], process: int, processes: int) -> None:
    """Run this command line in a child, and end as it ends.

    Raises `ProcessLost` where the child was aborted, as JAX does within seconds when another process is gone, or
    killed.
    """
    command = [sys.executable, "-m", "thalweg", *args]
    # In a group of its own, so that a Ctrl-C reaches it once, through here, whoever sent it and to whom.
    child = subprocess.Popen(command, env=os.environ | {WATCHED: str(os.getpid())}, process_group=0)
    before = signal.signal(signal.SIGTERM, lambda number, frame: child.terminate())
    try:
        status = _wait(child)
    finally:
        signal.signal(signal.SIGTERM, before)
    if status < 0:
        raise ProcessLost(
            f"process {process} of {processes} ended by {signal.Signals(-status).name}, most likely because another "
            "one did: end what is left of them, and start all of them again with --resume"
        )
    if status:
        raise typer.Exit(status)


def end_with_watcher() -> None:
    """End this process soon after the one that watches it."""
    watcher = int(os.environ[WATCHED])

    def watch() -> None:
        while os.getppid() == watcher:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _wait(child: subprocess.Popen) -> int:
    while True:
        try:
            return child.wait()
        except KeyboardInterrupt:
            child.send_signal(signal.SIGINT)  # which ends by it, and says so
