"""One span: what it keeps, what it refuses, how it ends and what is handed over."""

import os
import threading
from typing import Any

import pytest

import spanferry
from spanferry.parcel import encoded
from spanferry.settings import Settings
from spanferry.spans import NO_OP_SPAN_TRACE_ID
from spanferry.testing import capture
from spanferry_schemas import Span as WireSpan
from spanferry_schemas import StatusCode
from tests.producer.hostile import Hostile


def started(**options: Any) -> spanferry.Span:
    """A root span of its own trace."""
    return spanferry.start_span_no_context("span", **options)


def small(**options: Any) -> Settings:
    """Settings that hand over early."""
    return Settings(bootstrap_servers="none:1", **options)


def test_values_are_kept_as_they_were_when_they_were_set(captured: capture) -> None:
    messages = [{"role": "user"}]
    span = started()
    span.set_inputs(messages)
    span.set_attribute("state", messages)
    messages.append({"role": "assistant"})
    span.end(outputs=messages)
    messages.clear()
    (trace,) = captured.traces
    assert trace.root.inputs == [{"role": "user"}]
    assert trace.root.attributes["state"] == [{"role": "user"}]
    assert trace.root.outputs == [{"role": "user"}, {"role": "assistant"}]


def test_what_was_set_can_be_read_while_the_span_is_open(captured: capture) -> None:
    span = started(span_type="TOOL", log_level="INFO")
    span.set_inputs({"a": (1, 2)})
    assert span.inputs == {"a": [1, 2]}
    assert span.outputs is None
    assert span.get_attribute("nothing") is None
    assert span.get_attribute("mlflow.spanType") == span.span_type == "TOOL"
    assert span.attributes["mlflow.traceRequestId"] == span.trace_id == span.request_id
    assert span.log_level is spanferry.SpanLogLevel.INFO
    assert span.status.status_code == "UNSET"
    assert span.end_time_ns is None
    assert len(span.trace_id) == 35
    assert len(span.span_id) == 16
    span.end()
    assert span.status == spanferry.SpanStatus(spanferry.SpanStatusCode.OK)
    assert (span.end_time_ns or 0) >= span.start_time_ns


def test_an_ended_span_refuses_everything_and_says_so_once(
    captured: capture, caplog: pytest.LogCaptureFixture
) -> None:
    span = started()
    span.end(outputs=1)
    span.end(outputs=2)
    span.set_outputs(3)
    span.set_inputs(3)
    span.set_span_type("LLM")
    span.set_status("ERROR")
    span.add_event(spanferry.SpanEvent("late"))
    span.add_link(spanferry.Link("1", "2"))
    span.record_exception(ValueError())
    (parcel,) = captured.parcels
    assert len(parcel.spans) == 1
    (trace,) = captured.traces
    assert trace.root.outputs == span.outputs == 1
    assert (span.inputs, span.events, span.links) == (None, [], [])
    assert [record.message for record in caplog.records] == ["span span has ended: end is ignored"]


def test_a_with_block_may_end_its_span_early(
    captured: capture, caplog: pytest.LogCaptureFixture
) -> None:
    with spanferry.start_span("early") as span:
        span.end(outputs=1)
    assert captured.traces[0].root.outputs == 1
    assert not caplog.records


@pytest.mark.parametrize(
    ("misuse", "word"),
    [
        (lambda span: span.set_attribute(3, 4), "keys must be strings"),
        (lambda span: span.set_attribute(Hostile(), 4), "keys must be strings"),
        (lambda span: span.set_attributes([1]), "must be a dict"),
        (lambda span: span.set_attributes(Hostile()), "must be a dict"),
        (lambda span: span.set_status("BAD"), "BAD is not a span status"),
        (lambda span: span.set_status(None), "not a span status"),
        (lambda span: span.set_status(Hostile()), "not a span status"),
        (lambda span: span.set_log_level("LOUD"), "LOUD is not a span log level"),
        (lambda span: span.set_log_level(7), "not a span log level"),
        (lambda span: span.set_log_level(Hostile()), "not a span log level"),
        (lambda span: span.add_event("event"), "event could not be used"),
        (lambda span: span.add_event(Hostile()), "event could not be used"),
        (lambda span: span.add_link("link"), "link could not be used"),
        (lambda span: span.add_link(spanferry.Link("zz", "1")), "link could not be used"),
        (lambda span: span.add_link(spanferry.Link("1" * 33, "1")), "link could not be used"),
        (lambda span: span.record_exception(3), "takes an exception"),
        (lambda span: span.record_exception(Hostile()), "takes an exception"),
    ],
)
def test_what_cannot_be_used_is_said_once_and_left_out(
    misuse: Any, word: str, captured: capture, caplog: pytest.LogCaptureFixture
) -> None:
    with spanferry.start_span("span") as span:
        misuse(span)
        misuse(span)
    (trace,) = captured.traces
    assert set(trace.root.attributes) == {
        "mlflow.traceRequestId",
        "mlflow.spanType",
        "mlflow.spanLogLevel",
    }
    assert (trace.root.events, trace.root.links, trace.state) == ([], [], "OK")
    assert len(caplog.records) == 1
    assert word in caplog.text


@pytest.mark.parametrize("name", ["\ud800 name", 3, None, Hostile, "ä"])
@pytest.mark.parametrize("span_type", ["\ud800 type", 3, None, Hostile, "TOOL"])
def test_names_and_types_of_any_kind_can_be_sent(
    name: Any, span_type: Any, captured: capture
) -> None:
    name, span_type = (odd() if odd is Hostile else odd for odd in (name, span_type))
    with spanferry.start_span(name, span_type=span_type) as span:
        span.set_attribute("key \ud800", 1)
        spanferry.update_current_trace(tags={"\ud800": "\ud800", 3: Hostile()})  # type: ignore[dict-item]
    (trace,) = captured.traces
    assert trace.root.attributes["key ?"] == 1
    assert trace.complete


def test_an_exception_whose_text_raises_is_recorded(captured: capture) -> None:
    class BadError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("str")

        __repr__ = __str__

    with pytest.raises(BadError), spanferry.start_span("span"):
        raise BadError
    (trace,) = captured.traces
    assert trace.state == "ERROR"
    assert "BadError" in trace.root.status.description
    (event,) = trace.root.events
    assert event.attributes["exception.type"] == "BadError"


def test_a_recorded_exception_has_the_stack_of_the_app(captured: capture) -> None:
    def deep() -> None:
        raise ValueError("wrong")

    with pytest.raises(ValueError), spanferry.start_span("span"):
        deep()
    (event,) = captured.traces[0].root.events
    stack = event.attributes["exception.stacktrace"]
    assert stack.startswith("Traceback (most recent call last):")
    assert 'raise ValueError("wrong")' in stack
    assert stack.endswith("ValueError: wrong")


def test_only_the_newest_events_are_kept(captured: capture) -> None:
    with spanferry.start_span("span") as span:
        for number in range(200):
            span.add_event(spanferry.SpanEvent(f"event {number}"))
            span.add_link(spanferry.Link("1", f"{number:x}"))
    root = captured.traces[0].root
    assert [event.name for event in root.events] == [f"event {n}" for n in range(72, 200)]
    assert len(root.links) == 128


def test_times_given_by_the_app_are_taken_where_they_can_be(captured: capture) -> None:
    for start, end in [(5, 9), (2.5e9, 3e9), (-1, 2**63), ("x", None), (Hostile(), Hostile())]:
        started(start_time_ns=start).end(end_time_ns=end)
    times = [(t.root.start_time_ns, t.root.end_time_ns) for t in captured.traces]
    assert times[:2] == [(5, 9), (2_500_000_000, 3_000_000_000)]
    for first, last in times[2:]:
        assert 1_700_000_000_000_000_000 < first <= (last or 0) < 2**62


def test_the_parcel_of_a_root_says_what_is_in_it(captured: capture) -> None:
    with spanferry.start_span("root") as root:
        spanferry.update_current_trace(session_id="s" * 5_000)
        for _ in range(3):
            with spanferry.start_span("child") as child:
                child.set_inputs("x" * 1_000)
        child = spanferry.start_span_no_context("never ended")
        with pytest.raises(ValueError), spanferry.start_span("fails"):
            raise ValueError
    (parcel,) = captured.parcels
    assert parcel.end is not None
    assert (parcel.end.spans, parcel.end.contexts_out, parcel.end.remote_parent) == (6, 0, False)
    assert len(parcel.spans) == 5
    length = sum(map(len, encoded(parcel.spans)))
    assert length + 5_000 < parcel.size < length + 7_000
    assert parcel.error
    assert parcel.session == "s" * 5_000
    assert parcel.root_duration_ns == (root.end_time_ns or 0) - root.start_time_ns
    assert not captured.traces[0].complete


def test_what_ends_after_the_root_comes_by_itself_without_an_end(captured: capture) -> None:
    with spanferry.start_span("root"):
        late = spanferry.start_span_no_context("late")
        later = spanferry.start_span_no_context("later", parent_span=late)
    started_late = spanferry.start_span_no_context("started late", parent_span=late)
    started_late.set_inputs("x" * 1_000)
    for span in (later, late, started_late):
        span.end()
    assert [len(parcel.spans) for parcel in captured.parcels] == [1, 1, 1, 1]
    for parcel in captured.parcels:
        length = sum(map(len, encoded(parcel.spans)))
        assert length + 500 < parcel.size < length + 800
    assert [parcel.end is None for parcel in captured.parcels] == [False, True, True, True]
    assert [parcel.trace is None for parcel in captured.parcels] == [False, True, True, True]
    (trace,) = captured.traces
    assert {span.name for span in trace.spans} == {"root", "late", "later", "started late"}
    assert trace.span("started late").parent_id == late.span_id


@pytest.mark.usefixtures("unsaid")
def test_an_open_trace_hands_over_what_it_has_by_bytes() -> None:
    with capture(small(fragment_bytes=2_000)) as captured, spanferry.start_span("root"):
        for _ in range(7):
            with spanferry.start_span("child") as child:
                child.set_inputs("x" * 1_000)
        assert [len(parcel.spans) for parcel in captured.parcels] == [2, 2, 2]
        assert all(parcel.end is None for parcel in captured.parcels)
        assert all(parcel.trace is not None for parcel in captured.parcels)
    *_, last = captured.parcels
    assert (len(last.spans), last.end is not None and last.end.spans) == (2, 8)
    assert captured.traces[0].complete


@pytest.mark.usefixtures("unsaid")
def test_an_open_trace_hands_over_what_it_has_by_age() -> None:
    with capture(small(fragment_age_s=1e-9)) as captured, spanferry.start_span("root"):
        for _ in range(3):
            with spanferry.start_span("child"):
                pass
        assert [len(parcel.spans) for parcel in captured.parcels] == [1, 1, 1]


@pytest.mark.usefixtures("unsaid")
def test_a_trace_stays_with_the_outlet_in_which_it_started() -> None:
    with capture() as first, spanferry.start_span("root"):
        with capture() as second, spanferry.start_span("child"):
            pass
        with spanferry.start_span("after"):
            pass
    assert [span.name for span in first.traces[0].spans] == ["root", "child", "after"]
    assert not second.parcels


def test_spans_of_many_threads_are_all_handed_over_once(captured: capture) -> None:
    threads, spans = 8, 200

    def work(parent: spanferry.Span) -> None:
        for _ in range(spans):
            spanferry.start_span_no_context("child", parent_span=parent).end()

    root = started()
    workers = [threading.Thread(target=work, args=(root,)) for _ in range(threads)]
    for worker in workers:
        worker.start()
    root.end()
    for worker in workers:
        worker.join()
    handed_over = [span.span_id for trace in captured.traces for span in trace.spans]
    assert sum(len(parcel.spans) for parcel in captured.parcels) == threads * spans + 1
    assert len(set(handed_over)) == threads * spans + 1
    assert sum(parcel.end is not None for parcel in captured.parcels) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_process_sends_its_own_spans_and_only_those(captured: capture) -> None:
    reader, writer = os.pipe()
    with spanferry.start_span("root") as root:
        with spanferry.start_span("before"):
            pass
        ids = [started().span_id for _ in range(2)]
        child = os.fork()
        if child == 0:
            captured.clear()
            with spanferry.start_span("in child"):
                pass
            root.end()
            sent = [span for trace in captured.traces for span in trace.spans]
            ends = [parcel.end for parcel in captured.parcels if parcel.end is not None]
            lines = [f"{span.name} {span.parent_id}" for span in sent]
            text = f"{lines} {len(ends)} {started().span_id}"
            os.write(writer, text.encode())
            os._exit(0)
        os.waitpid(child, 0)
    told = os.read(reader, 1_000).decode()
    os.close(reader)
    os.close(writer)
    lines, ends, next_id = told.rsplit(" ", 2)
    assert lines == str([f"in child {root.span_id}"])
    assert ends == "0"
    assert next_id not in {*ids, started().span_id}  # not the parent's sequence of ids
    (trace, *_) = captured.traces
    assert [span.name for span in trace.spans] == ["root", "before"]


@pytest.mark.usefixtures("unsaid")
def test_without_enable_everything_is_accepted_and_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for _ in range(2):
        with spanferry.start_span("root") as span:
            span.set_inputs(Hostile())
            span.set_outputs(1)
            span.set_attribute("a", 1)
            span.set_attributes({"a": 1})
            span.set_span_type("LLM")
            span.set_description("words")
            span.set_log_level("LOUD")
            span.set_status("BAD")
            span.rename("name")
            span.add_event(spanferry.SpanEvent("event"))
            span.add_link(spanferry.Link("1", "2"))
            span.record_exception("wrong")
            span.end(outputs=1)
            spanferry.update_current_trace(tags={"a": "b"})
            assert span.trace_id == NO_OP_SPAN_TRACE_ID
            assert (span.inputs, span.outputs, span.status.status_code) == (None, None, "UNSET")
            assert isinstance(span, spanferry.NoOpSpan)
            assert spanferry.get_current_active_span() is None
    assert len(caplog.records) == 1
    assert caplog.records[0].levelname == "WARNING"
    assert "call spanferry.enable(" in caplog.text


@pytest.mark.usefixtures("unsaid")
@pytest.mark.parametrize("off", ["false", "0", "OFF", " no "])
def test_where_the_app_wants_it_off_nothing_is_said(
    off: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SPANFERRY_ENABLED", off)
    with spanferry.start_span("root"):
        pass
    assert not caplog.records


def test_the_wire_gets_what_the_span_had(captured: capture) -> None:
    from spanferry_schemas import decode, encode_fragment

    with spanferry.start_span("root", span_type="LLM") as root:
        root.set_inputs({"a": "ü"})
    (parcel,) = captured.parcels
    spans = encoded(parcel.spans)
    fragment = decode(encode_fragment(parcel.trace_id, spans, parcel.trace, parcel.end))
    (span,) = fragment.spans  # type: ignore[union-attr]
    assert span == WireSpan(
        span_id=bytes.fromhex(root.span_id),
        parent_id=None,
        name="root",
        span_type="LLM",
        start_ns=root.start_time_ns,
        end_ns=root.end_time_ns or 0,
        status=StatusCode.OK,
        attributes={"mlflow.spanInputs": '{"a":"ü"}'.encode(), "mlflow.spanLogLevel": b"20"},
    )
