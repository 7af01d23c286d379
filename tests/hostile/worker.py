"""One process that reads damaged files: `worker.py KIND SEED FIRST LAST`, with little memory and little time.

Writes one JSON object a case: `{"case", "format", "seconds", "outcome", "problem"}`. The case is announced before it
is tried, so that whoever reads knows which one ended the interpreter.
"""

import faulthandler
import json
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

#: Bytes of address space beyond what the interpreter and its libraries have, and of memory in use at the worst.
SPACE, MEMORY = 6 << 30, 1 << 30
#: In place of the 8 GiB of `thalweg.data.limits`, so that what is beyond can be tried here.
LARGEST = 256 << 20
#: Seconds for one case.
PATIENCE = 60


def limits() -> None:
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + SPACE, taken + SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def judged(attempt) -> tuple[str, str | None]:
    """What came of it, and what is wrong with that."""
    from thalweg.errors import DataWarning, ThalwegError

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            outcome, problem = attempt(), None
        except ThalwegError as error:
            outcome, problem = f"{type(error).__name__}: {error}", _no_memory(error)
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)[::-1][:6]
            where = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames)
            outcome, problem = "raised", f"{type(error).__name__}: {str(error)[:300]} ({where})"
    foreign = [str(w.message)[:200] for w in said if not issubclass(w.category, DataWarning)]
    if problem is None and foreign:
        problem = f"warned: {foreign[0]}"
    return outcome, problem


def _no_memory(error: BaseException) -> str | None:
    """An allocation that only the limit of this process refused; Arrow's own are refused by Arrow, untouched."""
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, MemoryError) and "malloc of size" not in str(chain):
            return f"out of memory: {chain}"
        chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)
    return None


def main(kind: str, seed: int, first: int, last: int) -> None:
    if kind == "data":
        from hostile.data_cases import FORMATS, attempt, prepare
    else:
        from hostile.model_cases import FORMATS, attempt, prepare
    from thalweg.data import limits as most

    most.LARGEST_BYTES = LARGEST
    limits()
    for case in range(first, last):
        print(json.dumps({"case": case}), flush=True)
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        folder = Path(tempfile.mkdtemp(prefix="hostile-"))
        rng = np.random.default_rng([seed, case])
        format_ = FORMATS[case % len(FORMATS)]
        prepared = prepare(folder, format_, rng)
        before, started = _peak(), time.monotonic()
        outcome, problem = judged(lambda: attempt(prepared))  # noqa: B023
        if problem is None and _peak() - before > MEMORY:
            problem = f"took {_peak() - before:,} bytes of memory"
        seconds = time.monotonic() - started
        faulthandler.cancel_dump_traceback_later()
        if not os.environ.get("HOSTILE_KEEP"):
            shutil.rmtree(folder)
        record = {"format": format_, "seconds": round(seconds, 3)}
        print(json.dumps({"case": case, **record, "outcome": outcome[:400], "problem": problem}), flush=True)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:5]))
