"""One trace, whoever starts its spans: MLflow's API, spanferry's, OpenTelemetry's."""

import asyncio
import contextvars
import subprocess
import sys
import threading

import mlflow
import pytest
from mlflow.tracing.provider import get_bridged_tracer_provider
from opentelemetry import trace as otel

import spanferry
from spanferry import bridge
from spanferry.testing import CapturedTrace, capture


def tree(trace: CapturedTrace) -> dict[str, str | None]:
    """Every span's parent, by names."""
    names = {span.span_id: span.name for span in trace.spans}
    return {
        span.name: None if span.parent_id is None else names[span.parent_id] for span in trace.spans
    }


def test_both_apis_in_turn(captured: capture) -> None:
    with (
        mlflow.start_span("a"),
        spanferry.start_span("b"),
        mlflow.start_span("c"),
        spanferry.start_span("d"),
    ):
        pass
    [trace] = captured.traces
    assert tree(trace) == {"a": None, "b": "a", "c": "b", "d": "c"}
    assert trace.complete


def test_spanferry_on_top(captured: capture) -> None:
    with spanferry.start_span("a"), mlflow.start_span("b"), spanferry.start_span("c"):
        pass
    [trace] = captured.traces
    assert tree(trace) == {"a": None, "b": "a", "c": "b"}
    assert trace.complete


def test_decorators_of_both(captured: capture) -> None:
    @mlflow.trace
    def inner(x: int) -> int:
        return x + 1

    @spanferry.trace
    def middle(x: int) -> int:
        return inner(x)

    @mlflow.trace
    def outer(x: int) -> int:
        return middle(x) * 2

    assert outer(1) == 4
    [trace] = captured.traces
    assert tree(trace) == {"outer": None, "middle": "outer", "inner": "middle"}
    assert trace.span("inner").inputs == {"x": 1}
    assert trace.span("outer").outputs == 4


def test_what_is_current_is_current_for_both(captured: capture) -> None:
    with mlflow.start_span("a") as a:
        assert mlflow.get_current_active_span().span_id == a.span_id
        assert spanferry.get_current_active_span().span_id == a.span_id
        with spanferry.start_span("b") as b:
            assert mlflow.get_current_active_span().span_id == b.span_id
            assert isinstance(mlflow.get_current_active_span(), mlflow.entities.LiveSpan)
            mlflow.get_current_active_span().set_attribute("k", [1])
        assert mlflow.get_active_trace_id() == spanferry.get_active_trace_id() == a.trace_id
    assert mlflow.get_current_active_span() is None
    assert spanferry.get_current_active_span() is None
    assert mlflow.get_last_active_trace_id() == a.trace_id
    assert captured.traces[0].span("b").get_attribute("k") == [1]


def test_either_updates_the_trace(captured: capture) -> None:
    with spanferry.start_span("a"):
        mlflow.update_current_trace(tags={"m": "1"}, session_id="s", client_request_id="r")
        with mlflow.start_span("b"):
            spanferry.update_current_trace(tags={"f": "2"}, user="u", state="ERROR")
    [trace] = captured.traces
    assert trace.tags == {"mlflow.traceName": "a", "m": "1", "f": "2"}
    assert trace.metadata["mlflow.trace.session"] == "s"
    assert trace.metadata["mlflow.trace.user"] == "u"
    assert (trace.client_request_id, trace.state) == ("r", "ERROR")


def test_spans_of_opentelemetry_between(captured: capture) -> None:
    tracer = get_bridged_tracer_provider().get_tracer("test")
    with mlflow.start_span("a") as a:
        context = otel.set_span_in_context(a._span)
        child = tracer.start_span("otel", context=context, kind=otel.SpanKind.CLIENT)
        child.set_attribute("plain", 5)
        child.end()
        for kind in (None, 1):
            tracer.start_span(f"of kind {kind}", context=context, kind=kind).end()
    [trace] = captured.traces
    assert tree(trace) == {"a": None, "otel": "a", "of kind None": "a", "of kind 1": "a"}
    assert trace.span("otel").get_attribute("plain") == 5
    kinds = {span.name: span.kind.name for span in trace.spans}
    assert kinds.pop("otel") == "CLIENT"
    assert set(kinds.values()) == {"INTERNAL"}
    assert trace.complete


def test_a_span_without_context_has_the_parent_that_it_is_given(captured: capture) -> None:
    root = mlflow.start_span_no_context("root", inputs={"q": 1}, tags={"t": "x"})
    assert mlflow.get_current_active_span() is None
    child = mlflow.start_span_no_context("child", parent_span=root)
    with spanferry.start_span("elsewhere"):
        grandchild = mlflow.start_span_no_context("grandchild", parent_span=child)
        grandchild.end()
    child.end()
    root.end(outputs=2)
    by_name = {trace.name: trace for trace in captured.traces}
    assert by_name.keys() == {"root", "elsewhere"}
    assert tree(by_name["root"]) == {"root": None, "child": "root", "grandchild": "child"}
    assert by_name["root"].tags["t"] == "x"


def test_threads_and_tasks(captured: capture) -> None:
    async def ask(number: int) -> None:
        with mlflow.start_span(f"task {number}"):
            await asyncio.sleep(0)
            with spanferry.start_span(f"step {number}"):
                await asyncio.sleep(0)

    async def gather() -> None:
        with mlflow.start_span("root"):
            await asyncio.gather(*(ask(number) for number in range(3)))

    asyncio.run(gather())
    with mlflow.start_span("threads"):
        context = contextvars.copy_context()
        thread = threading.Thread(
            target=context.run, args=(lambda: spanferry.start_span("t")._enter(None).end(),)
        )
        thread.start()
        thread.join()
    first, second = captured.traces
    wanted = {f"step {n}": f"task {n}" for n in range(3)} | {f"task {n}": "root" for n in range(3)}
    assert tree(first) == {"root": None} | wanted
    assert tree(second) == {"threads": None, "t": "threads"}


def test_headers_lead_from_one_to_the_other(captured: capture) -> None:
    with mlflow.start_span("caller") as caller:
        headers = mlflow.tracing.get_tracing_context_headers_for_http_request()
    with (
        spanferry.set_tracing_context_from_http_request_headers(headers),
        mlflow.start_span("called by spanferry"),
    ):
        pass
    with (
        mlflow.tracing.set_tracing_context_from_http_request_headers(headers),
        spanferry.start_span("called by mlflow"),
        mlflow.start_span("within"),
    ):
        pass
    [trace] = captured.traces
    assert trace.trace_id == caller.trace_id
    assert tree(trace) == {
        "caller": None,
        "called by spanferry": "caller",
        "called by mlflow": "caller",
        "within": "called by mlflow",
    }


@pytest.mark.parametrize("by_mlflow", [True, False])
def test_what_is_not_sampled_is_not_recorded_below_either(
    captured: capture, by_mlflow: bool
) -> None:
    api = mlflow if by_mlflow else spanferry

    @api.trace(sampling_ratio_override=0.0)
    def outer() -> None:
        with mlflow.start_span("b") as b, spanferry.start_span("c"):
            assert isinstance(b, mlflow.entities.NoOpSpan)
            assert b.trace_id == "MLFLOW_NO_OP_SPAN_TRACE_ID"
            b.set_inputs(1)

    outer()
    assert captured.traces == []


def test_what_mlflow_silences_is_silent_for_both(captured: capture) -> None:
    with mlflow.start_span("a"):
        with (
            mlflow.tracing.context(enabled=False),
            spanferry.start_span("b"),
            mlflow.start_span("c"),
        ):
            pass
        with spanferry.context(enabled=False), mlflow.start_span("d") as none:
            none.set_inputs(1)
    [trace] = captured.traces
    assert tree(trace) == {"a": None} | ({} if captured.settings.accelerate else {"d": "a"})


def test_a_flush_hands_over_what_has_ended_of_an_open_trace(captured: capture) -> None:
    with mlflow.start_span("root"):
        with mlflow.start_span("step"):
            pass
        bridge.hand_over_what_has_ended()
        [trace] = captured.traces
        assert [span.name for span in trace.spans] == ["step"]
        assert not trace.complete
    [trace] = captured.traces
    assert trace.complete


FORKED = """
import os
import mlflow
from spanferry.testing import capture

with capture(), mlflow.start_span("root") as root:
    from spanferry.bridge.traces import SPANS_MAX

    child = os.fork()
    if child == 0:
        for _ in range(3 * SPANS_MAX):
            with mlflow.start_span("in the pool"):
                pass
        os._exit(len(root.trace.span_dict) > SPANS_MAX + 2)
    os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_process_that_is_forked_inside_a_trace_keeps_no_ended_spans() -> None:
    """As the workers of a pool, for as long as the pool lives."""
    subprocess.run([sys.executable, "-c", FORKED], check=True, timeout=100)
