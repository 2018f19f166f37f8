"""What feedback and expectations are made of, and how that is sent."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple, Protocol

from msgspec import Struct

from spanferry import outlet as outlets
from spanferry import values
from spanferry.entities import stack_trace
from spanferry.log import say_once
from spanferry.opening import complain_not_enabled
from spanferry.parcel import Parcel, assessment_size
from spanferry.process import PROCESS
from spanferry.spans import NO_OP_SPAN_TRACE_ID
from spanferry.stopping import let_through
from spanferry_schemas import Assessment, assessment_key, trace_id_bytes
from spanferry_schemas.limits import SPAN_ID_BYTES

__all__ = [
    "AssessmentError",
    "AssessmentLike",
    "AssessmentSource",
    "AssessmentSourceType",
    "ErrorLike",
    "SourceLike",
    "Target",
    "error_of",
    "send",
    "source_of",
    "target_of",
]


class AssessmentSourceType:
    """Who judges, in MLflow's words."""

    HUMAN: Final = "HUMAN"
    LLM_JUDGE: Final = "LLM_JUDGE"
    CODE: Final = "CODE"
    SOURCE_TYPE_UNSPECIFIED: Final = "SOURCE_TYPE_UNSPECIFIED"


class AssessmentSource(Struct, frozen=True):
    """Who judges: one of AssessmentSourceType, and which person, model or program."""

    source_type: str
    source_id: str | None = "default"


class AssessmentError(Struct, frozen=True):
    """Why there is no judgement."""

    error_code: str
    error_message: str | None = None
    stack_trace: str | None = None


class SourceLike(Protocol):
    """What a source must have: spanferry's AssessmentSource, or MLflow's."""

    @property
    def source_type(self) -> str: ...
    @property
    def source_id(self) -> str | None: ...


class ErrorLike(Protocol):
    """What an error must have: spanferry's AssessmentError, or MLflow's."""

    @property
    def error_code(self) -> str: ...
    @property
    def error_message(self) -> str | None: ...
    @property
    def stack_trace(self) -> str | None: ...


class AssessmentLike(Protocol):
    """What an assessment must have: MLflow's Feedback or Expectation, or one of the app's own.

    An Expectation is told by an attribute `expectation` that is not None.
    """

    @property
    def name(self) -> str: ...
    @property
    def value(self) -> Any: ...
    @property
    def source(self) -> SourceLike | None: ...
    @property
    def metadata(self) -> Mapping[str, Any] | None: ...
    @property
    def span_id(self) -> str | None: ...


_SOURCE_TYPES: Final = {
    "HUMAN": AssessmentSourceType.HUMAN,
    "LLM_JUDGE": AssessmentSourceType.LLM_JUDGE,
    "AI_JUDGE": AssessmentSourceType.LLM_JUDGE,
    "CODE": AssessmentSourceType.CODE,
    "SOURCE_TYPE_UNSPECIFIED": AssessmentSourceType.SOURCE_TYPE_UNSPECIFIED,
}


class Target(NamedTuple):
    """What is judged."""

    trace_id: bytes | None
    client_request_id: str | None
    span_id: bytes | None


def target_of(
    trace_id: str | None, client_request_id: str | None, span_id: str | None
) -> Target | None:
    """What is judged; None, and said once why, where that is nothing."""
    request = None if client_request_id is None else values.text(client_request_id)
    if trace_id is None:
        if request:
            return Target(None, request, _span_id(span_id))
        say_once("judged", "feedback needs a trace_id or a client_request_id: it is left out")
        return None
    given = values.text(trace_id)
    trace = trace_id_bytes(given)
    if trace is None:
        if given != NO_OP_SPAN_TRACE_ID:  # what is not recorded cannot be judged
            say_once("judged-id", "feedback on %s is left out: that is no trace id", given)
        return None
    return Target(trace, request, _span_id(span_id))


def _span_id(span_id: str | None) -> bytes | None:
    if span_id is None:
        return None
    try:
        known = bytes.fromhex(values.text(span_id))
    except ValueError:
        known = b""
    if len(known) == SPAN_ID_BYTES:
        return known
    say_once("judged-span", "%s is no span id: it is left out", values.text(span_id))
    return None


def source_of(source: SourceLike | None, default: str) -> tuple[str, str]:
    if source is None:
        return default, "default"
    try:
        given = values.text(source.source_type).upper()
        source_id = values.text(source.source_id or "default")
    except BaseException as error:  # noqa: BLE001  whatever a user's object does
        let_through(error)
        say_once("source", "an assessment's source could not be used: %s", values.text(error))
        return default, "default"
    if given not in _SOURCE_TYPES:
        say_once("source-type", "%s is not a source type: %s is used", given, default)
    return _SOURCE_TYPES.get(given, default), source_id


def error_of(error: Exception | ErrorLike | str) -> tuple[str, str | None, str | None]:
    """Code, message and stack trace, as MLflow makes them of an exception or a text."""
    try:
        if isinstance(error, str):
            return "ASSESSMENT_ERROR", values.text(error), None
        if isinstance(error, Exception):
            trace = _representation(error) + stack_trace(error)
            return type(error).__name__, values.text(error), trace
        message, stack = error.error_message, error.stack_trace
        return (
            values.text(error.error_code),
            None if message is None else values.text(message),
            None if stack is None else values.text(stack),
        )
    except BaseException as trouble:  # noqa: BLE001  whatever a user's object does
        let_through(trouble)
        say_once("error", "an assessment's error could not be used: %s", values.text(trouble))
        return "ASSESSMENT_ERROR", None, None


def _representation(error: Exception) -> str:
    try:
        return values.clean(repr(error))
    except BaseException as trouble:  # noqa: BLE001  whatever a user's exception does
        let_through(trouble)
        return ""


def send(assessment: Assessment) -> Assessment | None:
    outlet = outlets.current()
    if outlet is None:
        complain_not_enabled()
        return None
    if PROCESS.finish_above < 0:
        assessment = PROCESS.finisher.assessment(assessment)
    key = assessment.trace_id or assessment_key(assessment.client_request_id or "")
    outlet.put(Parcel(key, assessment_size(assessment), assessment=assessment))
    return assessment
