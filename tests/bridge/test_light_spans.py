"""Light spans are what MLflow's LiveSpan is to all who use it."""

import contextlib
import copy

import mlflow
import pytest
from mlflow.entities import Link, LiveSpan, NoOpSpan, Span, SpanEvent, SpanStatusCode
from mlflow.tracing.attachments import Attachment
from mlflow.tracing.trace_manager import InMemoryTraceManager

from spanferry.bridge.traces import OPEN, SPANS_MAX
from spanferry.testing import capture


def test_it_is_a_live_span(light: capture) -> None:
    with mlflow.start_span("x", span_type="TOOL") as span:
        assert isinstance(span, LiveSpan)
        assert isinstance(span, Span)
        assert not isinstance(span, NoOpSpan)
        assert type(span).__name__ == "LiveSpan"
        assert not hasattr(span, "get")
        with pytest.raises(TypeError, match="not subscriptable"):
            span["inputs"]
        with pytest.raises(TypeError, match="deepcopied"):
            copy.deepcopy(span)
        assert repr(span).startswith("LiveSpan(name='x', trace_id='tr-")


def test_its_words_are_mlflows(light: capture) -> None:
    with mlflow.start_span("x", description="why", log_level="WARNING") as span:
        span.add_event(SpanEvent("moment", attributes={"n": 1}, timestamp=5))
        span.add_link(Link(trace_id=span.trace_id, span_id=span.span_id, attributes={"a": "b"}))
        assert span.status.status_code is SpanStatusCode.UNSET
        assert isinstance(span.events[0], SpanEvent)
        assert (span.events[0].name, span.events[0].attributes) == ("moment", {"n": 1})
        assert isinstance(span.links[0], Link)
        assert span.links[0].trace_id == span.trace_id
        assert span.log_level is mlflow.entities.SpanLogLevel.WARNING
        assert span.description == "why"
        assert span.model_name is None


def test_a_copy_of_it_is_a_span_of_mlflows(light: capture) -> None:
    with mlflow.start_span("x", span_type="LLM") as span:
        span.set_inputs({"é": [1.5]})
        with mlflow.start_span("child") as child:
            fixed = child.to_immutable_span()
        seen = span.to_dict()
    assert type(fixed) is Span
    assert fixed.parent_id == span.span_id
    again = Span.from_dict(seen)
    assert (again.name, again.inputs, again.span_type) == ("x", {"é": [1.5]}, "LLM")
    assert again.trace_id == span.trace_id


def test_its_otel_span_can_be_read_and_written(light: capture) -> None:
    with mlflow.start_span("x") as span:
        inner = span._span
        inner.set_attribute("mlflow.llm.model", '"gpt"')
        inner.set_attribute("count", 3)
        inner.update_name("y")
        assert inner.is_recording()
        assert inner.attributes["count"] == "3"
        assert inner.parent is None
        assert f"tr-{inner.context.trace_id:032x}" == span.trace_id
    [trace] = light.traces
    assert trace.root.name == "y"
    assert trace.root.get_attribute("mlflow.llm.model") == "gpt"
    assert not span._span.is_recording()
    assert span._span.end_time == span.end_time_ns


def test_the_trace_manager_finds_open_traces_and_lets_them_be_changed(captured: capture) -> None:
    manager = InMemoryTraceManager.get_instance()
    with mlflow.start_span("root") as root, mlflow.start_span("child") as child:
        assert manager.get_span_from_id(root.trace_id, child.span_id) is child
        assert manager.get_root_span_id(root.trace_id) == root.span_id
        manager.set_trace_metadata(root.trace_id, "mlflow.sourceRun", "run")
        with manager.get_trace(root.trace_id) as trace:
            assert set(trace.span_dict) == {root.span_id, child.span_id}
            assert trace.info.state.value == "IN_PROGRESS"
            trace.info.tags["number"] = 5
            trace.info.client_request_id = "c"
            trace.info.request_preview = "p"
            trace.info.tags = trace.info.tags | {"own": "dict"}
    [sent] = captured.traces
    assert sent.tags == {"mlflow.traceName": "root", "number": "5", "own": "dict"}
    assert sent.metadata["mlflow.sourceRun"] == "run"
    assert (sent.client_request_id, sent.part.request_preview) == ("c", "p")
    with manager.get_trace(root.trace_id) as gone:
        assert gone is None
    assert len(OPEN) == 0


def test_the_client_starts_and_ends_by_ids(captured: capture) -> None:
    client = mlflow.MlflowClient()
    trace_id = client.start_trace("t", inputs={"q": 1}, experiment_id="7").trace_id
    root_id = InMemoryTraceManager.get_instance().get_root_span_id(trace_id)
    span_id = client.start_span("s", trace_id=trace_id, parent_id=root_id).span_id
    late_id = client.start_span("late", trace_id=trace_id, parent_id=root_id).span_id
    client.end_span(trace_id, span_id, outputs=1, status="ERROR")
    client.end_trace(trace_id, outputs=2)
    client.end_trace(trace_id)  # has no effect
    client.end_span(trace_id, late_id)
    [trace] = captured.traces
    assert {span.name for span in trace.spans} == {"t", "s", "late"}
    assert trace.part.experiment_id == "7"
    assert trace.span("s").status.status_code == "ERROR"
    assert len(OPEN) == 0


def test_processors_of_the_user_see_and_change_every_span(captured: capture) -> None:
    seen = []

    def redact(span: LiveSpan) -> None:
        seen.append((span.name, span.status.status_code.value, span.end_time_ns))
        if span.inputs:
            span.set_inputs("[gone]")

    def fails(span: LiveSpan) -> None:
        raise RuntimeError("no")

    with mlflow.tracing.configure(span_processors=[fails, redact]), mlflow.start_span("x") as span:
        span.set_inputs({"password": "p"})
    assert captured.traces[0].root.inputs == "[gone]"
    assert seen == [("x", "OK", None)]


def test_attachments_go_with_their_span(captured: capture) -> None:
    attachment = Attachment(content_type="image/png", content_bytes=b"png")
    with mlflow.start_span("x") as span:
        span.set_inputs({"image": attachment, "others": [attachment]})
    reference = captured.traces[0].root.inputs["image"]
    assert reference == attachment.ref(span.trace_id)
    sent = [one for parcel in captured.parcels for one in parcel.attachments]
    assert {(a.attachment_id, a.content_type, a.data) for a in sent} == {
        (attachment.id, "image/png", b"png")
    }


def test_errors_and_the_way_out(captured: capture) -> None:
    @mlflow.start_span("as decorator")
    def fails() -> None:
        raise KeyError("k")

    for _ in range(2):
        with contextlib.suppress(KeyError):
            fails()
    with contextlib.suppress(SystemExit), mlflow.start_span("leaves"):
        raise SystemExit
    with mlflow.tracing.context(enabled=False), mlflow.start_span("not there") as none:
        assert isinstance(none, NoOpSpan)
    names = [(trace.name, trace.state) for trace in captured.traces]
    assert names == [("as decorator", "ERROR")] * 2 + [("leaves", "OK")]


def test_tracing_off_and_on(captured: capture) -> None:
    mlflow.tracing.disable()
    with mlflow.start_span("off") as off:
        assert isinstance(off, NoOpSpan)
    mlflow.tracing.enable()
    with mlflow.start_span("on"):
        pass
    assert [trace.name for trace in captured.traces] == ["on"]


def test_a_trace_that_goes_on_for_long_holds_its_open_spans_only(captured: capture) -> None:
    with mlflow.start_span("root") as root:
        with mlflow.start_span("open") as still_open:
            for _ in range(SPANS_MAX + 10):
                mlflow.start_span_no_context("step").end()
            trace = OPEN.get(root.trace_id)
            assert len(trace.span_dict) < SPANS_MAX
            assert {root.span_id, still_open.span_id} <= trace.span_dict.keys()
        mlflow.update_current_trace(tags={"end": "1"})
    [sent] = captured.traces
    assert len(sent.spans) == SPANS_MAX + 12
    assert sent.complete
    assert sent.tags["end"] == "1"
