"""A folder of Parquet files, answered file by file into another folder; what is finished is not done again.

Each answer carries in its footer the question it answers and the size and time of the file it was read from, so
that one rename makes it finished: whoever is killed at any moment loses the file it was at, and nothing else.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from thalweg import __version__
from thalweg.asking import Question
from thalweg.data import Writer, batches
from thalweg.data.stream import parquet_files
from thalweg.errors import DataError, OutputError, SettingsError
from thalweg.files import atomic_file, tidy, write_first
from thalweg.model import Model
from thalweg.persist import fingerprint, load

#: What the answers in a folder answer.
RECORD = "question.json"
_NOTE = "thalweg"


@dataclass(frozen=True)
class Answered:
    """What came of a folder: files answered now, files that were finished before, and the rows answered now."""

    files: int
    finished: int
    rows: int


def answer_folder(
    model: str | Path,
    question: str,
    data: str | Path,
    out: str | Path,
    *,
    shard: tuple[int, int] = (0, 1),
    force: bool = False,
    keep: Iterable[str] = (),
    **options: Any,
) -> Answered:
    """Answer every Parquet file below `data` into a file of the same name below `out`, each whole or not at all.

    `model` is a model's directory. `shard=(i, n)` takes the files i, i + n, … of the sorted list, counted from 0:
    n processes with the same `out` share the work. Files whose answer is finished are skipped; those that changed
    since are done again. Raises `OutputError` where `out` holds answers to another question or of another model
    (`force` replaces them), `DataError` for a file that cannot be read; what is finished stays.
    """
    folder = Folder(model, Question(question, options, tuple(keep)), data, out, shard=shard, force=force)
    loaded = load(model) if folder.waiting else None
    rows = sum(
        piece.num_rows for name in folder.waiting if loaded for piece, _ in folder.answer(loaded, name)
    )
    return Answered(len(folder.waiting), len(folder.finished), rows)


class Folder:
    """The files of one shard: which are `finished`, which are `waiting`, and `answer` for each of these.

    Writes the record of the question into `out`. Raises as `answer_folder` does.
    """

    def __init__(
        self,
        model: str | Path,
        question: Question,
        data: str | Path,
        out: str | Path,
        *,
        shard: tuple[int, int] = (0, 1),
        force: bool = False,
    ):
        self.question, self.data, self.out, self.force = question, Path(data), Path(out), force
        _check_apart(self.data, self.out)
        every = parquet_files(self.data)
        if not every:
            raise DataError(f"{data} holds no Parquet files (.parquet, .pq): there is nothing to ask about")
        self.files = every[_place(shard) :: shard[1]]
        record = {
            "format": 1,
            "question": question.name,
            "options": question.settings,
            "model": fingerprint(model),
        }
        self.digest = hashlib.sha256(_json(record)).hexdigest()
        self._claim(record)
        self.finished = [name for name in self.files if self._is_finished(name)]
        done = set(self.finished)
        self.waiting = [name for name in self.files if name not in done]

    def answer(self, model: Model, name: Path) -> Iterator[tuple[pa.Table, pa.Table]]:
        """Each piece of one file and its answer; the file of answers is there when the last one was taken."""
        source, target = self.data / name, self.out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        tidy(target)
        question = replace(self.question.at(name.as_posix()), where=str(source))
        with Writer(target, force=True, note={_NOTE: json.dumps(self._note(source))}) as writer:
            for piece, result in question.pairs(model, _pieces(source)):
                writer.write(result)
                yield piece, result

    def _claim(self, record: dict[str, Any]) -> None:
        """Make `out` the folder of this question, or find that it is one of another."""
        path = self.out / RECORD
        blob = _json({**record, "thalweg": __version__})
        self.out.mkdir(parents=True, exist_ok=True)
        if write_first(path, blob):
            return
        there = _read_record(path)
        if {key: there.get(key) for key in record} == json.loads(_json(record)):
            return
        if not self.force:
            raise OutputError(
                f"{self.out} holds answers {_difference(there, record)}: give another --out, or --force "
                "(force=True) to answer every file anew"
            )
        with atomic_file(path, force=True) as temporary:
            temporary.write_bytes(blob)

    def _is_finished(self, name: Path) -> bool:
        """Whether this question has been answered for the file as it is now; refuses to replace what is not ours."""
        target = self.out / name
        if not os.path.lexists(target):
            return False
        note = _read_note(target)
        if note.get("question") == self.digest:
            return note == self._note(self.data / name)
        if not self.force:
            raise OutputError(
                f"{target} exists and is not an answer to this question: give another --out, or --force "
                "(force=True) to replace it"
            )
        return False

    def _note(self, source: Path) -> dict[str, Any]:
        found = source.stat()
        return {"question": self.digest, "bytes": found.st_size, "mtime_ns": found.st_mtime_ns}


def _place(shard: tuple[int, int]) -> int:
    index, count = shard
    if count < 1 or not 0 <= index < count:
        last = f"0/{count} to {count - 1}/{count}" if count >= 1 else "0/1"
        raise SettingsError(f"there is no shard {index}/{count}: they count from 0, here {last}")
    return index


def _check_apart(data: Path, out: Path) -> None:
    inside, outside = data.resolve(), out.resolve()
    if inside == outside or inside in outside.parents or outside in inside.parents:
        raise OutputError(
            f"the answers cannot go to {out}, for one of it and {data} is inside the other and their files would "
            "mix: give a folder beside it"
        )
    if os.path.lexists(out) and not out.is_dir():
        raise OutputError(
            f"{out} is a file, and a folder of files is answered into a folder: give another --out"
        )


def _pieces(source: Path) -> Iterator[pa.Table]:
    """The rows in pieces; a file of no rows, as engines write them, is one piece of none."""
    try:
        with pq.ParquetFile(source) as file:
            empty = file.schema_arrow.empty_table() if not file.metadata.num_rows else None
    except (pa.ArrowException, OSError):
        empty = None  # what is wrong with it is said where it is read
    return iter([empty]) if empty is not None else batches(source)


def _read_record(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise OutputError(f"{path} is damaged: remove it, with the answers beside it, or give another --out")
    return found


def _read_note(path: Path) -> dict[str, Any]:
    try:
        with pq.ParquetFile(path) as file:
            note = json.loads((file.metadata.metadata or {}).get(_NOTE.encode(), b"{}"))
    except (pa.ArrowException, OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def _difference(there: dict[str, Any], now: dict[str, Any]) -> str:
    """How the question there differs from the one that is asked."""
    if there.get("question") != now["question"]:
        return f"to another question ({there.get('question')}, not {now['question']})"
    old, new = there.get("options") or {}, now["options"]
    changed = [name for name in new if old.get(name) != new[name]]
    if changed:
        return "with other options (" + ", ".join(f"{n} {old.get(n)}, not {new[n]}" for n in changed) + ")"
    return "of another model (its manifest differs)" if there.get("format") == 1 else "of another format"


def _json(record: dict[str, Any]) -> bytes:
    return (json.dumps(record, indent=1, sort_keys=True) + "\n").encode()
