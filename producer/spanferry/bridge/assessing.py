"""MLflow's assessments and tags on traces by id: behind their traces, through Kafka."""
# pyright: reportPrivateUsage=false

import sys
from time import time_ns
from typing import Any, Final

from mlflow.entities import Assessment, AssessmentError, Expectation
from mlflow.entities.span import NO_OP_SPAN_TRACE_ID

from spanferry import outlet as outlets
from spanferry import values
from spanferry.log import say_once
from spanferry.parcel import PARCEL_OVERHEAD_BYTES, Parcel
from spanferry.process import new_assessment_id
from spanferry_schemas import Assessment as WireAssessment
from spanferry_schemas import AssessmentKind, TracePart, trace_id_bytes

__all__ = ["asked_by_mlflow_itself", "is_ours", "send", "send_tags"]

_EVALUATION: Final = "mlflow.genai."
_API_MODULES: Final = ("mlflow.tracing.", "mlflow.telemetry.", "spanferry.bridge.")
_FRAMES_MAX: Final = 12


def is_ours(trace_id: object) -> bool:
    """Whether it may be a trace that goes through Kafka: by the form of its id."""
    return (
        isinstance(trace_id, str)
        and trace_id != NO_OP_SPAN_TRACE_ID
        and trace_id_bytes(trace_id) is not None
    )


def asked_by_mlflow_itself() -> bool:
    """Whether MLflow's evaluation asks, which reads at once what it has written."""
    frame = sys._getframe(1)
    for _ in range(_FRAMES_MAX):
        module: str = frame.f_globals.get("__name__", "")
        if not module.startswith(_API_MODULES):
            return module.startswith(_EVALUATION)
        if frame.f_back is None:
            return False
        frame = frame.f_back
    return False


def send(trace_id: str, assessment: Assessment) -> None:
    """Hand over an MLflow assessment of a trace; gives it an id where it has none. Never raises."""
    outlet = outlets.current()
    key = trace_id_bytes(trace_id)
    if outlet is None or key is None:
        return
    try:
        if assessment.assessment_id is None:
            assessment.assessment_id = new_assessment_id()
        event = _event(key, assessment)
        size = PARCEL_OVERHEAD_BYTES + len(event.value) + len(event.rationale or "")
        outlet.put(Parcel(key, size, assessment=event))
    except Exception as error:  # noqa: BLE001  whatever a user's value does
        say_once("assessment", "an assessment could not be sent: %s", values.text(error))


def send_tags(trace_id: str, *, tags: dict[str, str], deleted: list[str]) -> None:
    """Hand over a change of the tags of a trace that has been handed over before."""
    outlet = outlets.current()
    key = trace_id_bytes(trace_id)
    if outlet is not None and key is not None:
        size = PARCEL_OVERHEAD_BYTES + sum(len(tag) + len(text) for tag, text in tags.items())
        part = TracePart(tags=tags, deleted_tags=deleted)
        outlet.put(Parcel(key, size, trace=part, remote=True))


def _event(trace_id: bytes, given: Assessment) -> WireAssessment:
    metadata = {values.text(k): values.text(v) for k, v in (given.metadata or {}).items()}
    source = given.source
    created_ms = given.create_time_ms
    is_expectation = given.expectation is not None or isinstance(given, Expectation)
    span_id = bytes.fromhex(given.span_id) if given.span_id else None
    return WireAssessment(
        assessment_id=values.text(given.assessment_id),
        kind=AssessmentKind.EXPECTATION if is_expectation else AssessmentKind.FEEDBACK,
        name=values.text(given.name),
        value=values.encode(_value(given)),
        created_ns=time_ns() if created_ms is None else created_ms * 1_000_000,
        trace_id=trace_id,
        span_id=span_id,
        source_type=values.text(source.source_type) if source else "CODE",
        source_id=values.text(source.source_id or "default") if source else "default",
        rationale=None if given.rationale is None else values.text(given.rationale),
        metadata=metadata,
        error=_error(given.error),
        overrides=None if given.overrides is None else values.text(given.overrides),
    )


def _value(given: Assessment) -> Any:
    if given.expectation is not None:
        return given.expectation.value
    return None if given.feedback is None else given.feedback.value


def _error(error: AssessmentError | None) -> tuple[str, str | None, str | None] | None:
    if error is None:
        return None
    texts = (error.error_message, error.stack_trace)
    message, stack = (None if text is None else values.text(text) for text in texts)
    return values.text(error.error_code), message, stack
