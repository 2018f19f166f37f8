"""Feedback and expectations on traces, also on traces of other services and of other days."""

from collections.abc import Mapping
from time import time_ns
from typing import Any, Final, NotRequired, TypedDict, Unpack

from spanferry import values
from spanferry.assessments import (
    AssessmentLike,
    AssessmentSourceType,
    ErrorLike,
    SourceLike,
    Target,
    error_of,
    send,
    source_of,
    target_of,
)
from spanferry.log import say_once
from spanferry.process import new_assessment_id
from spanferry.stopping import let_through
from spanferry.texts import usable_texts
from spanferry_schemas import Assessment, AssessmentKind, mlflow_keys

__all__ = ["log_assessment", "log_expectation", "log_feedback", "override_feedback"]

_METADATA: Final = "an assessment's metadata is"

_DEFAULT_SOURCES: Final = {
    AssessmentKind.FEEDBACK: AssessmentSourceType.CODE,
    AssessmentKind.EXPECTATION: AssessmentSourceType.HUMAN,
}


class _Words(TypedDict):
    """What is said of the target, as it is sent."""

    name: str
    value: bytes
    created_ns: NotRequired[int]
    rationale: NotRequired[str | None]
    error: NotRequired[tuple[str, str | None, str | None] | None]
    overrides: NotRequired[str | None]


def log_feedback(  # noqa: PLR0913  MLflow's signature, and client_request_id
    *,
    trace_id: str | None = None,
    client_request_id: str | None = None,
    name: str = "feedback",
    value: Any = None,
    source: SourceLike | None = None,
    error: Exception | ErrorLike | str | None = None,
    rationale: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    span_id: str | None = None,
) -> Assessment | None:
    """Record a judgement on a trace, by its id or by the client's id of the request.

    The trace need not have arrived yet, nor come from this process. The source is CODE where none
    is given. Returns what was sent, with the `assessment_id` made for it; None where nothing was.
    """
    return _log(
        AssessmentKind.FEEDBACK,
        target_of(trace_id, client_request_id, span_id),
        source,
        metadata,
        name=values.text(name),
        value=values.encode(value),
        rationale=_text(rationale),
        error=None if error is None else error_of(error),
    )


def override_feedback(  # noqa: PLR0913  MLflow's signature, and client_request_id
    *,
    trace_id: str | None = None,
    client_request_id: str | None = None,
    assessment_id: str,
    value: Any,
    rationale: str | None = None,
    source: SourceLike | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Assessment | None:
    """Replace a judgement by another one, which takes over its name and span.

    What is replaced stays, marked as no longer valid: a person corrects a model's verdict. The
    worker looks it up by `assessment_id`, as `log_feedback` has returned it or MLflow shows it; where
    the trace has none of that id the new one goes to the dead letters.
    """
    overridden = _text(assessment_id)
    if not overridden:
        say_once("overridden", "override_feedback needs an assessment_id: it is left out")
        return None
    return _log(
        AssessmentKind.FEEDBACK,
        target_of(trace_id, client_request_id, None),
        source,
        metadata,
        name="",
        value=values.encode(value),
        rationale=_text(rationale),
        overrides=overridden,
    )


def log_expectation(  # noqa: PLR0913  MLflow's signature, and client_request_id
    *,
    trace_id: str | None = None,
    client_request_id: str | None = None,
    name: str,
    value: Any,
    source: SourceLike | None = None,
    metadata: Mapping[str, Any] | None = None,
    span_id: str | None = None,
) -> Assessment | None:
    """Record the answer that was wanted of a trace, which must not be None.

    As `log_feedback`; the source is HUMAN where none is given.
    """
    if value is None:
        say_once("expectation", "an expectation needs a value: it is left out")
        return None
    return _log(
        AssessmentKind.EXPECTATION,
        target_of(trace_id, client_request_id, span_id),
        source,
        metadata,
        name=values.text(name),
        value=values.encode(value),
    )


def log_assessment(
    trace_id: str | None = None,
    assessment: AssessmentLike | None = None,
    *,
    client_request_id: str | None = None,
) -> Assessment | None:
    """Record a Feedback or an Expectation of MLflow's, as its scorers and judges return them.

    By `trace_id`, else `client_request_id`, else the trace that the assessment itself names. It gets
    an id of its own, and is not changed. As `log_feedback` otherwise. References to issues are left
    out: MLflow looks these up while they are logged.
    """
    if assessment is None:
        say_once("assessment", "log_assessment needs an assessment: nothing is sent")
        return None
    try:
        return _log_entity(trace_id, client_request_id, assessment)
    except BaseException as error:  # noqa: BLE001  whatever a user's object does
        let_through(error)
        say_once("assessment-like", "an assessment could not be used: %s", values.text(error))
        return None


def _log_entity(
    trace_id: str | None, client_request_id: str | None, given: AssessmentLike
) -> Assessment | None:
    if getattr(given, "issue", None) is not None:
        say_once("assessment-issue", "a reference to an issue is left out: use mlflow.log_issue")
        return None
    if trace_id is None and client_request_id is None:
        trace_id = getattr(given, "trace_id", None)
    metadata = usable_texts(given.metadata, _METADATA)
    run_id = getattr(given, "run_id", None)
    if run_id is not None:
        metadata.setdefault(mlflow_keys.ASSESSMENT_METADATA_RUN, values.text(run_id))
    created_ms = getattr(given, "create_time_ms", None)
    error = getattr(given, "error", None)
    overrides = getattr(given, "overrides", None)
    expected = getattr(given, "expectation", None) is not None
    return _log(
        AssessmentKind.EXPECTATION if expected else AssessmentKind.FEEDBACK,
        target_of(trace_id, client_request_id, given.span_id),
        given.source,
        metadata,
        name=values.text(given.name),
        value=values.encode(_value(given)),
        created_ns=created_ms * 1_000_000 if type(created_ms) is int else time_ns(),
        rationale=_text(getattr(given, "rationale", None)),
        error=None if error is None else error_of(error),
        overrides=_text(overrides),
    )


def _log(
    kind: AssessmentKind,
    target: Target | None,
    source: SourceLike | None,
    metadata: Mapping[str, Any] | None,
    **words: Unpack[_Words],
) -> Assessment | None:
    if target is None:
        return None
    source_type, source_id = source_of(source, _DEFAULT_SOURCES[kind])
    return send(
        Assessment(
            assessment_id=new_assessment_id(),
            kind=kind,
            trace_id=target.trace_id,
            client_request_id=target.client_request_id,
            span_id=target.span_id,
            source_type=source_type,
            source_id=source_id,
            metadata=usable_texts(metadata, _METADATA),
            name=words["name"],
            value=words["value"],
            created_ns=words.get("created_ns") or time_ns(),
            rationale=words.get("rationale"),
            error=words.get("error"),
            overrides=words.get("overrides"),
        )
    )


def _value(given: AssessmentLike) -> Any:
    """What is said. MLflow's base class holds it one level deeper than its Feedback shows it."""
    if hasattr(given, "value"):
        return given.value
    kept = getattr(given, "expectation", None) or getattr(given, "feedback", None)
    return None if kept is None else kept.value


def _text(given: object) -> str | None:
    return None if given is None else values.text(given)
