"""Compiled programs that nobody may ask for again are let go before the operating system refuses the next one."""

import gc
from pathlib import Path

import jax

LIMIT, MAPS = Path("/proc/sys/vm/max_map_count"), Path("/proc/self/maps")


def make_room() -> bool:
    """Empty JAX's caches where half of the memory maps that a process may have are in use; whether that was so.

    A program of XLA's lies in many maps (the fit of a network leaves a thousand behind), Linux grants a process 65,530,
    and the one who asks for one more is ended without an exception. What is asked again is compiled again.
    """
    try:
        most = int(LIMIT.read_text())
        with MAPS.open("rb") as maps:
            used = sum(1 for _ in maps)
    except (OSError, ValueError):
        return False  # not Linux: no such limit is known
    if used < most / 2:
        return False
    jax.clear_caches()
    gc.collect()
    return True
