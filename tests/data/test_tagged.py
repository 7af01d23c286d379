"""Sequences of rows: the column that tells them apart, words, files of tagged text, and packing."""

import gzip

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import thalweg
from thalweg.data.dataset import Dataset
from thalweg.data.packing import gathered, lengths_of, pack, scattered, separate
from thalweg.data.schema import Schema
from thalweg.data.tagged import shape
from thalweg.errors import DataError, SettingsError

CONLL = """# a comment
The DT B-NP
cats NNS I-NP

# another
sat VBD O
"""
UNIVERSAL = """# sent_id = 1
1-2\tdo\t_\t_\t_\t_\t_\t_\t_\t_
1\tde\tde\tADP\t_\t_\t_\t_\t_\t_
2\to\to\tDET\t_\t_\t_\t_\t_\t_
2.1\tx\tx\tX\t_\t_\t_\t_\t_\t_

1\tSim\tsim\tINTJ\t_\t_\t_\t_\t_\t_
"""


def write(path, text):
    path.write_text(text)
    return path


def test_conll_is_a_row_a_word(tmp_path):
    dataset = thalweg.data.load(write(tmp_path / "a.conll", CONLL))
    table = dataset.table
    assert table["sentence"].to_pylist() == [0, 0, 1]
    assert table["word"].to_pylist() == ["The", "cats", "sat"]
    assert table["lower"].to_pylist() == ["the", "cats", "sat"]
    assert table["prefix3"].to_pylist() == [None, "cat", None]
    assert table["suffix1"].to_pylist() == ["e", "s", "t"]
    assert table["column2"].to_pylist() == ["DT", "NNS", "VBD"]
    assert table["tag"].to_pylist() == ["B-NP", "I-NP", "O"]
    assert dataset.kinds["sentence"] == "sequence"
    assert dataset.kinds["word"] == "word"


def test_the_other_forms_of_tagged_text(tmp_path):
    universal = thalweg.data.load(write(tmp_path / "a.conllu", UNIVERSAL)).table
    assert universal["word"].to_pylist() == ["de", "o", "Sim"]
    assert universal["tag"].to_pylist() == ["ADP", "DET", "INTJ"]
    assert universal["sentence"].to_pylist() == [0, 0, 1]
    with gzip.open(tmp_path / "b.tagged.gz", "wt") as file:
        file.write("1/2/NUM cups/NOUN\n\n./.\n")
    slashed = thalweg.data.load(tmp_path / "b.tagged.gz").table
    assert slashed["word"].to_pylist() == ["1/2", "cups", "."]
    assert slashed["tag"].to_pylist() == ["NUM", "NOUN", "."]
    assert slashed["sentence"].to_pylist() == [0, 0, 1]


@pytest.mark.parametrize(("name", "text"), [("a.conll", "the\ncat\n\nyes\n"), ("a.tagged", "the cat\nyes\n")])
def test_text_without_tags_is_words_alone(tmp_path, name, text):
    """What is to be labelled."""
    found = thalweg.data.load(write(tmp_path / name, text))
    assert found.table["word"].to_pylist() == ["the", "cat", "yes"]
    assert found.table["sentence"].to_pylist() == [0, 0, 1]
    assert "tag" not in found.table.column_names
    assert "tag" not in found.kinds


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.conll", "a X\nb\n", "line 2: 1 columns where the first word has 2"),
        ("a.conllu", "1\ta\tX\n", "line 1: 3 columns where CoNLL-U has 10"),
        ("a.tagged", "a/X b/\n", "line 1: 'b/' is no word with a tag"),
        ("a.tagged", "a/X b\n", "line 1: 'b' is no word with a tag"),
        ("a.conll", "# nothing\n", "has no words"),
    ],
)
def test_text_that_is_not_tagged(tmp_path, name, text, says):
    with pytest.raises(DataError, match=says):
        thalweg.data.load(write(tmp_path / name, text))


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "a.conll").write_bytes(b"a X\n\xff\xfe Y\n")
    with pytest.raises(DataError, match="is not UTF-8 text"):
        thalweg.data.load(tmp_path / "a.conll")


def test_the_shape_of_a_word():
    assert [shape(w) for w in ("McDonald's", "1999", "U.S.", "Élan")] == ["XxXxx'x", "00", "X.X.", "Xxx"]


def test_arrays_with_offsets_are_sequences(tmp_path):
    x, y = np.arange(24).reshape(6, 2, 2), np.array([0, 1, 1, 0, 1, 0])
    np.savez(tmp_path / "words.npz", images=x, labels=y, word_offsets=np.array([0, 2, 5, 6]))
    dataset = thalweg.data.load(tmp_path / "words.npz")
    assert dataset.table["sequence"].to_pylist() == [0, 0, 1, 1, 1, 2]
    assert dataset.grid == (2, 2)
    np.savez(tmp_path / "bad.npz", x=x, y=y, offsets=np.array([0, 7]))
    with pytest.raises(DataError, match="the offsets do not cut 6 rows into sequences"):
        thalweg.data.load(tmp_path / "bad.npz")


def words(**changed) -> Dataset:
    columns = {"of": [1, 1, 2, 2, 2], "word": ["a", "b", "a", "a", "b"], "tag": ["x", "y", "x", "x", "y"]}
    kinds = {"of": "sequence", "word": "word", "tag": "categorical"}
    return Dataset(pa.table(columns | changed), "words", kinds=kinds)


def test_a_sequence_column_is_in_no_code():
    schema = Schema.infer(words())
    rows = schema.encode(words().table)
    assert schema.space.names == ("word", "tag")
    assert rows.sequence.tolist() == [0, 0, 1, 1, 1]
    assert rows[rows.values[:, 0] == 0].sequence.tolist() == [0, 1, 1]
    again = Schema.from_dict(schema.to_dict())
    assert again == schema
    back = schema.decode(rows.values, sequence=rows.sequence)
    assert back["of"].to_pylist() == [0, 0, 1, 1, 1]
    assert schema.decode(rows.values, like=words().table)["of"].to_pylist() == [1, 1, 2, 2, 2]


def test_rare_words_are_as_missing():
    schema = Schema.infer(words(word=["a", "b", "a", "c", "b"]))
    rows = schema.encode(words(word=["a", "b", "z", "c", None]).table)
    assert schema["word"].levels == ("a", "b")
    assert rows.observed[:, 0].tolist() == [True, True, False, False, False]
    assert rows.unseen.sum() == 0


def test_what_tells_no_sequences_apart():
    with pytest.raises(DataError, match="row 4: 1 comes up a second time, apart from its other rows"):
        Schema.infer(words(of=[1, 1, 2, 2, 1]))
    with pytest.raises(DataError, match="row 1: the cell is empty"):
        Schema.infer(words(of=[1, None, 2, 2, 2]))
    assert Schema.infer(words(word=list("abcde")))["word"].kind == "constant"
    with pytest.raises(DataError, match="one column tells sequences apart"):
        Schema.infer(
            Dataset(
                words(tag=list("xxyyy")).table,
                "words",
                kinds={"of": "sequence", "tag": "sequence", "word": "word"},
            )
        )
    with (
        pytest.raises(SettingsError, match="'word' is of words, and recipe 'orderless' needs few categories"),
        pytest.warns(thalweg.errors.DataWarning, match="sees each row by itself"),
    ):
        thalweg.fit(words(), "orderless", progress=False)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=30))
def test_every_element_stands_in_one_place_beside_its_own(lengths):
    lengths = np.array(lengths)
    number = np.repeat(np.arange(len(lengths)) * 3, lengths)
    np.testing.assert_array_equal(lengths_of(number), lengths)
    for packed in (pack(lengths), separate(lengths)):
        assert sorted(packed.place[packed.mask]) == list(range(lengths.sum()))
        assert packed.starts.sum() == len(lengths)
        assert not (packed.starts & ~packed.mask).any()
        values = np.arange(lengths.sum()) + 1
        np.testing.assert_array_equal(scattered(gathered(values, packed), packed, len(values)), values)
        for row, starts in zip(packed.place, packed.starts, strict=True):
            # Elements follow each other but where a sequence starts.
            inside = (row[1:] >= 0) & ~starts[1:]
            assert (np.diff(row)[inside] == 1).all()
            begins = row[starts]
            assert set(begins) <= set(np.cumsum(lengths) - lengths)


def test_packing_wastes_little():
    lengths = np.random.default_rng(0).geometric(0.05, 2000)
    packed = pack(lengths, 256)
    assert packed.mask.mean() > 0.97
