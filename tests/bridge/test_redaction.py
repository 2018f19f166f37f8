"""Redaction reaches what goes through MLflow's API, on light spans and on MLflow's own."""

import json
from collections.abc import Iterator
from typing import Any

import mlflow
import msgspec
import pytest
from mlflow.entities import AssessmentSource, Feedback, SpanEvent
from mlflow.tracing.attachments import Attachment

from spanferry import outlet as outlets
from spanferry.parcel import encoded
from spanferry.redaction import Redaction
from spanferry.settings import Settings
from spanferry.testing import capture
from tests.bridge.conftest import NOWHERE

MAIL = "bob@example.com"


def everything(outlet: capture) -> bytes:
    out = [b""]
    for parcel in outlet.parcels:
        out += encoded(parcel.spans)
        out.append(msgspec.msgpack.encode((parcel.trace, parcel.assessment, parcel.session)))
        out += [attachment.data for attachment in parcel.attachments]
    return b"\n".join(out)


@pytest.fixture
def redacting(accelerate: bool) -> Iterator[capture]:
    redact = Redaction(presets=["all"], fields=["ssn"])
    settings = Settings(bootstrap_servers=NOWHERE, accelerate=accelerate, redact=redact)
    with capture(settings) as outlet:
        yield outlet


@mlflow.trace
def streamed(mail: str) -> Iterator[Any]:
    yield mail
    yield {"delta": mail, "ü": 1}


def test_nothing_that_mlflows_api_can_say_gets_through(redacting: capture) -> None:
    with mlflow.start_span(f"root {MAIL}", attributes={"a": MAIL}) as root:
        root.set_inputs({"ssn": "123456789", "q": MAIL, "args": json.dumps({"SSN": "123456789"})})
        root.set_outputs([MAIL, {"password": "hunter22x"}])
        root.add_event(SpanEvent(MAIL, attributes={"e": MAIL}))
        mlflow.update_current_trace(
            tags={"t": MAIL}, metadata={"m": MAIL}, request_preview=MAIL, response_preview=MAIL
        )
        with pytest.raises(ValueError, match=MAIL), mlflow.start_span("fails"):
            raise ValueError(MAIL)
        list(streamed(MAIL))
    mlflow.log_feedback(
        trace_id=root.trace_id, name="f", value=MAIL, rationale=MAIL, metadata={"m": MAIL}
    )
    mlflow.log_assessment(root.trace_id, Feedback(name="g", error=ValueError(MAIL)))
    mlflow.MlflowClient().set_trace_tag(root.trace_id, "late", MAIL)
    sent = everything(redacting)
    assert MAIL.encode() not in sent
    assert b"123456789" not in sent
    assert b"hunter22x" not in sent
    (trace,) = redacting.traces
    assert trace.root.inputs["ssn"] == "[REDACTED:ssn]"
    assert json.loads(trace.root.inputs["args"]) == {"SSN": "[REDACTED:ssn]"}
    assert trace.tags["late"] == trace.part.request_preview == "[REDACTED:email]"
    assert len(trace.spans) == 3


def test_attachments_are_withheld_with_a_mark_where_they_were(redacting: capture) -> None:
    with mlflow.start_span("root") as root:
        root.set_inputs({"file": Attachment(content_type="text/plain", content_bytes=b"secret")})
    (trace,) = redacting.traces
    assert trace.root.inputs == {"file": "[REDACTED:attachment]"}
    assert b"secret" not in everything(redacting)


def test_identities_pass_where_nothing_else_is_said(redacting: capture) -> None:
    with mlflow.start_span("root") as root:
        mlflow.update_current_trace(session_id=MAIL, user=MAIL)
    source = AssessmentSource(source_type="HUMAN", source_id=MAIL)
    mlflow.log_feedback(trace_id=root.trace_id, name="f", value=1, source=source)
    (trace,) = redacting.traces
    assert trace.metadata["mlflow.trace.session"] == MAIL
    assert redacting.assessments[0].event.source_id == MAIL


def test_span_processors_see_what_there_is_and_what_they_add_is_redacted(
    redacting: capture,
) -> None:
    seen: list[Any] = []

    def processor(span: Any) -> None:
        seen.append(span.inputs)
        span.set_outputs(f"added {MAIL}")

    mlflow.tracing.configure(span_processors=[processor])
    try:
        with mlflow.start_span("root") as root:
            root.set_inputs(MAIL)
    finally:
        mlflow.tracing.reset()
        mlflow.tracing.configure(span_processors=[])
    assert seen == [MAIL]
    assert redacting.traces[0].root.outputs == "added [REDACTED:email]"


def test_pythons_json_with_nan_is_looked_into(redacting: capture) -> None:
    with mlflow.start_span("root") as root:
        root.set_inputs({"n": float("nan"), "q": MAIL})
    assert MAIL.encode() not in everything(redacting)


def test_redaction_that_fails_withholds(accelerate: bool) -> None:
    def function(value: Any, place: str) -> Any:
        raise ZeroDivisionError

    settings = Settings(
        bootstrap_servers=NOWHERE, accelerate=accelerate, redact=Redaction(function=function)
    )
    with capture(settings) as captured:
        with mlflow.start_span(MAIL) as root:
            root.set_inputs(MAIL)
        assert outlets.finished().withheld >= 2
    (trace,) = captured.traces
    assert trace.root.inputs == "[REDACTED:withheld]"
    assert MAIL.encode() not in everything(captured)


def test_payloads_are_cut_with_a_mark(accelerate: bool) -> None:
    settings = Settings(bootstrap_servers=NOWHERE, accelerate=accelerate, payload_bytes_max=1_000)
    with capture(settings) as captured, mlflow.start_span("root") as root:
        root.set_inputs("x" * 5_000)
        root.set_outputs("kept")
    (trace,) = captured.traces
    assert trace.root.inputs == "x" * 995 + "…"
    assert trace.root.outputs == "kept"
    assert trace.root.attributes["spanferry.cut"] == {"mlflow.spanInputs": 5_002}
