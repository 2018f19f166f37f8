"""Which traces go, in MLflow's words and in ours, and how many at a time."""

import pytest

from spanferry_worker.stages.retention import DeletionPace, Experiment, Selection, files_folder
from tests.worker.retention.double import stored


def test_the_condition_says_what_mlflow_can_be_asked() -> None:
    assert Selection(before_ms=9).condition() == "timestamp_ms < 9"
    one = Selection(before_ms=9, states=("ERROR",), tags=(("env", "dev"), ("a.b-c", "x y")))
    assert one.condition(from_ms=3) == (
        "timestamp_ms < 9 AND timestamp_ms >= 3 AND status = 'ERROR' AND tags.`env` = 'dev' "
        "AND tags.`a.b-c` = 'x y'"
    )
    two = Selection(before_ms=9, states=("OK", "ERROR"), tags=(("mlflow.traceName", "ping"),))
    assert two.condition() == (
        "timestamp_ms < 9 AND status IN ('OK', 'ERROR') AND tags.`mlflow.traceName` = 'ping'"
    )
    assert one.is_exact
    assert two.is_exact


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "x"),  # MLflow takes it for the trace's name
        ("Run_ID", "x"),
        ("text", "x"),
        ("mlflow.linkedPrompts", "[]"),
        ("a`b", "x"),
        ("a b", "x"),
        ("k", "it's"),
        ("k", 'say "it"'),
        ("k", "a\\b"),
        ("k", "line\nbreak"),
        ("k", ""),
    ],
)
def test_what_that_language_cannot_say_is_left_to_us(key: str, value: str) -> None:
    selection = Selection(before_ms=9, tags=((key, value),))
    assert selection.condition() == "timestamp_ms < 9"
    assert not selection.is_exact
    assert selection.matches(stored(1, tags={key: value}))
    assert not selection.matches(stored(1, tags={key: value + "!"}))
    assert not selection.matches(stored(1))


def test_all_that_is_given_must_fit() -> None:
    selection = Selection(before_ms=9, states=("OK", "ERROR"), tags=(("a", "1"), ("b", "2")))
    both = {"a": "1", "b": "2", "c": "3"}
    assert selection.matches(stored(8, tags=both))
    assert not selection.matches(stored(9, tags=both)), "it did not start before"
    assert not selection.matches(stored(8, tags=both, state="IN_PROGRESS"))
    assert not selection.matches(stored(8, tags={"a": "1"}))
    assert not selection.matches(stored(8, tags={"a": "1", "b": "3"}))


def test_what_is_kept_is_not_found_by_mlflow() -> None:
    selection = Selection(before_ms=9, keep_tags=(("keep", None), ("tier", "gold")))
    assert not selection.is_exact
    assert selection.keeps(stored(1, tags={"keep": ""}))
    assert selection.keeps(stored(1, tags={"tier": "gold"}))
    assert not selection.keeps(stored(1, tags={"tier": "tin"}))
    assert not selection.keeps(stored(1, assessed=True))
    assert Selection(before_ms=9, keep_assessed=True).keeps(stored(1, assessed=True))
    assert not Selection(before_ms=9, keep_assessed=True).is_exact


def test_batches_begin_small_and_grow_while_they_are_fast() -> None:
    pace = DeletionPace(100, 0.2)
    sizes = []
    for _ in range(5):
        sizes.append(pace.size)
        assert pace.took(0.01, pace.size) == 0.2
    assert sizes == [10, 20, 40, 80, 100]
    assert DeletionPace(3, 0).size == 3


def test_batches_shrink_where_they_are_slow_and_leave_as_much_time_to_others() -> None:
    pace = DeletionPace(100, 0.2)
    for _ in range(4):
        pace.took(0.0, pace.size)
    assert pace.took(4.0, 100) == 4.0
    assert pace.size == 25
    pace.took(0.7, 25)
    assert pace.size == 25, "between half of the goal and all of it it stays"
    pace.took(0.1, 5)
    assert pace.size == 25, "the rest of a page says nothing of a full batch"
    pace.failed()
    assert pace.size == 12
    pace.took(1000.0, 12)
    assert pace.size == 1
    pace.failed()
    assert pace.size == 1


PLACE = Experiment("7", "shop", "s3://bucket/mlflow/7")


def test_files_lie_below_the_experiments_own() -> None:
    trace = stored(
        1,
        tags={
            "mlflow.artifactLocation": f"{PLACE.artifact_location}/traces/{stored(1).trace_id}/artifacts"
        },
    )
    assert files_folder(PLACE, trace) == f"s3://bucket/mlflow/7/traces/{trace.trace_id}"
    assert files_folder(PLACE, stored(1)) is None


@pytest.mark.parametrize(
    "location",
    [
        "s3://bucket/mlflow/8/traces/{id}/artifacts",
        "s3://bucket/mlflow/7/traces/tr-other/artifacts",
        "s3://bucket/mlflow/7/traces/{id}",
        "s3://bucket/mlflow/7/x/traces/{id}/artifacts",
        "s3://bucket/mlflow/7/traces/{id}/../../artifacts",
        "s3://bucket/mlflow/77/traces/{id}/artifacts",
        "file:///etc",
        "/artifacts",
    ],
)
def test_no_other_folder_is_taken_for_a_traces_own(location: str) -> None:
    given = location.format(id=stored(1).trace_id)
    trace = stored(1, tags={"mlflow.artifactLocation": given})
    with pytest.raises(ValueError, match="which is not where the experiment keeps"):
        files_folder(PLACE, trace)
    with pytest.raises(ValueError, match="unknown"):
        files_folder(Experiment("7", "shop"), trace)
