"""mlflow.start_span_no_context: spans whose parents are given by hand."""

import time

import mlflow
from mlflow.entities import SpanStatus

from tests.mlflow_api.registry import program

START = 1_700_000_000_000_000_000
MS = 1_000_000


@program()
def parents_by_hand(stage):
    root = mlflow.start_span_no_context("root", span_type="AGENT", inputs={"q": 1})
    first = mlflow.start_span_no_context("first", parent_span=root, attributes={"n": 1})
    inner = mlflow.start_span_no_context("inner", parent_span=first)
    second = mlflow.start_span_no_context("second", "TOOL", root, [1, 2])
    active = mlflow.get_current_active_span()
    inner.end()
    second.end(outputs="ü")
    first.end(status="ERROR")
    root.end(outputs=[1], attributes={"late": True})
    return {"active": active, "parent": first.parent_id == root.span_id}


@program()
def tags_and_metadata_at_the_start(stage):
    root = mlflow.start_span_no_context(
        "root",
        tags={"team": "search", "mlflow.user": "not mine"},
        metadata={"build": "7", "mlflow.trace.session": "s-1"},
    )
    child = mlflow.start_span_no_context("child", parent_span=root, tags={"of": "the child"})
    child.end()
    root.end()


@program()
def times_by_hand(stage):
    root = mlflow.start_span_no_context("root", start_time_ns=START)
    child = mlflow.start_span_no_context(
        "child", parent_span=root, start_time_ns=START + 5 * MS + 123
    )
    child.end(end_time_ns=START + 20 * MS + 456)
    root.end(end_time_ns=START + 30 * MS + 999_999)
    return [root.start_time_ns, root.end_time_ns, child.start_time_ns, child.end_time_ns]


@program()
def ends_before_it_starts(stage):
    root = mlflow.start_span_no_context("root", start_time_ns=START)
    root.end(end_time_ns=START - 5 * MS)
    return root.end_time_ns - root.start_time_ns


@program()
def experiment_of_a_trace(stage):
    other = stage.experiment("other")
    root = mlflow.start_span_no_context("root", experiment_id=other)
    mlflow.start_span_no_context("child", parent_span=root).end()
    root.end()


@program(since="3.17.2")
def no_context_level_links_description(stage):
    link = mlflow.entities.Link(trace_id="tr-" + "01" * 16, span_id="23" * 8, attributes={"a": "b"})
    root = mlflow.start_span_no_context(
        "root", log_level="WARNING", links=[link], description="by hand"
    )
    root.end(status=SpanStatus("OK"))


@program()
def mixed_with_the_context(stage):
    with mlflow.start_span("outer") as outer:
        root_of_another = mlflow.start_span_no_context("another trace")
        child = mlflow.start_span_no_context("child", parent_span=outer)
        with mlflow.start_span("inside"):
            pass
        child.end()
        root_of_another.end()
    return root_of_another.trace_id == outer.trace_id


@program()
def child_outlives_its_root(stage):
    with mlflow.start_span("root") as root:
        child = mlflow.start_span_no_context("child", parent_span=root)
        time.sleep(0.002)
    time.sleep(0.02)
    child.end(outputs="late")


@program()
def child_starts_after_its_root_ended(stage):
    with mlflow.start_span("root") as root:
        pass
    child = mlflow.start_span_no_context("late child", parent_span=root)
    child.end()
    return type(child).__name__


@program()
def child_that_never_ends(stage):
    with mlflow.start_span("root") as root:
        mlflow.start_span_no_context("forgotten", parent_span=root)
        with mlflow.start_span("remembered"):
            pass


@program()
def root_that_never_ends(stage):
    root = mlflow.start_span_no_context("root")
    mlflow.start_span_no_context("child", parent_span=root).end()


@program()
def child_of_nothing(stage):
    with mlflow.tracing.context(enabled=False):
        nothing = mlflow.start_span_no_context("nothing")
    child = mlflow.start_span_no_context("child", parent_span=nothing)
    grandchild = mlflow.start_span_no_context("grandchild", parent_span=child)
    for span in (grandchild, child, nothing):
        span.end()
    return [type(span).__name__ for span in (nothing, child, grandchild)]
