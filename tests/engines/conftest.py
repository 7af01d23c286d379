"""A model and rows that the engines are asked about, and what the direct path answers."""

import os
import sys

import pyarrow as pa
import pyarrow.compute as pc
import pytest

import thalweg
from mixed import mixed_table

# Read when an engine starts its workers, which must find this Python, stay on this machine and report to nobody.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A model's directory."""
    place = tmp_path_factory.mktemp("engines") / "m"
    thalweg.fit(mixed_table(), "gmm", components=2, target="cultivar", progress=False).save(place)
    return str(place)


@pytest.fixture(scope="session")
def rows():
    """Rows with numbers, counts, words, dates and holes, named by `id`, which the model does not know."""
    mixed = mixed_table()
    # Not the rows that calibrate: a p-value counts ties, which the last digit of an energy decides.
    mixed = mixed.set_column(0, "alcohol", pc.add(pc.multiply(mixed["alcohol"], 0.99), 0.13))
    return mixed.add_column(0, "id", pa.array(range(mixed.num_rows)))


@pytest.fixture(scope="session")
def direct(model, rows):
    """`direct(question, **options)`: the answers of this process about all rows at once, with their `id`."""
    loaded = thalweg.load(model)

    def ask(question, **options):
        keep = [] if question == "complete" else ["id"]
        data = rows.drop_columns(["id"]) if question == "complete" else rows
        [answer] = thalweg.answer_batches(loaded, question, [data], keep=keep, **options)
        return answer.add_column(0, "id", rows["id"]) if question == "complete" else answer

    return ask
