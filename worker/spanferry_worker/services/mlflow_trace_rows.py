"""All rows of a trace that MLflow has nothing of yet: what start_trace and log_spans leave behind."""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from mlflow.entities import TraceInfo
from mlflow.store.tracking.dbmodels.models import SqlAssessments
from mlflow.store.tracking.utils.trace_analytics import (
    COST_COLUMN_BY_KEY,
    PROMOTED_TRACE_METADATA_KEYS,
    TOKEN_COLUMN_BY_KEY,
    analytics_columns_from_metadata,
    finite_float_or_none,
    token_count_or_none,
)
from mlflow.tracing.constant import (
    MAX_CHARS_IN_TRACE_INFO_METADATA,
    MAX_CHARS_IN_TRACE_INFO_TAGS_KEY,
    MAX_CHARS_IN_TRACE_INFO_TAGS_VALUE,
    SpanAttributeKey,
    SpansLocation,
    TraceMetadataKey,
    TraceSizeStatsKey,
    TraceTagKey,
)
from mlflow.tracing.utils import (
    SpanAggregationNode,
    aggregate_cost_from_span_nodes,
    aggregate_usage_from_span_nodes,
    try_json_loads,
)

import spanferry_schemas as wire
from spanferry_worker.services import mlflow_private as private
from spanferry_worker.services.mlflow_build import EntityBuilder
from spanferry_worker.services.mlflow_derive import SpanFacts, derive
from spanferry_worker.services.mlflow_span_rows import SpanRow, SpanRows
from spanferry_worker.stages.trace import AssembledTrace

__all__ = ["ASSESSMENT_COLUMNS", "TRACE_COLUMNS", "RowBuilder", "TraceRows", "info_length"]

_ANALYTICS_COLUMNS: Final = (
    "session_id",
    *TOKEN_COLUMN_BY_KEY.values(),
    *COST_COLUMN_BY_KEY.values(),
)
TRACE_COLUMNS: Final = (
    "request_id", "experiment_id", "timestamp_ms", "execution_time_ms", "status",
    "client_request_id", "request_preview", "response_preview", "db_payload_generation",
    "trace_name", *_ANALYTICS_COLUMNS,
)  # fmt: skip
ASSESSMENT_COLUMNS: Final = tuple(column.name for column in SqlAssessments.__table__.columns)

_GENERATION: Final = 1
"""What one call of log_spans counts it up to."""
_COUNTED: Final = (SpanAttributeKey.CHAT_USAGE, SpanAttributeKey.LLM_COST)


class TraceRows(NamedTuple):
    """A new trace as rows. The tag with the artifacts' place is missing: the experiment has it."""

    trace_id: str
    experiment_id: int
    timestamp_ms: int
    values: tuple[Any, ...]
    """In the order of TRACE_COLUMNS."""
    tags: Mapping[str, str]
    metadata: Mapping[str, str]
    spans: Sequence[tuple[Any, ...]]
    """In the order of SPAN_COLUMNS."""
    assessments: Sequence[tuple[Any, ...]]
    """In the order of ASSESSMENT_COLUMNS."""


class _Shown(NamedTuple):
    """Stands for a TraceData whose spans nobody needs."""

    request: str | None
    response: str | None


class RowBuilder:
    """Makes rows for one store. Used by several threads at once."""

    def __init__(self, builder: EntityBuilder) -> None:
        self._builder = builder
        self._spans = SpanRows(builder.spans)

    def rows(
        self, named: str, trace: AssembledTrace, *, experiment_id: str, model_id: str | None
    ) -> TraceRows | None:
        """Those of a trace with spans; `named` is its id. None: MLflow's own code must write it."""
        number = int(experiment_id)
        trace_id = trace.trace_id or b""
        spans = [self._spans.row(trace_id, named, number, span) for span in trace.spans]
        if any(_names_tags(span.stored) for span in spans):
            return None
        info = self._builder.given_info(named, trace.trace, experiment_id, model_id)
        derive(info, [_facts(of, row) for of, row in zip(trace.spans, spans, strict=True)])
        if usage := _added_up(spans, "given", _COUNTED[0], aggregate_usage_from_span_nodes):
            info.trace_metadata[TraceMetadataKey.TOKEN_USAGE] = json.dumps(usage)
        self._builder.show(info, _shown(spans))  # type: ignore[arg-type]
        _add_sizes(info, [span.size for span in spans])
        metadata = dict(info.trace_metadata)
        columns = analytics_columns_from_metadata(metadata)
        for key in PROMOTED_TRACE_METADATA_KEYS:
            metadata.pop(key, None)
        metadata[TraceMetadataKey.TRACE_INFO_FINALIZED] = "true"
        _complete(info, columns, metadata, spans)
        tags = {key: value for key, value in info.tags.items() if key != TraceTagKey.TRACE_NAME}
        tags[TraceTagKey.SPANS_LOCATION] = SpansLocation.TRACKING_STORE.value
        values = (
            named, number, info.request_time, info.execution_duration, info.state.value,
            info.client_request_id, info.request_preview, info.response_preview, _GENERATION,
            info.tags.get(TraceTagKey.TRACE_NAME), *map(columns.get, _ANALYTICS_COLUMNS),
        )  # fmt: skip
        return TraceRows(
            named,
            number,
            info.request_time,
            values,
            tags,
            metadata,
            [span.values for span in spans],
            self._assessments(named, trace, number, info.request_time),
        )

    def _assessments(
        self, named: str, trace: AssembledTrace, experiment_id: int, timestamp_ms: int
    ) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = []
        for assessment in self._builder.assessments.new(named, trace):
            row: Any = SqlAssessments.from_mlflow_entity(assessment)
            row.trace_id, row.experiment_id = named, experiment_id
            row.trace_timestamp_ms = timestamp_ms
            rows.append(tuple(getattr(row, column) for column in ASSESSMENT_COLUMNS))
        return rows


def _names_tags(attributes: Mapping[str, Any]) -> bool:
    """Whether attributes want to become tags of the trace: a dialect's, and rare."""
    return any(key.startswith(SpanAttributeKey.TRACE_TAG_PREFIX) for key in attributes)


def _facts(span: wire.Span, row: SpanRow) -> SpanFacts:
    name, status = row.values[4], row.values[6]
    return SpanFacts(
        not span.parent_id, name, span.start_ns, span.end_ns or None, status == "ERROR", row.given
    )


def _shown(spans: Sequence[SpanRow]) -> _Shown:
    """What the root was given and has answered."""
    root = next((span.given for span in spans if span.values[3] is None), None)
    if root is None:
        return _Shown(None, None)
    return _Shown(root.get(SpanAttributeKey.INPUTS), root.get(SpanAttributeKey.OUTPUTS))


def _added_up(
    spans: Sequence[SpanRow],
    which: str,
    key: str,
    add: Callable[[list[SpanAggregationNode]], dict[str, Any] | None],
) -> dict[str, Any] | None:
    """An attribute over the tree of all spans, as MLflow adds it up; `which`: given or stored."""
    texts = [getattr(span, which).get(key) for span in spans]
    if not any(texts):
        return None
    nodes: list[SpanAggregationNode] = []
    for span, text in zip(spans, texts, strict=True):
        value = try_json_loads(text) if text else None
        data = value if isinstance(value, dict) else None
        nodes.append(SpanAggregationNode(span.values[2], span.values[3], data))
    return add(nodes)


def _complete(
    info: TraceInfo,
    columns: dict[str, Any],
    metadata: dict[str, str],
    spans: Sequence[SpanRow],
) -> None:
    """What log_spans takes from translated spans where start_trace has left a place."""
    usage_key, cost_key = _COUNTED
    if all(columns.get(column) is None for column in TOKEN_COLUMN_BY_KEY.values()):
        usage = _added_up(spans, "stored", usage_key, aggregate_usage_from_span_nodes) or {}
        _fill(columns, usage, TOKEN_COLUMN_BY_KEY, token_count_or_none)
    if all(columns.get(column) is None for column in COST_COLUMN_BY_KEY.values()):
        cost = _added_up(spans, "stored", cost_key, aggregate_cost_from_span_nodes) or {}
        _fill(columns, cost, COST_COLUMN_BY_KEY, finite_float_or_none)
    sessions = (private.session_of(span.stored) for span in spans)
    session = next(filter(None, sessions), None)
    if session and columns.get("session_id") is None:
        columns["session_id"] = session
    user = next(filter(None, (private.user_of(span.stored) for span in spans)), None)
    if user:
        metadata.setdefault(TraceMetadataKey.TRACE_USER, user)
    roots = (span.stored for span in reversed(spans) if span.values[3] is None)
    root: Mapping[str, Any] = next(roots, {})
    inputs, outputs = root.get(SpanAttributeKey.INPUTS), root.get(SpanAttributeKey.OUTPUTS)
    if info.request_preview is None and inputs:
        info.request_preview = private.truncated_preview(inputs, "user")
    if info.response_preview is None and outputs:
        info.response_preview = private.truncated_preview(outputs, "assistant")


def _fill(
    columns: dict[str, Any],
    amounts: Mapping[str, Any],
    by_key: Mapping[str, str],
    usable: Callable[[Any], Any],
) -> None:
    for key, column in by_key.items():
        value = usable(amounts.get(key))
        if value is not None:
            columns[column] = value


def _add_sizes(info: TraceInfo, sizes: Sequence[int]) -> None:
    """As mlflow.tracing.utils.add_size_stats_to_trace_metadata, which encodes every span again."""
    total = sum(sizes) + info_length(info) + (len(sizes) - 1) * 2
    ascending = sorted(sizes)
    stats = {
        TraceSizeStatsKey.TOTAL_SIZE_BYTES: total,
        TraceSizeStatsKey.NUM_SPANS: len(sizes),
        TraceSizeStatsKey.MAX_SPAN_SIZE_BYTES: ascending[-1],
        TraceSizeStatsKey.P25_SPAN_SIZE_BYTES: int(_percentile(ascending, 0.25)),
        TraceSizeStatsKey.P50_SPAN_SIZE_BYTES: int(_percentile(ascending, 0.50)),
        TraceSizeStatsKey.P75_SPAN_SIZE_BYTES: int(_percentile(ascending, 0.75)),
    }
    info.trace_metadata[TraceMetadataKey.SIZE_STATS] = json.dumps(stats)
    info.trace_metadata[TraceMetadataKey.SIZE_BYTES] = str(total)


def _percentile(ascending: Sequence[int], share: float) -> float:
    index = share * (len(ascending) - 1)
    lower = int(index)
    if lower + 1 >= len(ascending):
        return ascending[-1]
    weight = index - lower
    return ascending[lower] * (1 - weight) + ascending[lower + 1] * weight


def info_length(info: TraceInfo) -> int:
    """Bytes of a trace without spans and assessments, as MLflow's Trace.to_json writes it.

    Which takes a protobuf message and a third of a millisecond.
    """
    seconds, milliseconds = divmod(info.request_time, 1000)
    fraction = f".{milliseconds:03d}" if milliseconds else ""
    keys = MAX_CHARS_IN_TRACE_INFO_METADATA
    tag_keys, tag_values = MAX_CHARS_IN_TRACE_INFO_TAGS_KEY, MAX_CHARS_IN_TRACE_INFO_TAGS_VALUE
    shown: dict[str, Any] = {
        "trace_id": info.trace_id,
        "trace_location": {
            "type": "MLFLOW_EXPERIMENT",
            "mlflow_experiment": {"experiment_id": info.experiment_id},
        },
        "request_time": f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}{fraction}Z",
        "state": info.state.value,
        "trace_metadata": {k[:keys]: v[:keys] for k, v in info.trace_metadata.items()},
    }
    if info.tags:
        shown["tags"] = {k[:tag_keys]: v[:tag_values] for k, v in info.tags.items()}
    if info.execution_duration is not None:
        shown["execution_duration_ms"] = info.execution_duration
    for key in ("client_request_id", "request_preview", "response_preview"):
        if (value := getattr(info, key)) is not None:
            shown[key] = value
    return len(json.dumps({"info": shown, "data": {"spans": []}}))
