"""Model directories that released versions wrote are read for ever, and answer as they did."""

import json

import numpy as np
import pyarrow as pa
import pytest

import thalweg
from hostile.model_cases import FIXTURES, FORMATS


def test_every_recipe_has_one():
    kinds = {name.split("-", 1)[1].removesuffix("-image").removesuffix("-hidden") for name in FORMATS}
    assert kinds == {*thalweg.models.RECIPES, "combined"}


@pytest.mark.parametrize("name", FORMATS)
def test_it_answers_as_it_did(name):
    known = json.loads((FIXTURES / f"{name}.json").read_text())
    model = thalweg.load(FIXTURES / name)
    given = known["rows"]
    rows = np.array(given, np.uint8) if isinstance(given, list) else rows_of(given)
    np.testing.assert_allclose(model.energy(rows), known["energies"], rtol=2e-5, atol=2e-4)


def rows_of(columns: dict) -> pa.Table:
    table = pa.table(columns)
    if "seen" not in columns:
        return table
    place = table.column_names.index("seen")
    return table.set_column(place, "seen", table["seen"].cast(pa.date32()))
