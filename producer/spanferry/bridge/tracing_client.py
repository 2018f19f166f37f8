"""What MLflow's TracingClient does with assessments and tags: by Kafka instead of by a request.

What reads, changes or takes away an assessment asks the tracking server as before, unless this process
has sent it in the last minute.
"""
# pyright: reportPrivateUsage=false

from collections.abc import Callable
from typing import Any, Final

from mlflow.entities import Assessment
from mlflow.entities.span import NO_OP_SPAN_TRACE_ID
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST
from mlflow.tracing.client import TracingClient
from mlflow.tracing.trace_manager import InMemoryTraceManager
from mlflow.utils.mlflow_tags import IMMUTABLE_TAGS

from spanferry import values
from spanferry.bridge.assessing import asked_by_mlflow_itself, is_ours, send, send_tags
from spanferry.bridge.ended import was_handed_over
from spanferry.bridge.recent import forget, recalled
from spanferry.bridge.traces import OPEN
from spanferry.bridge.waiting import when_stored

__all__ = ["REPLACEMENTS"]

_ELSEWHERE_S: Final = 10.0
"""For so long an assessment may take that another process has sent. The worker needs 6 s for one
on a trace of long ago."""

_log_assessment = TracingClient.log_assessment
_set_trace_tag = TracingClient.set_trace_tag
_delete_trace_tag = TracingClient.delete_trace_tag
_get_assessment = TracingClient.get_assessment
_update_assessment: Any = TracingClient.update_assessment
_delete_assessment = TracingClient.delete_assessment


def _stays_with_mlflow(trace_id: Any) -> bool:
    """Whether MLflow holds the trace itself, or is not to be second-guessed."""
    if not is_ours(trace_id) or asked_by_mlflow_itself():
        return True
    mlflows = getattr(InMemoryTraceManager.get_instance(), "mlflows", {})
    return trace_id in mlflows and OPEN.get(trace_id) is None


def log_assessment(self: TracingClient, trace_id: str, assessment: Assessment) -> Assessment:
    """As MLflow's; the trace need not be stored yet."""
    if not trace_id or trace_id == NO_OP_SPAN_TRACE_ID:
        assessment.trace_id = trace_id
        return assessment
    if assessment.issue is not None or _stays_with_mlflow(trace_id):
        return _log_assessment(self, trace_id, assessment)
    assessment.trace_id = trace_id
    send(trace_id, assessment)
    return assessment


def set_trace_tag(self: TracingClient, trace_id: str, key: str, value: str) -> None:
    """As MLflow's; the trace need not be stored yet."""
    if key in IMMUTABLE_TAGS or _stays_with_mlflow(trace_id):
        _set_trace_tag(self, trace_id, key, value)
        return
    trace = OPEN.get(trace_id)
    if trace is not None and not trace.ended:
        trace.facts.tags[values.text(key)] = values.text(value)
        trace.changed = True
    else:
        send_tags(trace_id, tags={values.text(key): values.text(value)}, deleted=())


def delete_trace_tag(self: TracingClient, trace_id: str, key: str) -> None:
    """As MLflow's; a tag that a stored trace does not have is no error."""
    if key in IMMUTABLE_TAGS or _stays_with_mlflow(trace_id):
        _delete_trace_tag(self, trace_id, key)
        return
    trace = OPEN.get(trace_id)
    if trace is None or trace.ended:
        send_tags(trace_id, tags={}, deleted=(values.text(key),))
    elif trace.facts.tags.pop(key, None) is None:
        raise MlflowException(
            f"Tag with key {key} not found in trace with ID {trace_id}.",
            error_code=RESOURCE_DOES_NOT_EXIST,
        )


def get_assessment(self: TracingClient, trace_id: str, assessment_id: str) -> Any:
    """As MLflow's; what this process has sent lately it answers itself, without waiting."""
    return recalled(trace_id, assessment_id) or _when_stored(
        trace_id, lambda: _get_assessment(self, trace_id, assessment_id)
    )


def update_assessment(
    self: TracingClient, trace_id: str, assessment_id: str, assessment: Assessment
) -> Any:
    """As MLflow's; waits for one that is on its way."""
    sent = recalled(trace_id, assessment_id) is not None
    forget(assessment_id)
    return _when_stored(
        trace_id, lambda: _update_assessment(self, trace_id, assessment_id, assessment), sent=sent
    )


def delete_assessment(self: TracingClient, trace_id: str, assessment_id: str) -> None:
    """As MLflow's; waits for one that is on its way."""
    sent = recalled(trace_id, assessment_id) is not None
    forget(assessment_id)
    if sent or was_handed_over(trace_id):  # for one that is not there MLflow's succeeds
        _when_stored(trace_id, lambda: _get_assessment(self, trace_id, assessment_id), sent=sent)
    _delete_assessment(self, trace_id, assessment_id)


def _when_stored(trace_id: str, call: Callable[[], Any], *, sent: bool = False) -> Any:
    """Call it until MLflow has it: longer where this process knows that it is on its way."""
    if _stays_with_mlflow(trace_id):
        return call()
    if sent or was_handed_over(trace_id):
        return when_stored(call)
    return when_stored(call, _ELSEWHERE_S)


REPLACEMENTS: Final = (
    ("get_assessment", get_assessment),
    ("update_assessment", update_assessment),
    ("delete_assessment", delete_assessment),
    ("log_assessment", log_assessment),
    ("set_trace_tag", set_trace_tag),
    ("delete_trace_tag", delete_trace_tag),
)
"""Methods of TracingClient, and what stands for them."""
