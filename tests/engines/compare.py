"""Whether two tables of answers say the same."""

import numpy as np
import pyarrow as pa

#: The questions that are asked, their options, and what identifies a line of the answer.
CASES = {
    "score": ({"alpha": 0.1}, ["id"]),
    "predict": ({"target": "cultivar"}, ["id"]),
    "explain": ({"top": 2}, ["id", "column"]),
}


def assert_same(found: pa.Table, expected: pa.Table, by: list[str]) -> None:
    order = [(name, "ascending") for name in by]
    found, expected = found.sort_by(order), expected.sort_by(order)
    assert found.column_names == expected.column_names
    for name in expected.column_names:
        got, want = found[name].to_pylist(), expected[name].to_pylist()
        if isinstance(want[0], float):
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
        elif name != "row":
            assert got == want, name
