"""What an app can read: of a span while it is open, of a finished one, of one that is none."""

import asyncio
import copy
import json
import pickle
import threading

import mlflow
from mlflow.entities import LiveSpan, NoOpSpan, Span, SpanEvent

from tests.mlflow_api.registry import program


def seen(span):
    """All that a span shows of itself."""
    return {
        "name": span.name,
        "type": span.span_type,
        "inputs": span.inputs,
        "outputs": span.outputs,
        "attributes": span.attributes,
        "status": str(span.status),
        "events": [(event.name, event.attributes) for event in span.events],
        "parent": span.parent_id,
        "trace": (span.trace_id, span.request_id),
        "span": span.span_id,
        "started": span.start_time_ns > 0,
        "ended": span.end_time_ns is not None,
        "missing": span.get_attribute("not there"),
    }


@program()
def read_while_open(stage):
    with mlflow.start_span("root", span_type="AGENT", attributes={"k": (1, 2)}) as root:
        bare = seen(root)
        root.set_inputs({"messages": [{"role": "user", "content": "ü"}], 1: "one"})
        root.set_outputs(("a", None))
        root.add_event(SpanEvent("step", attributes={"n": 1}))
        with mlflow.start_span("child") as child:
            child.set_status("ERROR")
            inner = seen(child)
        return {"bare": bare, "root": seen(root), "child": inner}


@program()
def to_dict_while_open(stage):
    with mlflow.start_span("root", span_type="TOOL") as root:
        root.set_inputs({"a": 1.5})
        plain = root.to_dict()
        keys = sorted(plain)
        json.dumps(plain)
        root.set_outputs([1])
        return {"keys": keys, "attributes": root.to_dict()["attributes"], "name": plain["name"]}


@program()
def read_after_the_end(stage):
    with mlflow.start_span("root") as root, mlflow.start_span("child") as child:
        child.set_inputs({"a": 1})
    return {
        "root": seen(root),
        "child": seen(child),
        "longer": root.end_time_ns >= child.end_time_ns,
        "dict": sorted(child.to_dict()),
        "immutable": seen(child.to_immutable_span()),
        "kind": type(child.to_immutable_span()) is Span,
    }


@program()
def values_read_back_are_copies(stage):
    with mlflow.start_span("root") as root:
        given = {"list": [1]}
        root.set_inputs(given)
        given["list"].append(2)
        read = root.inputs
        read["list"].append(3)
        root.attributes["new"] = 1
        return {"inputs": root.inputs, "given": given, "attributes": sorted(root.attributes)}


@program()
def kinds_of_spans(stage):
    with mlflow.start_span("root") as root:
        detached = mlflow.start_span_no_context("child", parent_span=root)
        detached.end()
        return {
            "live": [isinstance(span, LiveSpan) for span in (root, detached)],
            "span": isinstance(root, Span),
            "noop": isinstance(root, NoOpSpan),
            "current is it": mlflow.get_current_active_span() is root,
            "true": bool(root),
            "equal": root == detached,
            "hashable": isinstance(hash(root), int),
        }


@program()
def not_to_be_copied_while_open(stage):
    errors = []
    with mlflow.start_span("root") as root:
        for attempt in (copy.deepcopy, pickle.dumps, lambda span: span["inputs"]):
            try:
                attempt(root)
            except Exception as error:
                errors.append(type(error).__name__)
        try:
            root.no_such_attribute  # noqa: B018
        except AttributeError as error:
            errors.append(type(error).__name__)
    return errors


@program()
def noop_span(stage):
    with mlflow.tracing.context(enabled=False), mlflow.start_span("nothing") as span:
        span.set_inputs({"a": 1})
        span.set_outputs(object())
        span.set_attribute("a", 1)
        span.set_attributes({"b": 2})
        span.set_status("ERROR")
        span.add_event(SpanEvent("none"))
        span.record_exception("none")
        span.end()
        return {
            "noop": isinstance(span, NoOpSpan),
            "span": isinstance(span, Span),
            "live": isinstance(span, LiveSpan),
            "values": [span.name, span.trace_id, span.span_id, span.parent_id, span.inputs],
            "attribute": span.get_attribute("a"),
            "type": hasattr(span, "set_span_type"),
            "current": type(mlflow.get_current_active_span()).__name__,
            "active": mlflow.get_active_trace_id(),
        }


@program()
def active_ids(stage):
    before = mlflow.get_active_trace_id()
    with mlflow.start_span("root") as root:
        same = mlflow.get_active_trace_id() == root.trace_id
        with mlflow.start_span("child"):
            still = mlflow.get_active_trace_id() == root.trace_id
    return {
        "before": before,
        "same": same,
        "still": still,
        "after": mlflow.get_active_trace_id(),
        "last": mlflow.get_last_active_trace_id() == root.trace_id,
        "last of the thread": mlflow.get_last_active_trace_id(thread_local=True) == root.trace_id,
    }


@program()
def last_active_trace_of_threads(stage):
    with mlflow.start_span("main thread") as first:
        pass
    found = []

    def work():
        before = mlflow.get_last_active_trace_id(thread_local=True)
        with mlflow.start_span("other thread") as span:
            pass
        found.extend(
            [before, mlflow.get_last_active_trace_id(thread_local=True) == span.trace_id, span]
        )

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    *answers, other = found
    return {
        "other": answers,
        "global": mlflow.get_last_active_trace_id() == other.trace_id,
        "mine": mlflow.get_last_active_trace_id(thread_local=True) == first.trace_id,
    }


@program()
def last_active_trace_after_errors(stage):
    async def fails():
        with mlflow.start_span("in a task"):
            raise ValueError("no")

    try:
        asyncio.run(fails())
    except ValueError:
        pass
    return mlflow.get_last_active_trace_id() is not None


@program()
def trace_info_while_open(stage):
    with mlflow.start_span("root") as root:
        mlflow.update_current_trace(tags={"a": "1"}, metadata={"b": "2"})
        info = mlflow.MlflowClient()._tracing_client.get_trace_info(root.trace_id)
        return {
            "tags": info.tags.get("a"),
            "metadata": info.trace_metadata.get("b"),
            "state": str(info.state),
            "id": info.trace_id == root.trace_id,
        }
