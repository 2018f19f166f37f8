"""What a trace's own record takes from its spans, as MLflow's SDK derives it."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from mlflow.entities import Span, TraceInfo, TraceState
from mlflow.tracing.constant import (
    MAX_CHARS_IN_TRACE_INFO_METADATA,
    TRUNCATION_SUFFIX,
    SpanAttributeKey,
    TraceMetadataKey,
    TraceTagKey,
)
from mlflow.tracing.utils import SpanAggregationNode

from spanferry_worker.services.mlflow_private import attribute_texts

__all__ = ["SpanFacts", "aggregation_nodes", "derive", "facts_of", "is_root", "root_of"]


def is_root(span: Span) -> bool:
    """Whether the span has no parent."""
    return span.parent_id is None


def root_of(spans: Sequence[Span]) -> Span | None:
    """The trace's root as MLflow picks it: the first span without a parent."""
    return next((span for span in spans if is_root(span)), None)


class SpanFacts(Protocol):
    """What a trace's own record takes from one of its spans."""

    @property
    def is_root(self) -> bool: ...
    @property
    def name(self) -> str: ...
    @property
    def start_ns(self) -> int: ...
    @property
    def end_ns(self) -> int | None: ...
    @property
    def failed(self) -> bool: ...
    @property
    def given(self) -> Mapping[str, str]:
        """Attributes as JSON texts."""
        ...


class _EntityFacts(NamedTuple):
    """Of one of MLflow's entities."""

    is_root: bool
    name: str
    start_ns: int
    end_ns: int | None
    failed: bool
    given: Mapping[str, str]


def facts_of(span: Span) -> SpanFacts:
    """Of one of MLflow's entities."""
    return _EntityFacts(
        span.parent_id is None,
        span.name,
        span.start_time_ns,
        span.end_time_ns,
        span.status.status_code.value == TraceState.ERROR.value,
        attribute_texts(span),
    )


def derive(info: TraceInfo, spans: Sequence[SpanFacts]) -> None:
    """Set name, times, state and the shortened inputs and outputs from the spans.

    With a root they are the root's, as MLflow's span processor sets them when it ends. Without one
    they span what is there, as MLflow's store does for spans whose trace is still in progress.
    """
    root = next((span for span in spans if span.is_root), None)
    if root is not None:
        # What the app set itself stands: name and state may differ from the root span's.
        info.tags.setdefault(TraceTagKey.TRACE_NAME, root.name)
    if root is None or root.end_ns is None:
        ends = [span.end_ns for span in spans if span.end_ns is not None]
        info.request_time = min(span.start_ns for span in spans) // 1_000_000
        info.execution_duration = max(ends) // 1_000_000 - info.request_time if ends else None
        return
    info.request_time = root.start_ns // 1_000_000
    info.execution_duration = (root.end_ns - root.start_ns) // 1_000_000
    if info.state is TraceState.IN_PROGRESS:
        info.state = TraceState.ERROR if root.failed else TraceState.OK
    for key, attribute in (
        (TraceMetadataKey.INPUTS, SpanAttributeKey.INPUTS),
        (TraceMetadataKey.OUTPUTS, SpanAttributeKey.OUTPUTS),
    ):
        info.trace_metadata[key] = _shortened(root.given.get(attribute, ""))


def aggregation_nodes(spans: Sequence[Span], key: str) -> list[SpanAggregationNode]:
    """The tree over which MLflow adds up an attribute; what is no object counts as absent."""
    nodes: list[SpanAggregationNode] = []
    for span in spans:
        value = span.get_attribute(key)
        data = value if isinstance(value, dict) else None
        nodes.append(SpanAggregationNode(span.span_id, span.parent_id, data))
    return nodes


def _shortened(value: str) -> str:
    if len(value) <= MAX_CHARS_IN_TRACE_INFO_METADATA:
        return value
    return value[: MAX_CHARS_IN_TRACE_INFO_METADATA - len(TRUNCATION_SUFFIX)] + TRUNCATION_SUFFIX
