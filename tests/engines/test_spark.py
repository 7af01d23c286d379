"""Spark, started here with two threads, answers what the direct path answers."""

import shutil

import pyarrow as pa
import pytest

from engines.compare import CASES, assert_same
from thalweg.distributed import in_arrow
from thalweg.errors import SchemaError, SettingsError

pytest.importorskip("pyspark", reason="Spark is not installed: make test-engines installs it")
# Spark's own warnings are not ours to mend.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java, and there is none"),
]


@pytest.fixture(scope="module")
def spark():
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    builder = builder.config("spark.driver.bindAddress", "127.0.0.1").config("spark.driver.host", "127.0.0.1")
    session = builder.config("spark.sql.execution.arrow.maxRecordsPerBatch", "50").getOrCreate()
    session.sparkContext.setLogLevel("OFF")
    yield session
    session.stop()


@pytest.fixture(scope="module")
def frame(spark, rows):
    return spark.createDataFrame(rows).repartition(3, "id")


def answers(frame, model, question, **options):
    return frame.mapInArrow(*in_arrow(model, question, frame.schema, **options)).toArrow()


@pytest.mark.parametrize("question", CASES)
def test_the_answers_are_those_of_the_direct_path(question, frame, model, direct):
    options, by = CASES[question]
    assert_same(answers(frame, model, question, keep=["id"], **options), direct(question, **options), by)


def test_holes_are_filled_in_every_type(frame, model, direct):
    found = answers(frame.drop("id"), model, "complete")
    expected = direct("complete").drop_columns(["id"])
    assert found.num_rows == expected.num_rows
    assert_same(found, expected.select(found.column_names), found.column_names)


def test_draws_differ_between_partitions_and_not_between_runs(spark, model, rows):
    same = rows.drop_columns(["id"]).slice(0, 1).set_column(0, "alcohol", pa.nulls(1, pa.float64()))
    frame = spark.createDataFrame(pa.concat_tables([same] * 8)).repartition(4)
    runs = [sorted(answers(frame, model, "complete", n=2, seed=1)["alcohol"].to_pylist()) for _ in range(2)]
    assert len(set(runs[0])) == 16
    assert runs[0] == runs[1]


def test_an_empty_partition_has_no_answers(spark, model, rows):
    frame = spark.createDataFrame(rows.slice(0, 1)).repartition(2)
    assert answers(frame, model, "score", alpha=0.1, keep=["id"]).num_rows == 1


@pytest.mark.parametrize(
    ("question", "options", "error", "said"),
    [
        ("scroe", {}, SettingsError, "no question about rows is called 'scroe'"),
        ("score", {"alhpa": 0.1}, SettingsError, "score has no option 'alhpa'"),
        ("score", {"keep": ["name"]}, SchemaError, "the rows have no column 'name'"),
    ],
)
def test_what_cannot_be_asked_is_named_before_a_job_starts(question, options, error, said, frame, model):
    with pytest.raises(error, match=said):
        in_arrow(model, question, frame.schema, **options)
