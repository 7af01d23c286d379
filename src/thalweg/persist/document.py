"""`model.json`: everything about a model but its arrays."""

import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from thalweg.data.rows import Rows
from thalweg.data.schema import Schema
from thalweg.errors import DataError, ModelDirectoryError
from thalweg.model import Calibration, Model
from thalweg.persist.arrays import Kind, Kinds, to_kind
from thalweg.persist.layout import FORMAT, LONGEST_HISTORY, MODEL_FILE
from thalweg.persist.migrations import migrated
from thalweg.persist.plain import from_json, plain, to_json
from thalweg.persist.story import check_story

_FIELDS: Mapping[str, type] = {
    "format": int,
    "recipe": str,
    "energy": str,
    "settings": dict,
    "constants": dict,
    "arrays": dict,
    "calibration": dict,
    "schema": dict,
    "card": dict,
    "history": list,
    "evidence": dict,
    "versions": dict,
}
_PACKAGES = ("thalweg", "jax", "equinox", "numpy", "safetensors")


@dataclass(frozen=True)
class Document:
    """What `model.json` says, its form checked and its content not yet."""

    recipe: str
    energy: str
    settings: dict[str, Any]
    constants: dict[str, Any]
    arrays: Kinds
    calibration_rows: int
    schema: Schema
    card: dict[str, Any]
    history: list[dict[str, Any]]
    evidence: dict[str, Any]

    @property
    def calibration(self) -> Kinds:
        """The arrays of the calibration: its rows in codes, and their energies."""
        return calibration_kinds(self.calibration_rows, self.schema)


def write_document(model: Model, arrays: Kinds, constants: dict[str, Any]) -> bytes:
    """The bytes of `model.json`; lists become lists, and what is not finite becomes null."""
    record = {
        "format": FORMAT,
        "recipe": model.recipe,
        "energy": f"{type(model.F).__module__}.{type(model.F).__qualname__}",
        "settings": plain(model.settings, "settings"),
        "constants": plain(constants, "constants"),
        "arrays": {name: {"dtype": kind.dtype, "shape": list(kind.shape)} for name, kind in arrays.items()},
        "calibration": {"rows": len(model.calibration.rows)},
        "schema": model.schema.to_dict(),
        "card": plain(model.card, "card"),
        "history": plain(thinned(model.history), "history"),
        "evidence": plain(model.evidence, "evidence"),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES},
    }
    return to_json(record)


def read_document(blob: bytes, written: int) -> Document:
    """What a `model.json` of format `written` says.

    Raises `ModelDirectoryError`, naming the field, where the form or the schema is not right.
    """
    record = from_json(blob, MODEL_FILE)
    if record.get("format") != written or type(record["format"]) is not int:
        raise ModelDirectoryError(
            f"field 'format' of {MODEL_FILE} is {str(record.get('format'))[:20]}, and the manifest says {written}"
        )
    record = migrated(record)
    if record.keys() != _FIELDS.keys():
        wrong = sorted(record.keys() ^ _FIELDS.keys())
        raise ModelDirectoryError(f"{MODEL_FILE} has missing or unknown fields: {', '.join(wrong)[:200]}")
    for name, kind in _FIELDS.items():
        if type(record[name]) is not kind:
            raise ModelDirectoryError(f"field {name!r} of {MODEL_FILE} must be of type {kind.__name__}")
    rows = record["calibration"].get("rows")
    if type(rows) is not int or rows < 0 or len(record["calibration"]) > 1:
        raise ModelDirectoryError(f"field 'calibration' of {MODEL_FILE} must say how many rows there are")
    check_story(record)
    return Document(
        arrays={name: _kind(name, entry) for name, entry in record["arrays"].items()},
        calibration_rows=rows,
        schema=_schema(record["schema"]),
        **{
            name: record[name]
            for name in ("recipe", "energy", "settings", "constants", "card", "history", "evidence")
        },
    )


def calibration_kinds(rows: int, schema: Schema) -> dict[str, Kind]:
    columns = len(schema.space.columns)
    sequence = {"calibration/sequence": Kind("I64", (rows,))} if schema.sequence else {}
    return sequence | {
        "calibration/values": Kind("F32", (rows, columns)),
        "calibration/observed": Kind("BOOL", (rows, columns)),
        "calibration/unseen": Kind("I64", (rows,)),
        "calibration/energies": Kind("F64", (rows,)),
        "calibration/surprises": Kind("F64", (rows,)),
        "calibration/usual": Kind("F64", (2, 2)),
    }


def calibration_arrays(calibration: Calibration) -> dict[str, np.ndarray]:
    rows = calibration.rows
    sequence = {} if rows.sequence is None else {"calibration/sequence": np.asarray(rows.sequence, np.int64)}
    return sequence | {
        "calibration/values": np.asarray(rows.values, np.float32),
        "calibration/observed": np.asarray(rows.observed, bool),
        "calibration/unseen": np.asarray(rows.unseen, np.int64),
        "calibration/energies": np.asarray(calibration.energies, np.float64),
        "calibration/surprises": np.asarray(calibration.surprises, np.float64),
        "calibration/usual": np.asarray(calibration.usual, np.float64),
    }


def to_calibration(arrays: Mapping[str, np.ndarray]) -> Calibration:
    names = ("values", "observed", "unseen", "energies", "surprises", "usual")
    values, observed, unseen, energies, surprises, usual = (arrays[f"calibration/{name}"] for name in names)
    numbers = np.concatenate([energies, surprises, usual.ravel()])
    if not np.isfinite(values).all() or np.isnan(numbers).any() or (unseen < 0).any():
        raise ModelDirectoryError("the calibration rows hold NaN, infinities or negative counts")
    sequence = arrays.get("calibration/sequence")
    return Calibration(Rows(values, observed, unseen, sequence), energies, surprises, usual)


def thinned(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most `LONGEST_HISTORY` records at even steps, the first and the last among them."""
    step = max(1, math.ceil((len(history) - 1) / (LONGEST_HISTORY - 1)))
    kept = history[:-1:step]
    return [*kept, *history[-1:]]


def _schema(record: dict[str, Any]) -> Schema:
    try:
        schema = Schema.from_dict(record)
        schema.space  # noqa: B018  (built here, so that a schema without one is refused here)
    except DataError as error:
        raise ModelDirectoryError(f"field 'schema' of {MODEL_FILE}: {error}") from error
    return schema


def _kind(name: str, entry: Any) -> Kind:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape"}:
        raise ModelDirectoryError(f"array {name[:80]!r} in {MODEL_FILE} needs a dtype and a shape")
    return to_kind(entry["dtype"], entry["shape"], f"array {name[:80]!r} in {MODEL_FILE}")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
