"""One question put to batches of rows: the answers of the whole table, in order, and one batch at a time."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import thalweg
from mixed import mixed_table
from thalweg.asking import ANSWERS, Question, seed_of
from thalweg.errors import DataError, SchemaError, SettingsError


@pytest.fixture(scope="module")
def table():
    """Numbers, counts, words, dates and holes, and a name for each row; none of the rows that calibrate.

    (A p-value counts ties, and the energy of the same row differs in its last digit from one batch to another.)
    """
    mixed = mixed_table()
    inside = pc.add(pc.multiply(mixed["alcohol"], 0.99), 0.13)
    mixed = mixed.set_column(0, "alcohol", inside)
    return mixed.add_column(0, "id", pa.array([f"w{i}" for i in range(mixed.num_rows)]))


@pytest.fixture(scope="module")
def rows(table):
    return table.drop_columns(["id"])


@pytest.fixture(scope="module")
def model():
    return thalweg.fit(mixed_table(), "gmm", components=2, target="cultivar", progress=False)


def pieces(table, size=70):
    return [table.slice(start, size) for start in range(0, table.num_rows, size)]


WHOLE = {
    "energy": lambda m, rows: pa.table({"energy": m.energy(rows)}),
    "score": lambda m, rows: m.score(rows, alpha=0.1).to_table(),
    "complete": lambda m, rows: m.complete(rows),
    "denoise": lambda m, rows: m.denoise(rows, noise=0.2),
    "predict": lambda m, rows: m.predict(rows, target="hue").to_table(),
    "rank": lambda m, rows: m.rank(rows, {"hue": [0.5, 1.0]}).to_table(),
    "explain": lambda m, rows: m.explain(rows).to_table(top=2),
    "encode": lambda m, rows: m.encode(rows).to_table(),
}
OPTIONS = {
    "score": {"alpha": 0.1},
    "denoise": {"noise": 0.2},
    "predict": {"target": "hue"},
    "rank": {"candidates": {"hue": [0.5, 1.0]}},
    "explain": {"top": 2},
}


#: The others compile for seconds each.
QUICK = ("energy", "score")
EACH = [q if q in QUICK else pytest.param(q, marks=pytest.mark.slow) for q in WHOLE]


def test_every_question_is_compared():
    # Of the others this model has no embedding (tests/questions/test_retrieve.py), no sequences (test_sequences.py) and
    # no windows (test_detect.py).
    assert (
        {*WHOLE, "retrieve", "label"}
        == set(ANSWERS)
        == set(thalweg.questions.QUESTIONS) - {"sample", "detect"}
    )


@pytest.mark.parametrize("question", EACH)
def test_the_answers_to_pieces_are_those_of_the_whole(question, model, rows):
    found = pa.concat_tables(
        thalweg.answer_batches(model, question, pieces(rows), **OPTIONS.get(question, {}))
    )
    expected = WHOLE[question](model, rows)
    assert found.column_names == expected.column_names
    for name in expected.column_names:
        got, want = found[name].to_pylist(), expected[name].to_pylist()
        if isinstance(want[0], float):
            np.testing.assert_allclose(np.array(got, float), np.array(want, float), rtol=1e-5, atol=1e-5)
        else:
            assert got == want


def test_nothing_is_read_before_it_is_asked_for(model, rows):
    taken = []

    def watched():
        for piece in pieces(rows):
            taken.append(piece.num_rows)
            yield piece

    answers = thalweg.score_batches(model, watched(), alpha=0.1)
    assert taken == []
    assert next(answers).num_rows == 70
    assert taken == [70]


def test_record_batches_are_answered_by_record_batches(model, rows):
    batches = rows.combine_chunks().to_batches(max_chunksize=70)
    answers = list(thalweg.score_batches(model, batches, alpha=0.1))
    assert all(isinstance(answer, pa.RecordBatch) for answer in answers)
    assert pa.Table.from_batches(answers)["flag"].to_pylist() == model.score(rows, alpha=0.1).flag.tolist()


@pytest.mark.parametrize("question", EACH)
def test_no_rows_have_an_answer_with_the_same_columns(question, model, rows):
    asked = Question(question, OPTIONS.get(question, {}))
    # Engines say of some columns that they have no missing cells.
    strict = pa.schema([field.with_nullable(False) for field in rows.schema])
    empty = asked.answer(model, strict.empty_table())
    assert empty.num_rows == 0
    one = asked.answer(model, rows.slice(0, 5))
    assert empty.column_names == one.column_names
    one.replace_schema_metadata(None).cast(empty.schema)


@pytest.mark.parametrize(("question", "lines"), [("score", 1), ("rank", 2)])
def test_kept_columns_stand_beside_their_answers(question, lines, model, table):
    answers = thalweg.answer_batches(model, question, pieces(table), keep=["id"], **OPTIONS[question])
    found = pa.concat_tables(answers)
    assert found.column_names[0] == "id"
    assert found["id"].to_pylist() == [f"w{i}" for i in range(table.num_rows) for _ in range(lines)]


def test_draws_of_a_row_stay_with_what_is_kept(model, rows):
    found = Question("complete", {"n": 3}, ()).answer(model, rows.slice(0, 4))
    assert [*found["hue"]] == [value for value in rows["hue"].slice(0, 4) for _ in range(3)]


def test_two_pieces_never_share_their_draws_and_every_run_draws_the_same(model, rows):
    same = rows.slice(0, 2).set_column(0, "alcohol", pa.nulls(2, pa.float64()))
    first, again = (
        pa.concat_tables(thalweg.answer_batches(model, "complete", [same, same], n=2, seed=3))
        for _ in range(2)
    )
    assert len(set(first["alcohol"].to_pylist())) == 8
    assert first.equals(again)
    assert seed_of(3, 2) != seed_of(3, 1) != seed_of(4, 1)


@pytest.mark.parametrize(
    ("question", "options", "error", "said"),
    [
        ("scroe", {}, SettingsError, "no question about rows is called 'scroe': did you mean 'score'"),
        ("sample", {}, SettingsError, "no question about rows is called 'sample': there are energy, score"),
        ("score", {"aplha": 1}, SettingsError, "score has no option 'aplha': did you mean 'alpha'"),
        ("energy", {"alpha": 1}, SettingsError, "energy has no option 'alpha': there are none"),
        ("energy", {"keep": ["di"]}, SchemaError, "the rows have no column 'di': there are id, alcohol"),
        (
            "complete",
            {"keep": ["id", "hue"]},
            SettingsError,
            "answers of complete have a column 'hue' of their own",
        ),
        ("score", {"alpha": 2.0}, SettingsError, "alpha is a false-alarm rate between 0 and 1"),
    ],
)
def test_what_cannot_be_asked_is_named(question, options, error, said, model, table, rows):
    with pytest.raises(error, match=said):
        list(thalweg.answer_batches(model, question, [table if "keep" in options else rows], **options))


def test_an_error_in_a_later_piece_says_where_it_begins(model, rows):
    good = rows.slice(0, 3)
    bad = good.set_column(1, "hue", pa.array(["1.0", "blue", "1.0"]))
    with pytest.raises(DataError, match=r"hue.*\(in the piece of the data that begins at row 3\)"):
        list(thalweg.answer_batches(model, "energy", [good, bad]))


def test_settings_tell_questions_apart():
    assert Question("score").settings == Question("score", {"alpha": 0.01}).settings
    candidates = [
        Question("rank", {"candidates": {"hue": values}}).settings for values in ([1.0], [2.0], [1.0])
    ]
    assert candidates[0] == candidates[2] != candidates[1]
