"""Runs cases in processes of their own and reports what went wrong, crashes of the interpreter among it."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

WORKER = Path(__file__).parent / "worker.py"


def run(kind: str, *, seed: int, first: int, last: int) -> list[dict[str, Any]]:
    """One record a case; a case that ended its process has a problem too, and the next ones are tried all the same."""
    records: list[dict[str, Any]] = []
    while first < last:
        command = [sys.executable, str(WORKER), kind, *map(str, (seed, first, last))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.endswith("}")]
        records += [line for line in lines if "outcome" in line]
        tried = [line["case"] for line in lines]
        if done.returncode == 0:
            break
        assert tried, f"the worker did not start: {done.stderr[-2000:]}"
        problem = f"ended its process with {done.returncode}: {done.stderr[-1500:]}"
        records.append({"case": tried[-1], "outcome": "crash", "problem": problem})
        first = tried[-1] + 1
    return records


def check(kind: str, *, seed: int, first: int, last: int) -> Counter:
    """Counts of what came of the cases; fails, naming the cases, if any of them went wrong."""
    records = run(kind, seed=seed, first=first, last=last)
    wrong = [record for record in records if record["problem"]]
    again = f"python {WORKER} {kind} {seed} CASE CASE+1"
    listed = "\n".join(f"{r['case']} {r.get('format')}: {r['problem']}" for r in wrong[:10])
    assert not wrong, f"{len(wrong)} cases went wrong; try one again with: {again}\n{listed}"
    assert len(records) == last - first, "not every case was tried"
    return Counter(record["outcome"].split(":")[0] for record in records)
