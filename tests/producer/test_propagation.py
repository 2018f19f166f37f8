"""W3C Trace Context out of one service and into another."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

import spanferry
from spanferry.propagation import parse_context
from spanferry.testing import capture
from tests.producer.hostile import Hostile

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADER = f"00-{TRACE}-{SPAN}-01"

out = spanferry.get_tracing_context_headers_for_http_request
into = spanferry.set_tracing_context_from_http_request_headers


def test_the_current_span_goes_out_and_is_counted(captured: capture) -> None:
    with spanferry.start_span("root") as root, spanferry.start_span("child") as child:
        first, second = out(), out()
    assert first == second
    assert first == {
        "traceparent": f"00-{root.trace_id[3:]}-{child.span_id}-01",
        "tracestate": f"spanferry={child.span_id}01",
    }
    end = captured.parcels[0].end
    assert end is not None
    assert (end.spans, end.contexts_out, end.remote_parent) == (2, 2, False)


def test_without_a_span_nothing_goes_out(
    captured: capture, caplog: pytest.LogCaptureFixture
) -> None:
    assert out() == out() == {}
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.usefixtures("unsaid")
def test_without_enable_nothing_goes_out() -> None:
    with spanferry.start_span("root"):
        assert out() == {}


def test_spans_go_under_the_callers(captured: capture) -> None:
    with into({"Traceparent": HEADER, "Accept": "*/*"}):
        assert spanferry.get_current_active_span() is None
        with spanferry.start_span("here") as here:
            spanferry.start_span_no_context("by hand").end()
    with spanferry.start_span("after") as after:
        pass
    assert here.trace_id == f"tr-{TRACE}"
    assert here.parent_id == SPAN
    assert after.trace_id != here.trace_id
    ours, _ = captured.traces
    assert {span.name for span in ours.spans} == {"here", "by hand"}
    end = captured.parcels[0].end
    assert end is not None
    assert (end.spans, end.contexts_out, end.remote_parent) == (2, 0, True)
    assert captured.parcels[0].root_duration_ns == 0


def test_the_trace_stays_the_callers_unless_something_is_said_here(captured: capture) -> None:
    with into({"traceparent": HEADER}), spanferry.start_span("here"):
        pass
    with into({"traceparent": HEADER}), spanferry.start_span("here"):
        spanferry.update_current_trace(session_id="session")
    silent, spoken = captured.parcels
    assert silent.trace is None
    assert spoken.trace is not None
    assert spoken.trace.metadata == {"mlflow.trace.session": "session"}
    assert spoken.trace.tags == {}
    assert spoken.trace.experiment is None


def test_two_services_in_one_process_share_the_trace(captured: capture) -> None:
    with spanferry.start_span("client") as client:
        headers = out()
        with into(headers), spanferry.start_span("server") as server:
            pass
    assert server.trace_id == client.trace_id
    assert server.parent_id == client.span_id
    (trace,) = captured.traces
    assert trace.complete
    assert [span.name for span in trace.spans] == ["client", "server"]


def test_a_service_that_only_passes_on_does_not_come_between(captured: capture) -> None:
    with into({"traceparent": HEADER}):
        assert out() == {"traceparent": HEADER}
    ours = {"traceparent": HEADER, "tracestate": f"spanferry={SPAN}01"}
    with into(ours):
        assert out() == ours
    assert not captured.parcels


def test_a_proxy_between_us_does_not_come_between(captured: capture) -> None:
    """It put its own span and its own sampling into traceparent, and itself before us in tracestate."""
    with spanferry.start_span("client") as client:
        state = out()["tracestate"]
        proxied = {
            "traceparent": f"00-{client.trace_id[3:]}-{SPAN}-00",
            "tracestate": f"mesh=1, {state}",
        }
        with into(proxied), spanferry.start_span("server") as server:
            pass
    assert (server.trace_id, server.parent_id) == (client.trace_id, client.span_id)


@pytest.mark.parametrize("state", ["", "mesh=1", "spanferry=", "spanferry=zz", f"spanferry={SPAN}"])
def test_only_our_own_entry_makes_a_caller_ours(state: str) -> None:
    assert parse_context(HEADER, state, ours_only=True) is None
    parent = parse_context(HEADER, state, ours_only=False)
    assert parent is not None
    assert not parent.ours


def test_what_the_caller_does_not_sample_is_not_traced(captured: capture) -> None:
    unsampled = HEADER[:-1] + "0"
    with into({"traceparent": unsampled}), spanferry.start_span("here") as here:
        assert isinstance(here, spanferry.NoOpSpan)
        assert out()["traceparent"] == unsampled
        with spanferry.start_span("child"):
            pass
    assert not captured.parcels


@pytest.mark.usefixtures("unsaid")
def test_what_is_not_sampled_here_is_not_sampled_further_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACE_SAMPLING_RATIO", "0")
    with capture() as captured:
        with spanferry.start_span("root"), spanferry.start_span("child"):
            header = out()["traceparent"]
        with into({"traceparent": HEADER}), spanferry.start_span("sampled by the caller"):
            pass
    assert header.endswith("-00")
    assert len(captured.traces) == 1


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"traceparent": "nonsense"},
        {"traceparent": ""},
        {"traceparent": 3},
        {"traceparent": Hostile},
        {3: "x"},
        None,
        "traceparent",
        {"traceparent": f"00-{'0' * 32}-{SPAN}-01"},
        {"traceparent": f"00-{TRACE}-{'0' * 16}-01"},
        {"traceparent": f"ff-{TRACE}-{SPAN}-01"},
        {"traceparent": f"00-{TRACE}-{SPAN}-01-extra"},
        {"traceparent": f"00-{TRACE.upper()}-{SPAN}-01"},
        {"traceparent": f"00-{TRACE}-{SPAN}"},
    ],
)
def test_headers_without_a_sound_context_start_a_trace_of_their_own(
    headers: Any, captured: capture, caplog: pytest.LogCaptureFixture
) -> None:
    with into(headers), spanferry.start_span("own"):
        pass
    (trace,) = captured.traces
    assert trace.root.parent_id is None
    assert "sound traceparent" in caplog.text


@given(st.text() | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?"))
def test_a_header_is_read_as_opentelemetry_reads_it(header: str) -> None:
    ours = parse_context(header, "", ours_only=False)
    context = TraceContextTextMapPropagator().extract({"traceparent": header})
    theirs = get_current_span(context).get_span_context()
    if not theirs.is_valid:
        assert ours is None
        return
    assert ours is not None
    assert int.from_bytes(ours.trace_id, "big") == theirs.trace_id
    assert int.from_bytes(ours.span_id, "big") == theirs.span_id
    assert ours.sampled == theirs.trace_flags.sampled


@pytest.mark.parametrize(
    ("state", "upstream"),
    [
        ("ot=th:c;rv:0123456789abcd,mesh=1", "th:c;rv:0123456789abcd"),
        ("mesh=1, ot=p:0.5;rv:0123456789abcd;x:1", "rv:0123456789abcd"),
        ("ot=th:zz;rv:12", None),
        ("mesh=1", None),
        (f"ot=th:8,spanferry={SPAN}01", None),  # the caller says itself what it has sampled
    ],
)
def test_what_samplers_before_us_have_done_is_said(
    state: str, upstream: str | None, captured: capture
) -> None:
    with into({"traceparent": HEADER, "tracestate": state}), spanferry.start_span("server"):
        pass
    (trace,) = captured.traces
    assert trace.part.metadata.get("spanferry.sampling.upstream") == upstream
