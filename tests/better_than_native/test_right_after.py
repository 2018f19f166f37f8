"""What an app says about a trace right after the request: behind the trace, without a server."""

import mlflow
import pytest

from tests.better_than_native.account import wait_until
from tests.better_than_native.programs.request_path import CASES
from tests.better_than_native.stub import stub_server

pytestmark = [pytest.mark.kafka, pytest.mark.mlflow]

BOTH_BRIDGES = pytest.mark.parametrize("accelerate", [True, False])

MISSING = "RESOURCE_DOES_NOT_EXIST"


def arrived(client, trace_id):
    """The trace once all that was said of it is there."""
    found = None

    def is_whole():
        nonlocal found
        try:
            found = client.get_trace(trace_id)
        except mlflow.MlflowException:
            return False
        return len(found.info.assessments) == 2 and "reviewed" in found.info.tags

    assert wait_until(is_whole, 150), found
    return found


def assert_whole(trace):
    by_name = {one.name: one for one in trace.info.assessments}
    assert by_name["helpful"].value is True
    assert by_name["helpful"].rationale == "yes"
    assert by_name["helpful"].source.source_id == "user-1"
    assert by_name["expected"].value == {"answer": 42}
    assert trace.info.tags["reviewed"] == "yes"
    assert "passing" not in trace.info.tags
    assert [span.name for span in trace.data.spans] == ["root"]


def test_feedback_expectation_and_tags_right_after_the_request(native, line, note):
    alone = native.run("right_after", native.new_experiment())
    note(f"native: {alone['outcomes']}")
    # Tags of a trace that MLflow still holds in memory are changed there, for at most 5 s.
    assert alone["outcomes"]["feedback"] == alone["outcomes"]["expectation"] == MISSING

    ferried = line.run("right_after", line.new_experiment())
    assert set(ferried["outcomes"].values()) == {"ok"}
    assert_whole(arrived(mlflow.MlflowClient(line.tracking_uri), ferried["trace_id"]))


@BOTH_BRIDGES
def test_the_request_path_asks_no_tracking_server(line, accelerate):
    """Whatever a request may do with MLflow's API, `set_experiment` once done before it."""
    experiment = line.new_experiment()
    with stub_server(hangs=True) as stub:
        done = line.run("request_path", experiment, hanging=stub.uri, accelerate=accelerate)
        assert stub.requests == []
    assert done["outcomes"] == dict.fromkeys((case.__name__ for case in CASES), "fine")
    found = line.wait_for(experiment, len(CASES))
    assert sorted(one.number for one in found) == list(range(len(CASES)))


def test_natively_the_request_path_does_ask(native, note):
    """The stub sees what is asked, or the test above could not fail."""
    with stub_server(hangs=False) as stub:
        alone = native.run("request_path", native.new_experiment(), hanging=stub.uri)
        note(f"native: {len(stub.requests)} requests, {alone['outcomes']}")
        assert stub.requests


@BOTH_BRIDGES
def test_judging_right_after_the_request_asks_no_tracking_server(line, accelerate):
    """In a process that has never reached it."""
    with stub_server(hangs=True) as stub:
        ferried = line.run(
            "right_after",
            line.new_experiment(),
            tracking_uri=stub.uri,
            set_experiment=False,
            accelerate=accelerate,
        )
        assert set(ferried["outcomes"].values()) == {"ok"}
        assert stub.requests == []
    assert_whole(arrived(mlflow.MlflowClient(line.tracking_uri), ferried["trace_id"]))


def test_feedback_on_a_trace_that_another_process_has_stored(native, line):
    """It can be read and overridden at once, and is in MLflow within seconds."""
    experiment = line.new_experiment()
    native.run("right_after", experiment, tracking_uri=line.tracking_uri, stored=True)
    assert wait_until(lambda: line.stored(experiment), 150)
    [earlier] = line.stored(experiment)

    with stub_server(hangs=True) as stub:
        judged = line.run(
            "judge_earlier",
            line.new_experiment(),
            trace_id=earlier.trace_id,
            tracking_uri=stub.uri,
            set_experiment=False,
        )
        assert stub.requests == []
    assert (judged["value"], judged["overrides"], judged["first_is_valid"]) == (True, True, False)
    client = mlflow.MlflowClient(line.tracking_uri)

    def is_judged():
        info = client.get_trace(earlier.trace_id).info
        valid = {one.value: one.valid for one in info.assessments if one.name == "helpful"}
        return valid == {False: False, True: True} and info.tags.get("reviewed") == "yes"

    assert wait_until(is_judged, 150), client.get_trace(earlier.trace_id).info
