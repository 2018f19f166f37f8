"""OpenTelemetry's span processor in the place of MLflow's: MLflow's own spans become ours."""
# pyright: reportPrivateUsage=false

import json
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final, cast

import msgspec
from mlflow.entities import LiveSpan
from mlflow.tracing.processor.base_mlflow import BaseMlflowSpanProcessor
from mlflow.tracing.processor.otel_metrics_mixin import OtelMetricsMixin
from mlflow.tracing.utils import maybe_get_request_id
from msgspec.structs import replace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace import Span as OtelSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import SpanContext, get_current_span
from opentelemetry.trace import SpanKind as OtelSpanKind

from spanferry import outlet as outlets
from spanferry import values
from spanferry.bridge.facts import dress
from spanferry.bridge.otel_view import OtelView
from spanferry.bridge.traces import OPEN, BridgedTrace
from spanferry.bridge.waiting import FlushQueue
from spanferry.context import ForeignParent
from spanferry.finishing import ATTACHMENT_MARK, may_attach
from spanferry.log import say_once
from spanferry.opening import dress_with_ours, new_trace
from spanferry.process import PROCESS
from spanferry.stopping import let_through
from spanferry.trace_state import lose
from spanferry_schemas import (
    Attachment,
    SpanEvent,
    SpanKind,
    SpanLink,
    StatusCode,
    TracePart,
    encode_span,
    mlflow_keys,
)
from spanferry_schemas import Span as WireSpan
from spanferry_schemas.limits import SPAN_ID_BYTES, TRACE_ID_BYTES

__all__ = ["BridgedExporter", "BridgedProcessor"]

_OWN_FIELDS: Final = frozenset({mlflow_keys.REQUEST_ID, mlflow_keys.SPAN_TYPE})
_EXPERIMENT_ID: Final = "mlflow.experimentId"
_DEFAULT_EXPERIMENT: Final = "0"
"""MLflow's id of the experiment that traces belong to of which nobody says anything else."""

_OVERHEAD_BYTES: Final = 128
"""What an encoded span takes in memory beside its bytes."""
_KINDS: Final[dict[object, SpanKind]] = {kind: SpanKind[kind.name] for kind in OtelSpanKind}
"""A tracer may give anything: nobody checks it."""
_check_json: Final = msgspec.json.Decoder(msgspec.Raw).decode


def _ids(span: ReadableSpan) -> SpanContext:
    """An own span's ids, which OpenTelemetry may leave out of those that it reads back."""
    return cast("SpanContext", span.context)


class BridgedExporter(SpanExporter):
    """What MLflow flushes. Nothing is exported by it."""

    def __init__(self, queue: FlushQueue) -> None:
        self._async_queue = queue

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:  # noqa: ARG002
        """Nothing: the processor has handed the spans over."""
        return SpanExportResult.SUCCESS


class BridgedProcessor(BaseMlflowSpanProcessor):
    """Hands spans over to spanferry as they end. An evaluation's traces stay with MLflow."""

    def __init__(
        self, make_mlflows: Callable[[], BaseMlflowSpanProcessor], **metrics: bool
    ) -> None:
        self._queue = FlushQueue(self._mlflows_exporter)
        exporter = BridgedExporter(self._queue)
        # Not BaseMlflowSpanProcessor's own: that starts git, in the request that comes first.
        OtelMetricsMixin.__init__(self, exporter)
        self.span_exporter = exporter
        self._export_metrics = metrics.get("export_metrics", False)
        self._batch_delegate = None
        self._pending_on_end_count = 0
        self._pending_on_end_condition = threading.Condition(threading.Lock())
        self._make_mlflows = make_mlflows
        self._mlflows: BaseMlflowSpanProcessor | None = None
        self._evaluated: set[int] = set()

    @property
    def exports_metrics(self) -> bool:
        """Whether every span is measured for OpenTelemetry's metrics."""
        return self._export_metrics

    def measure(self, span: ReadableSpan) -> None:
        """Have MLflow measure a span that has ended. Never raises."""
        try:
            self.record_metrics_for_span(_with_experiment(span))
        except Exception as error:  # noqa: BLE001  the trace is worth more than its duration
            if isinstance(error, ImportError):
                self._export_metrics = False  # it would be looked for again at every span
            say_once(
                "bridge-metrics",
                "spans are not measured for OpenTelemetry's metrics: %s. Install the exporter that "
                "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL names (grpc by default; there is http/protobuf "
                "too), or unset OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
                values.text(error),
            )

    def on_start(self, span: OtelSpan, parent_context: Context | None = None) -> None:
        """A span of MLflow's tracer has been started. Never raises."""
        try:
            if self._stays_with_mlflow(span):
                self._own_processor().on_start(span, parent_context)
            else:
                _take(span, get_current_span(parent_context))
        except Exception as error:  # noqa: BLE001  the app must not see our troubles
            say_once("bridge-start", "a span could not be started: %s", values.text(error))

    def on_end(self, span: ReadableSpan) -> None:
        """A span of MLflow's tracer has ended. Never raises."""
        try:
            if _ids(span).trace_id in self._evaluated:
                self._own_processor().on_end(span)
                if span.parent is None:
                    self._evaluated.discard(_ids(span).trace_id)
                return
            if self._export_metrics:
                self.measure(span)
            _hand_over(span)
        except BaseException as error:  # noqa: BLE001  the app must not see our troubles
            say_once("bridge-end", "a span could not be handed over: %s", values.text(error))
            _lost(span)
            let_through(error)

    def force_flush(self, timeout_millis: float = 30000) -> bool:
        """Wait until Kafka has acknowledged what was handed over, at most so long."""
        if self._mlflows is not None:
            self._mlflows.force_flush(int(timeout_millis))
        return self._queue.acknowledged(timeout_millis / 1000)

    def shutdown(self) -> None:
        """The tracer provider is replaced; spans that are open still come here."""
        if self._mlflows is not None:
            self._mlflows.shutdown()

    def _stays_with_mlflow(self, span: OtelSpan) -> bool:
        """Whether an evaluation made the trace: it reads its traces back at once."""
        if span.parent is None and maybe_get_request_id(is_evaluate=True):
            self._evaluated.add(_ids(span).trace_id)
        return _ids(span).trace_id in self._evaluated

    def _own_processor(self) -> BaseMlflowSpanProcessor:
        if self._mlflows is None:
            self._mlflows = self._make_mlflows()
        return self._mlflows

    def _mlflows_exporter(self) -> Any | None:
        return None if self._mlflows is None else self._mlflows.span_exporter


def _take(span: OtelSpan, parent: Any) -> None:
    """Give the span a trace of ours, and MLflow's LiveSpan around it."""
    ids = _ids(span)
    trace_id = ids.trace_id.to_bytes(TRACE_ID_BYTES, "big")
    mlflow_id = f"tr-{trace_id.hex()}"
    trace = OPEN.get(mlflow_id)
    if trace is None:  # it has ended, and a span of it goes on as a parent
        above = parent.live if isinstance(parent, OtelView) else getattr(parent, "_spanferry", None)
        trace = getattr(above, "trace", None)
    is_local_root = span.parent is None or (trace is None and span.parent.is_remote)
    if is_local_root:
        trace = _open(trace_id, span)
    if trace is None:
        return  # of a trace that has ended, or was started before the bridge
    span_id = ids.span_id.to_bytes(SPAN_ID_BYTES, "big")
    live = LiveSpan(span, mlflow_id, None)  # type: ignore[arg-type]  # as MLflow's processor does
    foreign = ForeignParent(trace, span_id, span, live)
    span._spanferry = foreign  # type: ignore[attr-defined]
    span._spanferry_root = is_local_root  # type: ignore[attr-defined]
    live.span_id_bytes = span_id  # type: ignore[attr-defined]
    trace.opened(cast("Any", live))


def _open(trace_id: bytes, root: OtelSpan) -> BridgedTrace | None:
    outlet = outlets.current()
    if outlet is None:
        return None
    if root.parent is not None:
        return cast("BridgedTrace", new_trace(trace_id, outlet, TracePart(), remote=True))
    name = values.text(root.name)
    facts = TracePart(tags={mlflow_keys.TAG_TRACE_NAME: name})
    given = (root.attributes or {}).get(_EXPERIMENT_ID)
    if isinstance(given, str):
        facts.experiment_id = values.text(_plain(given))
    else:
        facts.experiment_id = outlet.settings.experiment_id
        facts.experiment = outlet.settings.experiment
    if PROCESS.models or PROCESS.scopes:
        dress_with_ours(facts)
    dress(facts, experiment_given=isinstance(given, str))
    return cast("BridgedTrace", new_trace(trace_id, outlet, facts, remote=False))


def _with_experiment(span: ReadableSpan) -> ReadableSpan:
    """The span with its experiment as an attribute, or MLflow asks the tracking server for it."""
    trace = OPEN.get(f"tr-{_ids(span).trace_id:032x}")
    known: str | None = None
    if trace is not None:
        facts, defaults = trace.facts, trace.defaults
        known = facts.experiment_id or facts.experiment
        known = known or defaults.experiment_id or defaults.experiment
    experiment = json.dumps(known or _DEFAULT_EXPERIMENT)
    return ReadableSpan(
        name=span.name,
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes={_EXPERIMENT_ID: experiment, **(span.attributes or {})},
        status=span.status,
        start_time=span.start_time,
        end_time=span.end_time,
    )


def _place_of(span: ReadableSpan) -> tuple[BridgedTrace, LiveSpan, bool] | None:
    """The span's trace, MLflow's LiveSpan around it and whether it is the local root; None where it is
    not one of ours."""
    trace = OPEN.get(f"tr-{_ids(span).trace_id:032x}")
    live = None if trace is None else trace.span_dict.get(f"{_ids(span).span_id:016x}")
    if trace is None or live is None:
        return None
    foreign = getattr(live._span, "_spanferry", None)
    if foreign is not None and foreign.trace is not None:
        trace = cast("BridgedTrace", foreign.trace)
    return trace, live, getattr(live._span, "_spanferry_root", False)


def _lost(span: ReadableSpan) -> None:
    """It could not be handed over. Never raises."""
    try:
        place = _place_of(span)
        if place is not None:
            lose(place[0], root=place[2])
    except Exception as trouble:  # noqa: BLE001  the app must not see our troubles
        say_once("bridge-lost", "a trace was lost, and not counted: %s", values.text(trouble))


def _hand_over(span: ReadableSpan) -> None:
    place = _place_of(span)
    if place is None:
        return
    trace, live, is_root = place
    wire = _wire(span, _ids(span).span_id.to_bytes(SPAN_ID_BYTES, "big"), live)
    attachments: Collection[Any] = live._attachments.values()
    if attachments and not may_attach():
        wire = _without(attachments, wire, trace.mlflow_id)
        attachments = ()
    above = PROCESS.finisher.changes_above
    encoded = b"" if above < 0 else encode_span(wire)
    if len(encoded) > above:
        wire = PROCESS.finisher.wire_span(wire)
        encoded = encode_span(wire)
    for attachment in attachments:
        data = bytes(attachment.content_bytes)
        trace.attach(Attachment(attachment.id, values.text(attachment.content_type), data))
    error = wire.status is StatusCode.ERROR
    size = len(encoded) + _OVERHEAD_BYTES
    if not is_root:
        trace.add(encoded, size, error=error)
        return
    tags = trace.facts.tags
    tags.setdefault(mlflow_keys.TAG_TRACE_NAME, wire.name)
    trace.finish(encoded, size, error=error, duration_ns=wire.end_ns - wire.start_ns)


def _without(attachments: Iterable[Any], wire: WireSpan, trace_id: str) -> WireSpan:
    """The span with a mark where it refers to one of them."""
    marked = wire.attributes
    for attachment in attachments:
        reference = values.encode(attachment.ref(trace_id))[1:-1]
        mark = ATTACHMENT_MARK.encode()
        marked = {key: value.replace(reference, mark) for key, value in marked.items()}
    return replace(wire, attributes=marked)


def _wire(span: ReadableSpan, span_id: bytes, live: LiveSpan) -> WireSpan:
    attributes: dict[str, Any] = dict(span.attributes or {})
    span_type = _plain(attributes.get(mlflow_keys.SPAN_TYPE))
    status = StatusCode[span.status.status_code.name]
    return WireSpan(
        span_id,
        None if span.parent is None else span.parent.span_id.to_bytes(SPAN_ID_BYTES, "big"),
        values.text(span.name),
        "" if span_type is None else values.text(span_type),
        span.start_time or 0,
        span.end_time or 0,
        status,
        values.clean(span.status.description or ""),
        {values.clean(k): _json(v) for k, v in attributes.items() if k not in _OWN_FIELDS},
        [
            SpanEvent(values.text(e.name), e.timestamp, values.encode(dict(e.attributes or {})))
            for e in span.events
        ],
        [
            SpanLink(
                int(link.trace_id.rpartition("/")[2].removeprefix("tr-"), 16).to_bytes(16, "big"),
                int(link.span_id, 16).to_bytes(8, "big"),
                values.encode(dict(link.attributes)) if link.attributes else b"{}",
            )
            for link in live._links
        ],
        _KINDS.get(span.kind, SpanKind.INTERNAL),
    )


def _plain(encoded: object) -> Any:
    try:
        return json.loads(encoded) if isinstance(encoded, str) else encoded
    except ValueError:
        return encoded


def _json(value: object) -> bytes:
    """A JSON text: MLflow's attributes are some already, other tracers' are plain values."""
    if not isinstance(value, str):
        return values.encode(list(value) if isinstance(value, tuple) else value)
    text = values.clean(value).encode()
    try:
        _check_json(text)
    except msgspec.DecodeError:
        return text if _is_pythons_json(value) else values.encode(value)
    return text


def _is_pythons_json(text: str) -> bool:
    """Whether MLflow reads it, which writes NaN and Infinity too."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
