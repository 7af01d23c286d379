"""What a worker of any engine does before it answers; no engine is needed."""

import os
import subprocess
import sys

import pytest

LOADS = """
import os, sys
from thalweg.distributed import load_once
first = load_once(sys.argv[1])
print(os.environ["NPROC"], load_once(sys.argv[1]) is first)
"""


@pytest.mark.parametrize(("given", "used"), [(None, "1"), ("3", "3")])
@pytest.mark.slow
def test_a_worker_loads_once_and_has_one_thread_unless_told_otherwise(given, used, model):
    surroundings = {name: value for name, value in os.environ.items() if name != "NPROC"}
    surroundings |= {"NPROC": given} if given else {}
    command = [sys.executable, "-c", LOADS, model]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=surroundings)
    assert done.stdout.split() == [used, "True"]
