"""MLflow's assessments and tags on traces by id: behind their traces, through Kafka."""
# pyright: reportPrivateUsage=false

import sys
from typing import Any, Final, cast

from mlflow.entities import Assessment
from mlflow.entities.span import NO_OP_SPAN_TRACE_ID

from spanferry import outlet as outlets
from spanferry.bridge.recent import remember
from spanferry.feedback import log_assessment
from spanferry.parcel import PARCEL_OVERHEAD_BYTES, Parcel, assessment_size, part_size
from spanferry.process import PROCESS
from spanferry_schemas import TracePart, trace_id_bytes

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
    """Hand over an MLflow assessment of a trace, and give it the id that it is sent by. Never raises."""
    sent = log_assessment(trace_id, cast("Any", assessment))
    if sent is not None:
        assessment.assessment_id = sent.assessment_id
        remember(assessment, assessment_size(sent))


def send_tags(trace_id: str, *, tags: dict[str, str], deleted: tuple[str, ...]) -> None:
    """Hand over a change of the tags of a trace that has been handed over before."""
    outlet = outlets.current()
    key = trace_id_bytes(trace_id)
    if outlet is not None and key is not None:
        part = TracePart(tags=tags, deleted_tags=deleted)
        if PROCESS.finish_above < 0:
            part = PROCESS.finisher.part(part)
        outlet.put(Parcel(key, PARCEL_OVERHEAD_BYTES + part_size(part), trace=part, remote=True))
