"""MLFLOW_TRACE_TIMEOUT_SECONDS: overdue traces are ended as errors."""

from pathlib import Path

import mlflow

from spanferry.bridge.timeouts import end_overdue
from spanferry.bridge.traces import OPEN
from spanferry.testing import capture
from tests.bridge.programs import run

SECOND = 1_000_000_000


def test_only_what_is_overdue(captured: capture) -> None:
    old = mlflow.start_span_no_context("old")
    mlflow.start_span_no_context("child", parent_span=old)
    young = mlflow.start_span_no_context("young")
    opened_ns = {trace.mlflow_id: trace.opened_ns for trace in OPEN.all()}
    now_ns = opened_ns[young.trace_id]
    OPEN.get(old.trace_id).opened_ns = now_ns - 3 * SECOND
    end_overdue(2.0, now_ns)
    [trace] = captured.traces
    assert (trace.name, trace.state) == ("old", "ERROR")
    assert "timed out after 2.0 seconds" in trace.root.events[0].attributes["exception.message"]
    young.end()
    assert [trace.state for trace in captured.traces] == ["ERROR", "OK"]
    OPEN.get(old.trace_id).span_dict.clear()
    OPEN.traces.pop(old.trace_id)


def test_the_variable(tmp_path: Path, accelerate: bool) -> None:
    """A thread looks, ends the trace as an error, and goes when the bridge does."""
    done = run("overdue", tmp_path, {"MLFLOW_TRACE_TIMEOUT_SECONDS": "1"}, accelerate=accelerate)
    assert done["looking"] == ["spanferry-timeouts"]
    assert done["left"] == []
    assert done["traces"] == {
        "in time": ["OK", ["in time"]],
        "stuck": ["ERROR", ["step", "stuck"]],
        "afterwards": ["OK", ["afterwards"]],
    }
    [message] = done["messages"]
    assert "timed out after 1 seconds" in message
    assert done["ends"] == 3
