"""From cells to codes and back: exact where it can be, and close to float32 where it cannot."""

import datetime as dt
import json
import math

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from thalweg.data import Dataset, Schema, load
from thalweg.errors import DataError, DataWarning, SchemaError, SettingsError

DAY = dt.date(2020, 1, 1)


def mixed(n=40):
    rng = np.random.default_rng(0)
    return pa.table(
        {
            "real": pa.array(
                [None if i % 7 == 0 else v for i, v in enumerate(rng.normal(1e6, 3, n))], pa.float64()
            ),
            "single": pa.array(rng.normal(size=n).astype(np.float32)),
            "count": pa.array(
                [None if i % 5 == 0 else int(v) for i, v in enumerate(rng.integers(-3, 30, n))], pa.int16()
            ),
            "large": pa.array(rng.integers(1 << 61, (1 << 61) + 9, n).astype(np.uint64)),
            "word": pa.array(["red", "green", None, "blue"] * (n // 4)),
            "code": pa.array(["a", "b", "c", "a"] * (n // 4)).dictionary_encode(),
            "flag": pa.array([True, False, None, True] * (n // 4)),
            "same": pa.array([7] * n, pa.int8()),
            "day": pa.array([None if i % 9 == 0 else DAY + dt.timedelta(i * 37) for i in range(n)]),
            "time": pa.array(
                [dt.datetime(2021, 5, 1) + dt.timedelta(hours=i) for i in range(n)], pa.timestamp("s")
            ),
            "zoned": pa.array([i * 86_400_000 for i in range(n)], pa.timestamp("ms", "UTC")),
        }
    )


def schema_of(table, target=None, **kinds):
    return Schema.infer(load(table, kinds=kinds), target)


def test_kinds():
    schema = schema_of(mixed())
    assert {c.name: c.kind for c in schema.columns} == {
        **{"real": "continuous", "single": "continuous", "count": "integer", "large": "integer"},
        **{"word": "categorical", "code": "categorical", "flag": "binary", "same": "constant"},
        **{"day": "datetime", "time": "datetime", "zoned": "datetime"},
    }
    assert schema["word"].levels == ("blue", "green", "red")
    assert schema["flag"].levels == (False, True)
    assert (schema["real"].missing, schema["count"].minimum) == (6, -3)
    assert schema.space.names == tuple(n for n in schema.names if n != "same")
    assert schema_of({"a": [1, 2, 3] * 9}, "a")["a"].kind == "categorical"
    assert schema_of({"a": [1.0, 2.0, None]})["a"].kind == "binary"
    assert schema_of({"a": [1.0, 2.0, None, 9.0]})["a"].kind == "integer"
    assert schema_of({"a": [0, 1, 100_000]})["a"].kind == "integer"
    assert schema_of({"a": [0, 1, 100_001]})["a"].kind == "continuous"


def test_statistics_against_numpy():
    values = np.random.default_rng(1).gamma(2, 3, 500)
    schema = schema_of({"x": values, "n": np.arange(500) % 30 + 5})
    column, code = schema["x"], schema.space.columns[0]
    assert (column.mean, column.std) == pytest.approx((values.mean(), values.std()))
    assert (code.kind, code.unit) == ("real", column.std)
    low, high = (values.min() - values.mean()) / values.std(), (values.max() - values.mean()) / values.std()
    assert (code.lower, code.upper) == pytest.approx((low - (high - low) / 2, high + (high - low) / 2))
    nearest = np.sort(values)[np.rint(np.linspace(0, 499, 65)).astype(int)]
    np.testing.assert_allclose(np.array(column.quantiles) * column.std + column.mean, nearest)
    count = schema.space.columns[1]
    assert (count.kind, count.size, count.unit) == ("integer", 30, 1.0)
    codes = np.arange(500) % 30
    assert (count.center, count.spread) == pytest.approx((codes.mean(), codes.std()))


def test_codes_are_standardised_counts_and_indices():
    schema = schema_of(mixed())
    rows = schema.encode(mixed())
    assert rows.values.dtype == np.float32
    assert rows.values.flags.c_contiguous
    real = rows.values[rows.observed[:, 0], 0].astype(float)
    assert (real.mean(), real.std()) == pytest.approx((0, 1), abs=1e-5)
    counts = [v for v in mixed()["count"].to_pylist() if v is not None]
    np.testing.assert_array_equal(rows.values[rows.observed[:, 2], 2], np.array(counts) - min(counts))
    assert set(rows.values[:, 4][rows.observed[:, 4]]) == {0, 1, 2}
    np.testing.assert_array_equal(rows.observed[:, 4], [v is not None for v in mixed()["word"].to_pylist()])
    assert (rows.values[~rows.observed] == 0).all()
    assert not rows.unseen.any()


def test_round_trip_of_a_mixed_table():
    table = mixed()
    schema = schema_of(table)
    rows = schema.encode(table)
    codes = np.where(rows.observed, rows.values, np.nan)
    assert schema.decode(codes, like=table).equals(table)
    back = schema.decode(codes)
    assert back.schema.equals(table.schema)
    for name in set(schema.names) - {"real", "single"}:
        assert back[name].to_pylist() == table[name].to_pylist(), name
    for name in ("real", "single"):
        found, expected = (np.array(t[name].to_pylist(), float) for t in (back, table))
        np.testing.assert_allclose(found, expected, atol=schema[name].std * 1e-6)


CELLS = {
    "double": st.one_of(st.none(), st.floats(-1e6, 1e6, width=32)),
    "int64": st.one_of(st.none(), st.integers(-(1 << 40), (1 << 40))),
    "uint64": st.one_of(st.none(), st.integers((1 << 64) - 5000, (1 << 64) - 1)),
    "string": st.one_of(st.none(), st.sampled_from(["a", "b", "ç", "", "NA", "1"])),
    "bool": st.one_of(st.none(), st.booleans()),
    "date32[day]": st.one_of(st.none(), st.dates()),
    "timestamp[us]": st.one_of(st.none(), st.datetimes(dt.datetime(1900, 1, 1), dt.datetime(2100, 1, 1))),
}
TYPES = {
    **{"double": pa.float64(), "int64": pa.int64(), "uint64": pa.uint64(), "string": pa.string()},
    **{"bool": pa.bool_(), "date32[day]": pa.date32(), "timestamp[us]": pa.timestamp("us")},
}


@st.composite
def tables(draw):
    n = draw(st.integers(2, 12))
    chosen = draw(st.lists(st.sampled_from(sorted(CELLS)), min_size=1, max_size=4))
    columns = {
        f"c{i}": pa.array(draw(st.lists(CELLS[type_], min_size=n, max_size=n)), TYPES[type_])
        for i, type_ in enumerate(chosen)
    }
    return pa.table({"id": pa.array(range(n)), **columns})


@pytest.mark.filterwarnings("ignore::thalweg.errors.DataWarning")
@settings(max_examples=40, deadline=None)
@given(tables())
def test_any_table_comes_back(table):
    try:
        schema = schema_of(table)
    except DataError as error:
        if "so far apart" not in str(error):
            raise
        reject()
    rows = schema.encode(table)
    codes = np.where(rows.observed, rows.values, np.nan)
    varied = [column.name for column in schema.columns if column.kind != "constant"]
    assert schema.decode(codes, like=table).select(varied).equals(table.select(varied))
    assert Schema.from_dict(json.loads(json.dumps(schema.to_dict()))) == schema
    back = schema.decode(codes)
    assert back.schema.equals(table.schema)
    for column in schema.columns:
        kept = [
            (a, b) for a, b in zip(table[column.name].to_pylist(), back[column.name].to_pylist(), strict=True)
        ]
        for own, found in kept:
            if not column.is_real:
                assert own == found or (column.kind == "constant" and own is None)
            else:
                assert (own is None) == (found is None)
    again = schema.encode(back)
    np.testing.assert_allclose(again.values, rows.values, atol=1e-5)


def test_64_bit_numbers_are_exact():
    large = [(1 << 62) + 1, (1 << 62) + 2, (1 << 62) + 500]
    unsigned = [(1 << 64) - 3, (1 << 64) - 2, (1 << 64) - 1]
    table = pa.table({"i": pa.array(large, pa.int64()), "u": pa.array(unsigned, pa.uint64())})
    schema = schema_of(table)
    rows = schema.encode(table)
    np.testing.assert_array_equal(rows.values, [[0, 0], [1, 1], [499, 2]])
    assert schema.decode(rows.values).equals(table)
    extreme = pa.table({"i": pa.array([-(1 << 63), 0, (1 << 63) - 1], pa.int64())})
    codes = schema_of(extreme).encode(extreme).values
    np.testing.assert_allclose(codes[:, 0], [-math.sqrt(1.5), 0, math.sqrt(1.5)], rtol=1e-6)


@pytest.mark.parametrize(
    "type_",
    [
        pa.decimal128(10, 2),
        pa.duration("s"),
        pa.time32("s"),
        pa.timestamp("s", "Europe/Lisbon"),
        pa.date64(),
        pa.float16(),
    ],
)
def test_unusual_types_come_back(type_):
    step = 86_400_000 if type_ == pa.date64() else 1
    numbers = pa.array([step, 2 * step, 5 * step, step])
    if type_ in (pa.float16(), pa.decimal128(10, 2)):
        many = pa.array([1.5, 2.5, 8.0, 1.5]).cast(type_)
        few = pa.array([1.5, 2.5, 1.5, 1.5]).cast(type_)
    else:
        many = numbers.cast(pa.int32() if type_.bit_width == 32 else pa.int64()).cast(type_)
        few = many.take(pa.array([0, 1, 0, 0]))
    table = pa.table({"many": many, "few": few, "same": many.take(pa.array([0, 0, 0, 0]))})
    schema = schema_of(table)
    rows = schema.encode(table)
    assert schema.decode(rows.values).equals(table)
    assert schema.decode(rows.values, like=table).equals(table)
    assert Schema.from_dict(json.loads(json.dumps(schema.to_dict()))) == schema


def test_decoded_integers_are_rounded_and_not_clipped():
    schema = schema_of(pa.table({"n": pa.array([3, 4, 9], pa.uint8())}))
    codes = np.array([[1.4], [60.6], [-2.0], [900.0], [-90.0]])
    assert schema.decode(codes)["n"].to_pylist() == [4, 64, 1, 255, 0]


def test_observed_cells_are_untouched_and_the_rest_is_filled():
    table = mixed()
    schema = schema_of(table)
    rows = schema.encode(table)
    codes = rows.values + 0.4
    filled = schema.decode(codes, observed=rows.observed, like=table)
    for name in table.column_names:
        for own, new in zip(table[name].to_pylist(), filled[name].to_pylist(), strict=True):
            assert new is not None
            assert own is None or own == new
    replaced = schema.decode(codes, observed=np.zeros_like(rows.observed), like=table)
    assert not np.isclose(replaced["single"].to_numpy(), table["single"].to_numpy()).any()
    assert replaced["same"].equals(table["same"])


def test_order_and_other_columns_follow_the_original():
    schema = schema_of({"a": [1.5, 2.5, 3.5], "b": ["u", "v", "u"], "k": [1, 1, 1]})
    other = pa.table({"note": ["x", "y"], "b": ["v", None]})
    with pytest.warns(DataWarning) as caught:
        rows = schema.encode(other)
    messages = [str(w.message) for w in caught]
    assert any("lacks a: taken as not observed" in m for m in messages)
    assert any("does not know, ignored: note" in m for m in messages)
    found = schema.decode(rows.values, observed=rows.observed, like=other)
    assert found.column_names == ["note", "b", "a", "k"]
    assert found.to_pydict() == {"note": ["x", "y"], "b": ["v", "u"], "a": [2.5, 2.5], "k": [1, 1]}


def test_columns_are_matched_by_name():
    table = mixed()
    schema = schema_of(table)
    turned = table.select(table.column_names[::-1])
    np.testing.assert_array_equal(schema.encode(turned).values, schema.encode(table).values)


def test_arrays_are_matched_by_position():
    frame = pd.DataFrame({"a": [1.5, 2.5, 4.0], "b": [5.5, 6.5, 6.0], "t": ["u", "v", "u"]})
    schema = Schema.infer(load(frame), "t")
    rows = schema.encode(load(np.array([[1.5, 5.5], [4.0, 6.0]])).table)
    np.testing.assert_array_equal(rows.values, schema.encode(load(frame.iloc[[0, 2], :2]).table).values)
    assert not rows.observed[:, 2].any()
    with pytest.raises(SchemaError, match=r"has 4 columns without names, the model was fitted on 3: a, b, t"):
        schema.encode(np.ones((2, 4)))
    digits = Schema.infer(load("digits"), "label")
    images = np.array(load("digits").table.drop_columns(["label"]).to_pandas()).reshape(-1, 8, 8)[:5]
    np.testing.assert_array_equal(
        digits.encode(load(images).table).values[:, :-1],
        digits.encode(load("digits").table.slice(0, 5)).values[:, :-1],
    )


def test_arrays_whose_names_were_made_up_alike():
    values = np.random.default_rng(0).normal(size=(20, 3))
    schema = Schema.infer(load(values, drop=["x1"]))
    expected = schema.encode(load(values, drop=["x1"]).table).values
    with pytest.warns(DataWarning, match="does not know, ignored: x1"):
        np.testing.assert_array_equal(schema.encode(values).values, expected)
    with pytest.warns(DataWarning, match="lacks x2"):
        assert not schema.encode(load(values, drop=["x1", "x2"]).table).observed[:, 1].any()
    with pytest.raises(SchemaError, match="has 1 columns without names"):
        Schema.infer(load(values)).encode(values[:, :1])
    digits = Schema.infer(load("digits"))
    images = np.array(load("digits", drop=["label"]).table.to_pandas()).reshape(-1, 8, 8)
    with pytest.warns(DataWarning, match="lacks label"):
        assert digits.encode(images).observed[:, :-1].all()


def test_unknown_categories_and_values_out_of_range_are_named():
    schema = schema_of(
        {"x": [1.0, 2.5, 3.0], "n": [1, 2, 4], "w": ["a", "b", "c"], "v": ["p", "q", "p"], "k": [5, 5, 5]}
    )
    odd = pa.table(
        {"x": [99.0, 2.0, 1.0], "n": [2, -7, 9], "w": ["a", "zz", None], "v": ["y", "y", "p"], "k": [5, 6, 5]}
    )
    with pytest.warns(DataWarning) as caught:
        rows = schema.encode(odd, first_row=100, name="odd.csv")
    unknown, outside, constant = sorted(str(w.message) for w in caught)
    assert unknown.startswith("odd.csv: categories that training never saw")
    assert "w = 'zz' (row 101); v = 'y' (row 100 and 1 more)" in unknown
    assert "x = 99.0 (row 100); n = -7 (row 101 and 1 more)" in constant + outside
    assert "k = 6 (row 101), always 5 in training" in constant + outside
    np.testing.assert_array_equal(rows.unseen, [1, 2, 0])
    np.testing.assert_array_equal(rows.observed[:, 2:], [[True, False], [False, False], [False, True]])
    np.testing.assert_array_equal(rows.values[:, 1], [1, -8, 8])
    assert rows.values[0, 0] == pytest.approx((99 - schema["x"].mean) / schema["x"].std)


def test_far_numbers_stay_finite():
    schema = schema_of({"x": [1.0, 2.5, 3.0]})
    with pytest.warns(DataWarning, match="outside the range"):
        rows = schema.encode(pa.table({"x": [1e308, -1e308]}))
    assert np.isfinite(rows.values**2).all()


@pytest.mark.parametrize(
    ("column", "cells", "message"),
    [
        ("x", ["1.5", "two"], r"d\.csv, column 'x', row 11: 'two' is not a number"),
        ("x", [1.0, np.inf], r"column 'x', row 11: the value is inf"),
        ("x", [DAY, DAY], r"column 'x': cells of type date32\[day\] where training had numbers"),
        ("n", [1.0, 2.5], r"column 'n', row 11: 2\.5 is not a whole number"),
        ("d", [1, 2], r"column 'd': cells of type int64 where training had dates"),
        ("d", ["2020-01-01", "soon"], r"column 'd', row 11: 'soon' is not an ISO date"),
        ("x", [[1.0], [2.0]], r"column 'x': cells of type list"),
    ],
)
def test_wrong_types_are_refused(column, cells, message):
    schema = schema_of(
        {"x": [1.0, 2.5, 3.0], "n": [1, 2, 4], "d": [DAY, DAY + dt.timedelta(3), DAY + dt.timedelta(9)]}
    )
    table = pa.table({"x": [1.5, 2.5], "n": [2, 2], "d": [DAY, DAY]})
    table = table.set_column(table.column_names.index(column), column, pa.array(cells))
    with pytest.raises(DataError, match=message):
        schema.encode(table, first_row=10, name="d.csv")


def test_nothing_in_common():
    with pytest.raises(
        SchemaError, match=r"has none of the columns of the model: it has q, the model was fitted on x"
    ):
        schema_of({"x": [1.0, 2.5, 3.0]}).encode(pa.table({"q": [1.0]}))


def test_the_same_values_in_other_types():
    schema = schema_of(
        {"x": [1.0, 2.5, 3.0], "n": [1, 2, 4], "w": ["1", "2", "x"], "i": [3, 4, 3], "f": [True, False, True]}
    )
    expected = schema.encode(
        pa.table({"x": [1.0, 3.0], "n": [1, 4], "w": ["1", "2"], "i": [3, 4], "f": [True, False]})
    )
    for other in (
        {"x": ["1.0", " 3 "], "n": ["1", "4"], "w": [1, 2], "i": ["3", "4"], "f": ["True", "false"]},
        {"x": [1, 3], "n": [1.0, 4.0], "w": [1.0, 2.0], "i": [3.0, 4.0], "f": [1, 0]},
        {
            "x": pa.array([1, 3], pa.float16()),
            "n": pa.array([1, 4], pa.uint64()),
            "w": ["1", "2"],
            "i": ["3", "4"],
            "f": ["1", "0"],
        },
    ):
        rows = schema.encode(pa.table({k: pa.array(v) for k, v in other.items()}))
        np.testing.assert_array_equal(rows.values, expected.values)
        assert rows.observed.all()
    blank = schema.encode(
        pa.table({"x": ["NA", "?"], "n": ["", "none"], "w": pa.nulls(2), "i": ["nan", "N/A"], "f": ["", ""]})
    )
    assert not blank.observed.any()
    assert not blank.unseen.any()


def test_pandas_polars_arrow_and_numpy_agree():
    table = mixed().select(["real", "single", "count", "word", "flag", "same", "time"])
    schema = schema_of(table)
    expected = schema.encode(table)
    for frame in (table.to_pandas(), pl.from_arrow(table), table, Dataset(table, "t")):
        dataset = load(frame)
        rows = schema.encode(dataset.table)
        np.testing.assert_array_equal(rows.values, expected.values)
        np.testing.assert_array_equal(rows.observed, expected.observed)
        codes = np.where(rows.observed, rows.values, np.nan)
        back = dataset.restore(schema.decode(codes, like=dataset.table))
        if isinstance(frame, pd.DataFrame):
            pd.testing.assert_frame_equal(back, frame)
        elif isinstance(frame, pl.DataFrame):
            assert back.equals(frame)
            assert back.schema == frame.schema
        else:
            assert back.equals(table)
    numbers = np.random.default_rng(0).normal(size=(9, 3))
    dataset = load(numbers)
    numeric = Schema.infer(dataset)
    np.testing.assert_array_equal(
        dataset.restore(numeric.decode(numeric.encode(dataset.table).values, like=dataset.table)), numbers
    )


def test_candidates():
    schema = schema_of(
        {"x": np.random.default_rng(0).normal(size=900), "w": list("abc") * 300, "n": np.arange(900)}
    )
    real = schema.candidates(0)
    assert real.dtype == np.float32
    assert 65 < len(real) <= 129
    assert (np.diff(real) > 0).all()
    assert (real[0], real[-1]) == pytest.approx((schema["x"].quantiles[0], schema["x"].quantiles[-1]))
    np.testing.assert_array_equal(schema.candidates(1), [0, 1, 2])
    many = schema.candidates(2)
    assert len(many) <= 129
    np.testing.assert_array_equal(many, np.rint(many))


def test_log_units_change_variables():
    """A density of codes divided by the units is the density of the user's numbers."""
    x = np.random.default_rng(0).normal(5, 3, 400)
    schema = schema_of({"x": x, "w": list("ab") * 200})
    rows = schema.encode(pa.table({"x": x, "w": list("ab") * 200}))
    in_codes = 0.5 * rows.values[:, 0].astype(float) ** 2 + 0.5 * math.log(2 * math.pi)
    in_units = 0.5 * ((x - x.mean()) / x.std()) ** 2 + 0.5 * math.log(2 * math.pi * x.var())
    np.testing.assert_allclose(in_codes + schema.log_units(rows.observed), in_units, atol=1e-5)
    assert schema.log_units(np.zeros((3, 2), bool)).tolist() == [0, 0, 0]


def test_one_column_of_codes():
    schema = schema_of({"x": [1.0, 2.5, 3.0], "n": [3, 5, 9], "w": ["a", "b", "c"]})
    assert schema.decode_column(2, np.array([2.0, 0.0])).to_pylist() == ["c", "a"]
    np.testing.assert_allclose(schema.number(1, np.array([0.5, 6.0])), [3.5, 9.0])
    x = schema["x"]
    np.testing.assert_allclose(schema.number(0, np.array([0.0, 1.0])), [x.mean, x.mean + x.std])


def test_index_names_the_nearest():
    schema = schema_of({"alpha": [1.0, 2.5, 3.0], "k": [1, 1, 1], "beta": [1, 2, 5]})
    assert schema.index("beta") == 1
    with pytest.raises(SettingsError, match=r"no column 'betta': did you mean 'beta'"):
        schema.index("betta")
    with pytest.raises(SettingsError, match="'k' was constant in training"):
        schema.index("k")


def _damage(content, path, value):
    content = json.loads(json.dumps(content))
    place = content
    for key in path[:-1]:
        place = place[key]
    if value is KeyError:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return content


def test_json_is_exact():
    schema = schema_of(mixed(), target="word")
    assert Schema.from_dict(json.loads(json.dumps(schema.to_dict(), allow_nan=False))) == schema


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("rows",), 1, "rows is not a count"),
        (("rows",), KeyError, "its keys are not"),
        (("grid",), [0], "grid is not a list of sizes"),
        (("grid",), [100, 100], "grid has more pixels"),
        (("target",), "nobody", "target is not one of the columns"),
        (("columns",), [], "columns is not a list"),
        (("columns", 0, "name"), "", "a column is named ''"),
        (("columns", 1, "name"), "real", "two columns have one name"),
        (("columns", 0, "kind"), "complex", "there is no kind 'complex'"),
        (("columns", 0, "kind"), [1], "there is no kind"),
        (("columns", 0, "type"), "list<item: int64>", "not a column type"),
        (("columns", 0, "type"), "string", "continuous does not go with type string"),
        (("columns", 0, "std"), 0.0, "center or std"),
        (("columns", 0, "std"), float("nan"), "center or std"),
        (("columns", 0, "center"), "1", "center or std"),
        (("columns", 0, "quantiles"), [1.0], "not 65 finite quantiles"),
        (("columns", 0, "quantiles"), [2.0] * 64 + [1.0], "quantiles are not sorted"),
        (("columns", 0, "minimum"), None, "not a range"),
        (("columns", 0, "missing"), -1, "missing is not a count"),
        (("columns", 0, "whole"), 1, "whole is not true or false"),
        (("columns", 0, "extra"), 1, "a column's keys are not"),
        (("columns", 2, "maximum"), 10**9, "too large to count"),
        (("columns", 4, "levels"), ["a"], "1 levels do not make it categorical"),
        (("columns", 4, "levels"), ["a", "a", "b"], "two levels are equal"),
        (("columns", 4, "levels"), ["a", 3, "b"], "its levels are not of type string"),
        (("columns", 4, "levels"), "abc", "levels is not a list"),
        (("columns", 8, "type"), "double", "datetime does not go with type double"),
    ],
)
def test_damaged_json_is_refused(path, value, message):
    content = _damage(schema_of(mixed()).to_dict(), path, value)
    with pytest.raises(DataError, match=message):
        Schema.from_dict(content)


def test_pixels_that_never_change_leave_the_space_but_not_the_grid():
    schema = Schema.infer(load("digits"), "label")
    assert (schema.grid, len(schema.columns), schema.space.shape) == ((8, 8), 65, (62,))
    assert [column.pixel for column in schema.space.columns] == [True] * 61 + [False]
