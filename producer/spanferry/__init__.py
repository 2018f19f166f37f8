"""Traces of a production app to MLflow, over Kafka, without making the app wait.

spanferry.enable(bootstrap_servers="kafka:9092", experiment="my-app")

@spanferry.trace
def answer(question: str) -> str: ...
"""

from spanferry import automatic
from spanferry.active_model import clear_active_model, set_active_model
from spanferry.assessments import AssessmentError, AssessmentSource, AssessmentSourceType
from spanferry.client import Stats, disable, enable, flush, stats
from spanferry.decorator import trace
from spanferry.entities import (
    Link,
    SpanEvent,
    SpanLogLevel,
    SpanStatus,
    SpanStatusCode,
    SpanType,
)
from spanferry.feedback import (
    log_assessment,
    log_expectation,
    log_feedback,
    override_feedback,
)
from spanferry.git import git_version
from spanferry.redaction import Redaction
from spanferry.scope import context
from spanferry.settings import ConfigurationError
from spanferry.spans import NoOpSpan, Span
from spanferry.tracing import (
    get_active_trace_id,
    get_current_active_span,
    get_last_active_trace_id,
    get_tracing_context_headers_for_http_request,
    set_tracing_context_from_http_request_headers,
    start_span,
    start_span_no_context,
    update_current_trace,
)

__all__ = [
    "AssessmentError",
    "AssessmentSource",
    "AssessmentSourceType",
    "ConfigurationError",
    "Link",
    "NoOpSpan",
    "Redaction",
    "Span",
    "SpanEvent",
    "SpanLogLevel",
    "SpanStatus",
    "SpanStatusCode",
    "SpanType",
    "Stats",
    "clear_active_model",
    "context",
    "disable",
    "enable",
    "flush",
    "get_active_trace_id",
    "get_current_active_span",
    "get_last_active_trace_id",
    "get_tracing_context_headers_for_http_request",
    "git_version",
    "log_assessment",
    "log_expectation",
    "log_feedback",
    "override_feedback",
    "set_active_model",
    "set_tracing_context_from_http_request_headers",
    "start_span",
    "start_span_no_context",
    "stats",
    "trace",
    "update_current_trace",
]

automatic.enable_if_told()
