"""A damaged model directory: made, loaded, and compared with what it was."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load as from_safetensors
from safetensors.numpy import save as to_safetensors

from hostile.mutate import Generator, damaged, odd_json, pick
from thalweg.persist import load, save
from thalweg.persist.directory import write_new
from thalweg.persist.layout import CONTENTS, MANIFEST_FILE, MODEL_FILE, NEXT, WEIGHTS_FILE

FIXTURES = Path(__file__).parents[1] / "fixtures" / "models"
FORMATS = sorted(path.name for path in FIXTURES.glob("*-*") if path.is_dir())
FILES = (*CONTENTS, MANIFEST_FILE)


def prepare(folder: Path, name: str, rng: Generator) -> tuple[Path, Path, bool]:
    """The good directory, a damaged copy, and whether the manifest vouches for the damage."""
    directory = Path(shutil.copytree(FIXTURES / name, folder / "model"))
    change = pick(rng, (_bytes, _bytes, _vouched_bytes, _vouched_json, _vouched_json, _vouched_json, _header))
    change = pick(rng, (change, change, change, change, change, _arrays, _manifest, _files))
    return FIXTURES / name, directory, change(directory, rng)


def attempt(prepared: tuple[Path, Path, bool]) -> str:
    """What `load` makes of the directory; raises what it raises.

    What is read is what was saved, to the byte; or, where the manifest vouches for other content, a model that can
    be saved and read again.
    """
    good, directory, vouched = prepared
    model = load(directory)
    again = save(model, directory.parent / "again")
    if not vouched:
        same = {
            name: (again / name).read_bytes() == (good / name).read_bytes()
            for name in (MODEL_FILE, WEIGHTS_FILE)
        }
        same[MODEL_FILE] = _content(again) == _content(good)
        assert all(same.values()), f"another model was read: {same}"
        return "the same model"
    back = save(load(again), directory.parent / "back")
    assert all((back / name).read_bytes() == (again / name).read_bytes() for name in FILES), (
        "not as it was saved"
    )
    return "another model"


def _content(directory: Path) -> dict:
    record = json.loads((directory / MODEL_FILE).read_bytes())
    return {name: value for name, value in record.items() if name != "versions"}


def _bytes(directory: Path, rng: Generator) -> bool:
    path = directory / pick(rng, FILES)
    path.write_bytes(damaged(path.read_bytes(), rng))
    return False


def _vouched_bytes(directory: Path, rng: Generator) -> bool:
    name = pick(rng, CONTENTS)
    vouch(directory, **{name: damaged((directory / name).read_bytes(), rng)})
    return True


def _vouched_json(directory: Path, rng: Generator) -> bool:
    record = json.loads((directory / MODEL_FILE).read_bytes())
    part = pick(rng, (None, "settings", "schema", "arrays", "card", "evidence", "calibration"))
    for _ in range(int(rng.integers(1, 4))):
        if part is None or not isinstance(record, dict) or part not in record:
            record = odd_json(record, rng)
        else:
            record = record | {part: odd_json(record[part], rng)}
    vouch(
        directory,
        **{MODEL_FILE: json.dumps(record, ensure_ascii=bool(rng.integers(2))).encode("utf-8", "replace")},
    )
    return True


def _header(directory: Path, rng: Generator) -> bool:
    """The table of contents of the weights, and that of model.json now and then changed alike."""
    blob = (directory / WEIGHTS_FILE).read_bytes()
    length = int.from_bytes(blob[:8], "little")
    header = odd_json(json.loads(blob[8 : 8 + length]), rng)
    text = json.dumps(header).encode()
    body = blob[8 + length :] + bytes(int(pick(rng, (0, 0, 4, 4000))))
    vouch(directory, **{WEIGHTS_FILE: len(text).to_bytes(8, "little") + text + body})
    return True


def _arrays(directory: Path, rng: Generator) -> bool:
    """Other numbers, types, shapes and names; mostly with a model.json that agrees."""
    arrays = from_safetensors((directory / WEIGHTS_FILE).read_bytes())
    name = pick(rng, sorted(arrays))
    array = arrays[name]
    match pick(rng, ("numbers", "numbers", "type", "shape", "drop", "more", "bits", "rename")):
        case "numbers":
            with np.errstate(all="ignore"):
                arrays[name] = np.full(
                    array.shape, pick(rng, (0, 1, -1, 3, 120, 1e30, np.nan, np.inf))
                ).astype(array.dtype)
        case "type":
            arrays[name] = array.astype(pick(rng, ("f2", "f4", "f8", "i4", "i8", "u1", "?")))
        case "shape":
            arrays[name] = pick(
                rng, (np.atleast_1d(array)[:1], array[None], array.ravel(), np.stack([array, array]))
            )
        case "drop":
            del arrays[name]
        case "more":
            arrays |= {
                f"more{i}": np.zeros(0, np.float32) for i in range(int(pick(rng, (1, 50, 9_999, 20_000))))
            }
        case "bits":
            arrays[name] = np.frombuffer(rng.bytes(array.nbytes), array.dtype).reshape(array.shape)
        case "rename":
            arrays[pick(rng, ("x", name.upper(), "../" + name, "", name + "/0"))] = arrays.pop(name)
    blobs = {
        WEIGHTS_FILE: to_safetensors({key: np.ascontiguousarray(value) for key, value in arrays.items()})
    }
    if rng.random() < 0.7:
        record = json.loads((directory / MODEL_FILE).read_bytes())
        header = json.loads(blobs[WEIGHTS_FILE][8 : 8 + int.from_bytes(blobs[WEIGHTS_FILE][:8], "little")])
        record["arrays"] = {
            key: {part: entry[part] for part in ("dtype", "shape")} for key, entry in header.items()
        }
        if "calibration/values" in arrays:
            record["calibration"] = {"rows": len(np.atleast_1d(arrays["calibration/values"]))}
        blobs[MODEL_FILE] = json.dumps(record).encode()
    vouch(directory, **blobs)
    return True


def _manifest(directory: Path, rng: Generator) -> bool:
    path = directory / MANIFEST_FILE
    record = odd_json(json.loads(path.read_bytes()), rng)
    path.write_bytes((json.dumps(record, indent=1) + "\n").encode())
    return False


def _files(directory: Path, rng: Generator) -> bool:
    """Files missing, exchanged, linked, made folders, or waiting in `.next`."""
    path, other = directory / pick(rng, FILES), directory / pick(rng, FILES)
    waiting = directory / NEXT
    match pick(
        rng, ("gone", "folder", "link", "outside", "swap", "next", "half", "next link", "extra", "loop")
    ):
        case "gone":
            path.unlink()
        case "folder":
            path.unlink()
            path.mkdir()
        case "link":
            path.rename(directory / "elsewhere")
            path.symlink_to("elsewhere")
        case "outside":
            path.unlink()
            path.symlink_to("/dev/zero" if rng.random() < 0.5 else sys.executable)
        case "swap":
            path.rename(directory / "aside")
            if other != path:
                other.rename(path)
            (directory / "aside").rename(other)
        case "next":
            waiting.mkdir()
            (waiting / path.name).write_bytes(damaged(path.read_bytes(), rng))
        case "half":  # as a kill between two renames leaves it: the same model still
            waiting.mkdir()
            for name in FILES[int(rng.integers(len(FILES))) :]:
                (directory / name).rename(waiting / name)
        case "next link":
            waiting.symlink_to(directory.parent)
        case "extra":
            (
                directory / pick(rng, ("checkpoint.safetensors", "code.py", "weights.bin", ".lock"))
            ).write_bytes(b"x")
        case "loop":
            path.unlink()
            path.symlink_to(path.name)
    return False


def vouch(directory: Path, **changed: bytes) -> None:
    """New bytes for some of the files, with a manifest that says that they are right."""
    write_new(directory, {name: (directory / name).read_bytes() for name in CONTENTS} | changed)
