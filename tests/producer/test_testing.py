"""capture(): what users' tests see is what would be sent."""

import pytest

import spanferry
from spanferry import outlet
from spanferry.settings import Settings
from spanferry.testing import capture

pytestmark = pytest.mark.usefixtures("unsaid")


def test_inside_spanferry_is_enabled_and_afterwards_as_before() -> None:
    assert outlet.current() is None
    with capture() as outer:
        with capture() as inner:
            assert outlet.current() is inner
        assert outlet.current() is outer
    assert outlet.current() is None


def test_the_traces_as_the_worker_reads_them() -> None:
    @spanferry.trace(span_type="TOOL")
    def double(a: int) -> int:
        return 2 * a

    settings = Settings(bootstrap_servers="none:1", experiment="mine")
    with capture(settings) as captured:
        with spanferry.start_span("first") as first:
            double(2)
            spanferry.log_feedback(trace_id=first.trace_id, value="good")
        with pytest.raises(ValueError), spanferry.start_span("second"):
            raise ValueError("wrong")
        open_one = spanferry.start_span_no_context("open")
        spanferry.start_span_no_context("child", parent_span=open_one).end()
    one, two = captured.traces
    assert [span.name for span in one.spans] == ["first", "double"]
    assert (one.root.name, one.name, one.state, one.complete) == ("first", "first", "OK", True)
    assert (one.trace_id, one.part.experiment) == (first.trace_id, "mine")
    double_span = one.span("double")
    assert (double_span.inputs, double_span.outputs) == ({"a": 2}, 4)
    assert double_span.attributes["mlflow.spanFunctionName"] == "double"
    assert double_span.parent_id == one.root.span_id
    assert (two.state, two.root.status.description) == ("ERROR", "ValueError: wrong")
    assert [judged.value for judged in captured.assessments] == ["good"]
    with pytest.raises(LookupError, match="no span 'third' among"):
        one.span("third")
    captured.clear()
    assert (captured.traces, captured.assessments) == ([], [])
    open_one.end()
    (last,) = captured.traces
    assert last.complete


def test_a_trace_of_which_only_a_part_has_come() -> None:
    settings = Settings(bootstrap_servers="none:1", fragment_age_s=1e-9)
    with capture(settings) as captured, spanferry.start_span("root"):
        with spanferry.start_span("child"):
            pass
        (trace,) = captured.traces
        assert (trace.complete, trace.state, trace.root.name) == (False, "IN_PROGRESS", "child")
