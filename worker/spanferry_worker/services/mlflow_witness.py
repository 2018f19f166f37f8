"""What proves that a tracking server stores spans: one that it has, sent once more, which changes nothing."""

import json
import threading
from collections.abc import Sequence
from typing import Any, Final

from mlflow.entities import Span
from mlflow.tracing.constant import SpanAttributeKey
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from spanferry_worker.errors import PoisonError, TransientError
from spanferry_worker.services.mlflow_backend import span_chars
from spanferry_worker.services.mlflow_private import attribute_texts, otlp_kind
from spanferry_worker.services.mlflow_server import Server

__all__ = ["Witness", "export_request"]

CHARS_MAX: Final = 10_000
FIRST: Final = 20
"""Spans of a load that are looked at."""


class Witness:
    """A small span that one server has taken. Several threads may use it.

    It is a root that sets no tags of its trace: times, state and name are those that the trace has already,
    but for the millisecond by which the server rounds.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._lock = threading.Lock()
        self._seen: tuple[str, Span] | None = None
        """With the id of its experiment."""

    def saw(self, experiment_id: str, spans: Sequence[Span]) -> None:
        """The server has taken these."""
        found = next(filter(_changes_nothing, spans[:FIRST]), None)
        if found is not None:
            self._seen = (experiment_id, found)

    def testifies(self) -> bool | None:
        """Send it once more. Whether it was taken; None where there is none to send.

        A trace that was deleted meanwhile is not brought back.
        """
        with self._lock:
            if self._seen is None:
                return None
            experiment_id, span = self._seen
            ids = [span.trace_id]
            try:
                there = self._server.call(
                    "looking up traces", lambda: self._server.store.batch_get_trace_infos(ids)
                )
                if there:
                    self._server.send_spans(experiment_id, export_request([span]))
                    return True
            except TransientError:
                return False
            except PoisonError:
                pass  # it was archived, or moved
            self._seen = None
            return None


def _changes_nothing(span: Span) -> bool:
    if span.parent_id is not None or span_chars(span) > CHARS_MAX:
        return False
    return not any(
        key.startswith(SpanAttributeKey.TRACE_TAG_PREFIX) for key in attribute_texts(span)
    )


def export_request(spans: Sequence[Span]) -> ExportTraceServiceRequest:
    """OTLP of spans."""
    request = ExportTraceServiceRequest()
    scope = request.resource_spans.add().scope_spans.add()
    scope.spans.extend(map(_to_proto, spans))
    return request


def _to_proto(span: Span) -> Any:
    """OTLP of a span, with its kind, which MLflow's own has from 3.18 on."""
    proto = _translated(span)
    proto.kind = otlp_kind(span)
    return proto


def _translated(span: Span) -> Any:
    """By MLflow. An integer beyond 64 bits, which OTLP cannot carry, goes as its digits."""
    try:
        return span.to_otel_proto()
    except ValueError:
        attributes: dict[str, Any] = dict(attribute_texts(span))
        for key, text in attributes.items():
            attributes[key] = json.dumps(_fitting(json.loads(text)), ensure_ascii=False)
        data = span.to_dict()
        data["attributes"] = attributes
        return Span.from_dict(data).to_otel_proto()


def _fitting(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _fitting(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_fitting(item) for item in value]
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return str(value)
    return value
