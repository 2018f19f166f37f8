"""The names of MLflow's fluent API have MLflow's arguments: names, order, kinds, defaults."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import mlflow
import mlflow.entities
import mlflow.tracing
import pytest
from mlflow.entities.span import LiveSpan, NoOpSpan

import spanferry

ADDED: dict[str, set[str]] = {
    # what MLflow's server would have to be asked for first
    "log_feedback": {"client_request_id"},
    "log_expectation": {"client_request_id"},
    "log_assessment": {"client_request_id"},
    "override_feedback": {"client_request_id"},
    # the worker makes the model, so it is told what log_model_params would say
    "set_active_model": {"params"},
    # MLflow is enabled by being imported; we need to know where Kafka is
    "enable": {"options"},
}
"""Arguments that MLflow does not have."""

OPTIONAL: dict[str, set[str]] = {
    # either of two ids will do
    "log_feedback": {"trace_id"},
    "log_expectation": {"trace_id"},
    "override_feedback": {"trace_id"},
    "log_assessment": {"trace_id", "assessment"},
}
"""Arguments that MLflow wants and we can do without."""

OF_OUR_OWN = {
    "ConfigurationError",  # what enable() raises
    "Redaction",  # MLflow leaves that to span processors
    "Stats",  # what stats() returns
    "flush",  # waits for Kafka: mlflow.flush_trace_async_logging waits for a server
    "git_version",  # mlflow.genai.enable_git_model_versioning asks the server for the model
    "stats",
}
"""Names that MLflow does not have."""

# Made by the tracer, never by users; AssessmentSourceType is a list of words in both.
NOT_CALLED = {"AssessmentSourceType", "NoOpSpan", "Span"}

CONVERSIONS = ("from_", "to_", "json")
"""How MLflow's entities become protobuf, OpenTelemetry's objects and JSON, which is the worker's job."""

Parameters = dict[str, tuple[Any, Any]]


def theirs(name: str) -> Any:
    for place in (mlflow, mlflow.tracing, mlflow.entities):
        found = getattr(place, name, None)
        if found is not None:
            return found
    return None


def parameters(function: Callable[..., Any]) -> Parameters:
    """Kind and default of every parameter by name, in order. A default that is made is only told so."""
    return {
        one.name: (one.kind, str(one.default) if "actory" in str(one.default) else one.default)
        for one in inspect.signature(function).parameters.values()
    }


def without_ours(name: str, ours: Parameters) -> Parameters:
    """Our parameters as they were if MLflow's were all we had."""
    added, optional = ADDED.get(name, set()), OPTIONAL.get(name, set())
    assert added | optional <= set(ours), "a deviation that is none any more"
    return {
        key: (kind, inspect.Parameter.empty if key in optional else default)
        for key, (kind, default) in ours.items()
        if key not in added
    }


SHARED = sorted(set(spanferry.__all__) - OF_OUR_OWN - NOT_CALLED)


@pytest.mark.parametrize("name", SHARED)
def test_arguments_are_mlflows(name: str) -> None:
    ours, mlflows = parameters(getattr(spanferry, name)), parameters(theirs(name))
    assert list(without_ours(name, ours).items()) == [
        (key, value if "actory" not in str(value) else ours[key]) for key, value in mlflows.items()
    ]


@pytest.mark.parametrize("name", sorted(OF_OUR_OWN))
def test_what_is_our_own_mlflow_does_not_have(name: str) -> None:
    assert theirs(name) is None


def public(kind: type) -> Iterator[str]:
    return (name for name in dir(kind) if not name.startswith(("_", *CONVERSIONS)))


@pytest.mark.parametrize(
    ("ours", "mlflows", "left_out"),
    [
        (spanferry.Span, LiveSpan, set()),
        (spanferry.NoOpSpan, NoOpSpan, {"context"}),  # OpenTelemetry's, which is not there
        (spanferry.SpanEvent, mlflow.entities.SpanEvent, set()),
        (spanferry.SpanStatus, mlflow.entities.SpanStatus, set()),
        (spanferry.SpanStatusCode, mlflow.entities.SpanStatusCode, set()),
        (spanferry.SpanType, mlflow.entities.SpanType, set()),
        (spanferry.SpanLogLevel, mlflow.entities.SpanLogLevel, set()),
        (spanferry.Link, mlflow.entities.Link, set()),
        (spanferry.AssessmentSource, mlflow.entities.AssessmentSource, set()),
        (spanferry.AssessmentSourceType, mlflow.entities.AssessmentSourceType, {"AI_JUDGE"}),  # old
        (spanferry.AssessmentError, mlflow.entities.AssessmentError, set()),
    ],
    ids=lambda one: getattr(one, "__name__", None),
)
def test_members_are_mlflows(ours: type, mlflows: type, left_out: set[str]) -> None:
    missing = {name for name in public(mlflows) if not hasattr(ours, name)}
    assert missing == left_out
    for name in set(public(mlflows)) - left_out:
        if inspect.isfunction(inspect.getattr_static(mlflows, name)):
            assert parameters(getattr(ours, name)) == parameters(getattr(mlflows, name)), name
