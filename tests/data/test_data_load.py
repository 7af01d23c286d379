"""Every source becomes the same data set, and what comes back is what was given."""

import datetime as dt
import gzip
import struct

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn import datasets

from thalweg.data import Dataset, Schema, batches, load, split
from thalweg.errors import DataWarning, SchemaError, SettingsError

CSV = """age,height,city,born,seen,member,code
31,1.5,Lisbon,1990-01-31,2020-01-01T10:00:00,true,007
NA,2.5,"Porto, Foz",1991-02-28,2020-01-02 11:30,False,010
 45 ,?,,n/a,,TRUE,011
29,-1e3,Lisbon,2000-12-31,2021-01-01T00:00:00.25,,007
"""


@pytest.fixture
def csv(tmp_path):
    path = tmp_path / "people.csv"
    path.write_text(CSV)
    return path


def test_csv_types_and_missing_cells(csv):
    dataset = load(csv)
    assert (dataset.name, dataset.native, dataset.grid, len(dataset)) == ("people", "arrow", (), 4)
    assert dataset.table.to_pydict() == {
        "age": [31, None, 45, 29],
        "height": [1.5, 2.5, None, -1000.0],
        "city": ["Lisbon", "Porto, Foz", None, "Lisbon"],
        "born": [dt.date(1990, 1, 31), dt.date(1991, 2, 28), None, dt.date(2000, 12, 31)],
        "seen": [
            dt.datetime(2020, 1, 1, 10),
            dt.datetime(2020, 1, 2, 11, 30),
            None,
            dt.datetime(2021, 1, 1, 0, 0, 0, 250000),
        ],
        "member": [True, False, True, None],
        "code": ["007", "010", "011", "007"],
    }
    assert dataset.table.schema.field("age").type == pa.int64()


def test_variants_of_text_files(tmp_path):
    expected = load_text(tmp_path / "a.csv", "x,y\n1,2\n3,4\n")
    assert load_text(tmp_path / "b.tsv", "x\ty\n1\t2\n3\t4\n").equals(expected)
    assert load_text(tmp_path / "c.csv", "x;y\n1;2\n3;4\n").equals(expected)
    assert load_text(tmp_path / "d.csv", "\ufeffx,y\r\n1,2\r\n\r\n3,4\r\n").equals(expected)
    assert load_text(tmp_path / "e.csv", ' x ,"y"\n"1", 2 \n3,4').equals(expected)
    assert load_text(tmp_path / "f.csv", "x\n1\n\n3\n")["x"].to_pylist() == [1, None, 3]
    assert load_text(tmp_path / "g.csv", 'x,t\n1,"two\nlines"\n2,b\n')["t"].to_pylist() == ["two\nlines", "b"]
    assert load_text(tmp_path / "h.csv", "0,1\n5,6\n").column_names == ["0", "1"]
    assert load_text(tmp_path / "i.csv", f"x\n{(1 << 64) - 1}\n1\n").schema.field("x").type == pa.uint64()


def load_text(path, text):
    path.write_bytes(text.encode())
    return load(path).table


def test_columnar_files_agree_with_the_frame(tmp_path):
    frame = pd.DataFrame(
        {"x": [1.5, None, 2.5], "t": ["a", "b", None], "d": pd.to_datetime(["2020-01-01"] * 3)}
    )
    table = pa.Table.from_pandas(frame)
    pq.write_table(table, tmp_path / "a.parquet")
    pa.feather.write_feather(table, tmp_path / "a.feather")
    with pa.ipc.new_stream(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table)
    for name in ("a.parquet", "a.feather", "a.arrow"):
        assert load(tmp_path / name).table.cast(table.schema).equals(table)
    assert load(tmp_path / "a.parquet", drop="t").table.column_names == ["x", "d"]


def test_arrays_and_their_files(tmp_path):
    images = np.arange(24).reshape(4, 2, 3)
    dataset = load(images)
    assert dataset.grid == (2, 3)
    assert dataset.table.column_names[:4] == ["pixel_0_0", "pixel_0_1", "pixel_0_2", "pixel_1_0"]
    back = dataset.restore(dataset.table)
    np.testing.assert_array_equal(back, images)
    assert back.dtype == images.dtype
    np.save(tmp_path / "a.npy", images)
    assert load(tmp_path / "a.npy").table.equals(dataset.table)
    assert load(np.ones(3)).table.column_names == ["x0"]
    hidden = load(np.ma.masked_array([[1, 2], [3, 4]], [[False, True], [False, False]])).table
    assert hidden.to_pydict() == {"x0": [1, 3], "x1": [None, 4]}
    words = load(np.array([["a", "1"], ["", "2"]])).table
    assert words.to_pydict() == {"x0": ["a", None], "x1": ["1", "2"]}
    assert load(np.asfortranarray(np.arange(6.0).reshape(3, 2)).astype(">f8")).table["x1"].to_pylist() == [
        1,
        3,
        5,
    ]


def test_npz(tmp_path):
    x, y = np.random.default_rng(0).normal(size=(6, 2)), np.arange(6) % 3
    np.savez(tmp_path / "a.npz", X=x, y=y, other=np.ones(2))
    dataset = load(tmp_path / "a.npz")
    assert dataset.table.column_names == ["x0", "x1", "label"]
    assert Schema.infer(dataset)["label"].kind == "categorical"
    assert load(f"{tmp_path}/a.npz::other").table["x0"].to_pylist() == [1, 1]
    np.savez(tmp_path / "b.npz", x_train=x, y_train=y + 0.5, x_test=x[:2], y_test=y[:2] + 0.5)
    assert len(load(tmp_path / "b.npz")) == 6
    assert load(f"{tmp_path}/b.npz::test").table["label"].to_pylist() == [0.5, 1.5]
    np.savez(tmp_path / "c.npz", only=x)
    np.testing.assert_array_equal(load(tmp_path / "c.npz").table["x1"], x[:, 1])


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx(tmp_path, suffix):
    pack = gzip.compress if suffix else bytes
    images = np.random.default_rng(0).integers(0, 256, (5, 2, 3)).astype(np.uint8)
    path = tmp_path / f"train-images-idx3-ubyte{suffix}"
    path.write_bytes(pack(struct.pack(">HBBIII", 0, 8, 3, 5, 2, 3) + images.tobytes()))
    np.testing.assert_array_equal(np.array(load(path).table.to_pandas()), images.reshape(5, 6))
    assert load(path).grid == (2, 3)
    labels = tmp_path / f"train-labels-idx1-ubyte{suffix}"
    labels.write_bytes(pack(struct.pack(">HBBI", 0, 8, 1, 5) + bytes([3, 1, 4, 1, 5])))
    assert load(path).table["label"].to_pylist() == [3, 1, 4, 1, 5]
    floats = tmp_path / f"a.idx{suffix}"
    floats.write_bytes(pack(struct.pack(">HBBI", 0, 14, 1, 2) + struct.pack(">dd", 1.5, -2.5)))
    assert load(floats).table["x0"].to_pylist() == [1.5, -2.5]


def test_folders_of_images(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 5)).astype(np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{2 - i}.png")
    (tmp_path / "notes.txt").write_text("not a picture")
    dataset = load(tmp_path)
    assert dataset.grid == (4, 5)
    np.testing.assert_array_equal(np.array(dataset.table.to_pandas()).reshape(-1, 4, 5), pixels[::-1])
    Image.new("RGB", (5, 4), (9, 8, 7)).save(tmp_path / "3.png")
    dataset = load(tmp_path)
    assert dataset.grid == (4, 5, 3)
    assert [dataset.table[i][3].as_py() for i in range(3)] == [9, 8, 7]
    classes = tmp_path / "by-class"
    for name in ("cat", "dog"):
        (classes / name).mkdir(parents=True)
        Image.new("L", (2, 2)).save(classes / name / "1.jpg")
    assert load(classes).table["label"].to_pylist() == ["cat", "dog"]


def test_built_in_sets_are_scikit_learns():
    digits = load("digits")
    raw = datasets.load_digits()
    table = digits.table.to_pandas().to_numpy()
    np.testing.assert_array_equal(table, np.column_stack([raw.data, raw.target]))
    assert (digits.grid, digits.kinds) == ((8, 8), {"label": "categorical"})
    for name, target in (("wine", "class_0"), ("breast_cancer", "malignant"), ("diabetes", 151.0)):
        table = load(name).table
        assert table["target"][0].as_py() == target
        own = getattr(datasets, f"load_{name}")(**({"scaled": False} if name == "diabetes" else {}))
        np.testing.assert_array_equal(table.drop_columns(["target"]).to_pandas().to_numpy(), own.data)


def test_what_is_loaded_can_be_loaded_again(csv):
    dataset = load(csv)
    assert load(dataset) == dataset
    again = load(dataset, drop=["city"], kinds={"age": "categorical"})
    assert again.kinds == {"age": "categorical"}
    assert Schema.infer(again)["age"].levels == (29, 31, 45)
    digits = load("digits")
    assert load(digits, drop=["pixel_0_0"]).grid == ()
    assert load(digits, drop=["label"]).grid == (8, 8)


def test_pandas_keeps_index_labels_and_types():
    frame = pd.DataFrame(
        {
            "n": pd.array([1, None, 3], "Int64"),
            "c": pd.Categorical(["u", None, "v"]),
            7: [1.5, 2.5, 3.5],
            "when": pd.to_datetime(["2020-01-01", None, "2020-01-03"]),
        },
        index=["p", "q", "r"],
    )
    dataset = load(frame)
    assert dataset.native == "pandas"
    pd.testing.assert_frame_equal(dataset.restore(dataset.table), frame)
    assert dataset.restore(dataset.table.slice(0, 2)).index.tolist() == [0, 1]
    assert dataset.restore(dataset.table.select(["7"])).columns.tolist() == [7]


def test_polars_lazy_and_mappings():
    frame = pl.DataFrame({"a": [1, 2], "b": ["x", None]}).with_columns(pl.col("b").cast(pl.Categorical))
    dataset = load(frame)
    assert dataset.native == "polars"
    back = dataset.restore(dataset.table)
    assert back.equals(frame)
    assert back.schema == frame.schema
    assert load(frame.lazy()).table["a"].to_pylist() == [1, 2]
    assert load({"a": [1, 2]}).table.equals(pa.table({"a": [1, 2]}))
    assert load(pa.record_batch({"a": [1, 2]})).table.equals(pa.table({"a": [1, 2]}))


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".arrow"])
def test_streaming_equals_loading(tmp_path, suffix):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "x": np.where(rng.random(1003) < 0.1, np.nan, rng.normal(size=1003)),
            # Whole for a while, so that a type guessed from the first rows would be wrong.
            "late": np.where(np.arange(1003) < 700, 1.0, 2.5) * np.arange(1003),
            "w": rng.choice(["a", "b"], 1003),
            "d": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 1000, 1003), "D"),
        }
    )
    path = tmp_path / f"a{suffix}"
    match suffix:
        case ".parquet":
            frame.to_parquet(path, row_group_size=100)
        case ".arrow":
            pa.feather.write_feather(frame, path, chunksize=100)
        case _:
            frame.to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")
    whole = load(path)
    schema = Schema.infer(whole)
    pieces = list(batches(path, size=256))
    assert [piece.num_rows for piece in pieces] == [256, 256, 256, 235]
    expected = schema.encode(whole.table)
    found = [schema.encode(piece) for piece in pieces]
    np.testing.assert_array_equal(np.concatenate([rows.values for rows in found]), expected.values)
    np.testing.assert_array_equal(np.concatenate([rows.observed for rows in found]), expected.observed)
    decoded = [schema.decode(rows.values, like=piece) for rows, piece in zip(found, pieces, strict=True)]
    filled = schema.decode(expected.values, like=whole.table)
    assert pa.concat_tables([t.replace_schema_metadata(None) for t in decoded]).equals(filled)


def test_batches_of_what_is_in_memory():
    frame = pd.DataFrame({"x": range(10)})
    assert [piece["x"].to_pylist() for piece in batches(frame, size=4)] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9],
    ]
    assert sum(piece.num_rows for piece in batches("wine", size=100)) == 178
    with pytest.raises(SettingsError, match="a batch of 0 rows"):
        batches(frame, size=0)


def test_a_bad_cell_in_a_stream_names_its_row(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("x\n" + "".join(f"{i}.5\n" for i in range(50)))
    schema = Schema.infer(load(path))
    path.write_text("x\n" + "".join(f"{i}.5\n" for i in range(30)) + "oops\n")
    *_, last = enumerate(batches(path, size=8))
    with pytest.raises(SchemaError, match=r"a\.csv, column 'x', row 30: 'oops' is not a number"):
        schema.encode(last[1], first_row=8 * last[0], name="a.csv")


def test_split():
    train, rest = split(101, (0.8, 0.2), seed=3)
    assert (len(train), len(rest)) == (81, 20)
    assert sorted([*train, *rest]) == list(range(101))
    np.testing.assert_array_equal(train, split(101, (0.8, 0.2), seed=3)[0])
    assert not np.array_equal(train, split(101, (0.8, 0.2), seed=4)[0])
    assert [len(part) for part in split(10, (0.5, 0.1), seed=0)] == [5, 1]
    with pytest.raises(SettingsError, match="at most 1"):
        split(10, (0.9, 0.2), seed=0)


def test_an_empty_column_is_kept_out_with_a_warning(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("x,y\n1,NA\n2,?\n4,\n")
    with pytest.warns(DataWarning, match=r"a\.csv, column 'y': every cell is missing"):
        schema = Schema.infer(load(path))
    rows = schema.encode(pa.table({"x": [1, 2], "y": ["a", None]}))
    assert rows.observed.all()
    assert schema.decode(rows.values)["y"].null_count == 2


def test_a_dataset_is_a_table_with_a_name():
    dataset = Dataset(pa.table({"x": [1, 2]}), "own")
    assert (len(dataset), dataset.restore(dataset.table)) == (2, dataset.table)


def test_real_data(shared_data):
    mnist = load(shared_data / "mnist.npz")
    assert (len(mnist), mnist.grid, mnist.table.num_columns) == (60_000, (28, 28), 785)
    test = load(f"{shared_data}/mnist.npz::test")
    assert len(test) == 10_000
    for path in sorted((shared_data / "adbench").glob("*.npz")):
        if path.stat().st_size < 300_000:
            schema = Schema.infer(load(path), "label")
            rows = schema.encode(load(path).table)
            assert np.isfinite(rows.values).all()
            assert rows.observed.all()


def test_a_part_of_a_table_of_images_is_a_table_of_images(tmp_path):
    table = load("digits").table
    assert load(table.slice(5, 40).drop_columns(["label"])).grid == (8, 8)
    assert load(table.take([3, 1, 2])).grid == (8, 8)
    pq.write_table(table, tmp_path / "digits.parquet")
    assert load(tmp_path / "digits.parquet").grid == (8, 8)
    for other in (
        table.drop_columns(["pixel_3_3"]),
        table.select(["label", *table.column_names[:64]]),
        table.select(table.column_names[:8]),
    ):
        assert load(other).grid == ()


def test_a_pixel_that_showed_two_grey_levels_is_a_number_as_the_others_are():
    shades = np.arange(8 * 4).reshape(8, 2, 2) % 7
    shades[:, 0, 0] = np.arange(8) % 2
    columns = Schema.infer(load(shades)).columns
    assert {column.kind for column in columns} == {"integer"}
    asked = Schema.infer(load(shades, kinds={"pixel_0_0": "binary"})).columns
    assert asked[0].kind == "binary"
    assert {column.kind for column in Schema.infer(load(shades % 2)).columns} <= {"binary", "constant"}
