"""Feedback and expectations: what is sent, and what cannot be."""

from types import SimpleNamespace
from typing import Any

import mlflow.entities
import pytest

import spanferry
from spanferry.testing import capture
from spanferry_schemas import Assessment, AssessmentKind, Rejection, assessment_key, decode, encode
from tests.producer.hostile import Hostile

TRACE = "tr-0af7651916cd43dd8448eb211c80319c"


def sent(captured: capture) -> Assessment:
    """The one assessment, as the worker reads it."""
    (parcel,) = captured.parcels
    assert parcel.assessment is not None
    event = decode(encode(parcel.assessment))
    assert isinstance(event, Assessment), event
    return event


def test_feedback_by_trace_id(captured: capture) -> None:
    returned = spanferry.log_feedback(
        trace_id=TRACE,
        name="relevance",
        value={"score": 0.9},
        source=spanferry.AssessmentSource("llm_judge", "gpt"),
        rationale="because",
        metadata={"a": 1},
        span_id="b7ad6b7169203331",
    )
    event = sent(captured)
    assert event == returned
    assert event.assessment_id.startswith("a-")
    assert len(event.assessment_id) == 34
    assert event.kind is AssessmentKind.FEEDBACK
    assert (event.name, event.value, event.rationale) == ("relevance", b'{"score":0.9}', "because")
    assert (event.source_type, event.source_id) == ("LLM_JUDGE", "gpt")
    assert event.metadata == {"a": "1"}
    assert event.trace_id == captured.parcels[0].trace_id == bytes.fromhex(TRACE[3:])
    assert event.span_id == bytes.fromhex("b7ad6b7169203331")
    assert captured.assessments[0].trace_id == TRACE
    assert captured.assessments[0].value == {"score": 0.9}


def test_feedback_by_the_clients_request_id(captured: capture) -> None:
    spanferry.log_feedback(client_request_id="request-1", value=True)
    event = sent(captured)
    assert (event.trace_id, event.client_request_id) == (None, "request-1")
    assert captured.parcels[0].trace_id == assessment_key("request-1")
    assert (event.name, event.source_type, event.source_id) == ("feedback", "CODE", "default")
    assert captured.assessments[0].trace_id is None


def test_an_expectation(captured: capture) -> None:
    spanferry.log_expectation(trace_id=TRACE, name="answer", value=["a"])
    event = sent(captured)
    assert event.kind is AssessmentKind.EXPECTATION
    assert (event.name, event.value, event.source_type) == ("answer", b'["a"]', "HUMAN")


def test_feedback_on_the_trace_that_is_open(captured: capture) -> None:
    with spanferry.start_span("root") as root:
        spanferry.log_feedback(trace_id=root.trace_id, value=1)
    (trace,) = captured.traces
    assert captured.assessments[0].trace_id == trace.trace_id


@pytest.mark.parametrize(
    ("error", "stored"),
    [
        ("judge failed", ("ASSESSMENT_ERROR", "judge failed", None)),
        (
            spanferry.AssessmentError("LIMIT", "too much"),
            ("LIMIT", "too much", None),
        ),
        (
            mlflow.entities.AssessmentError("LIMIT", stack_trace="stack"),
            ("LIMIT", None, "stack"),
        ),
        (3, ("ASSESSMENT_ERROR", None, None)),
        (Hostile(), ("ASSESSMENT_ERROR", None, None)),
    ],
    ids=["text", "ours", "theirs", "number", "hostile"],
)
def test_errors_in_place_of_a_judgement(error: Any, stored: Any, captured: capture) -> None:
    spanferry.log_feedback(trace_id=TRACE, error=error)
    assert sent(captured).error == stored
    assert sent(captured).value == b"null"


def test_an_exception_is_stored_as_mlflow_stores_it(captured: capture) -> None:
    try:
        raise ValueError("wrong")
    except ValueError as raised:
        error = raised
    spanferry.log_feedback(trace_id=TRACE, error=error)
    theirs = mlflow.entities.Feedback(error=error).error
    assert sent(captured).error == (
        theirs.error_code,
        theirs.error_message,
        theirs.stack_trace,
    )


@pytest.mark.parametrize(
    ("source", "stored"),
    [
        (mlflow.entities.AssessmentSource("HUMAN", "bob"), ("HUMAN", "bob")),
        (spanferry.AssessmentSource("AI_JUDGE"), ("LLM_JUDGE", "default")),
        (SimpleNamespace(source_type="CODE", source_id=None), ("CODE", "default")),
        (spanferry.AssessmentSource("ORACLE", "delphi"), ("CODE", "delphi")),
        ("HUMAN", ("CODE", "default")),
        (Hostile(), ("CODE", "default")),
    ],
    ids=["theirs", "old word", "no id", "unknown", "text", "hostile"],
)
def test_sources(source: Any, stored: Any, captured: capture) -> None:
    spanferry.log_feedback(trace_id=TRACE, source=source)
    assert (sent(captured).source_type, sent(captured).source_id) == stored


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({}, "needs a trace_id or a client_request_id"),
        ({"client_request_id": ""}, "needs a trace_id or a client_request_id"),
        ({"trace_id": "nonsense"}, "no trace id"),
        ({"trace_id": Hostile()}, "no trace id"),
    ],
    ids=["none", "empty", "nonsense", "hostile"],
)
def test_what_judges_nothing_is_said_once_and_left_out(
    arguments: Any, word: str, captured: capture, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        assert spanferry.log_feedback(value=1, **arguments) is None
    assert not captured.parcels
    assert len(caplog.records) == 1
    assert word in caplog.text


def test_an_expectation_needs_a_value(captured: capture, caplog: pytest.LogCaptureFixture) -> None:
    assert spanferry.log_expectation(trace_id=TRACE, name="answer", value=None) is None
    assert not captured.parcels
    assert "needs a value" in caplog.text


def test_any_value_can_be_sent(captured: capture) -> None:
    spanferry.log_feedback(
        client_request_id="\ud800",
        name="\ud800",
        value=Hostile(),
        rationale=Hostile(),  # type: ignore[arg-type]
        metadata={Hostile(): Hostile()},  # type: ignore[dict-item]
        span_id="short",
    )
    event = sent(captured)
    assert (event.name, event.client_request_id, event.span_id) == ("?", "?", None)
    assert "cannot record Hostile" in (event.rationale or "")


@pytest.mark.usefixtures("unsaid")
def test_without_enable_nothing_is_sent(caplog: pytest.LogCaptureFixture) -> None:
    assert spanferry.log_feedback(trace_id=TRACE, value=1) is None
    assert "not enabled" in caplog.text


def test_what_was_never_recorded_is_left_out_quietly(
    captured: capture, caplog: pytest.LogCaptureFixture
) -> None:
    assert spanferry.log_feedback(trace_id=spanferry.NoOpSpan().trace_id, value=1) is None
    assert not captured.parcels
    assert not caplog.records


def test_rejections_would_be_seen() -> None:
    assert isinstance(
        decode(encode(Assessment("a-1", AssessmentKind.FEEDBACK, "n", b"1", 1))), Rejection
    )
