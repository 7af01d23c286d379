"""Ray Data, started here with two processors, answers what the direct path answers."""

import pyarrow as pa
import pytest

from engines.compare import CASES, assert_same
from thalweg.distributed import Answers
from thalweg.errors import SettingsError

pytest.importorskip("ray", reason="Ray is not installed: make test-engines installs it")
# Ray's own warnings are not ours to mend.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def ray():
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield ray
    ray.shutdown()


def answers(ray, rows, model, question, **options):
    """In four blocks, by two actors, batches of 50 rows."""
    return ray.get(
        ray.data.from_arrow(rows)
        .repartition(4)
        .map_batches(
            Answers,
            fn_constructor_args=(model, question),
            fn_constructor_kwargs=options,
            batch_format="pyarrow",
            batch_size=50,
            compute=ray.data.ActorPoolStrategy(size=2),
            num_cpus=0.5,  # two whole ones would leave none for reading
        )
        .to_arrow_refs()
    )


@pytest.mark.parametrize("question", CASES)
def test_the_answers_are_those_of_the_direct_path(question, ray, model, rows, direct):
    options, by = CASES[question]
    found = pa.concat_tables(answers(ray, rows, model, question, keep=["id"], **options))
    assert_same(found, direct(question, **options), by)


def test_draws_differ_between_batches_and_not_between_runs(ray, model, rows):
    holes = rows.drop_columns(["id"]).set_column(0, "alcohol", pa.nulls(rows.num_rows, pa.float64()))
    runs = [pa.concat_tables(answers(ray, holes, model, "complete", n=2, seed=1)) for _ in range(2)]
    draws = [run["alcohol"].to_pylist() for run in runs]
    assert len(set(draws[0])) == 2 * rows.num_rows
    assert sorted(draws[0]) == sorted(draws[1])


def test_a_wrong_question_is_named_before_any_row_is_read(model):
    with pytest.raises(SettingsError, match="no question about rows is called 'scroe'"):
        Answers(model, "scroe")
