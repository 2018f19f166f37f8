"""All rows of a trace that MLflow has nothing of yet: what start_trace and log_spans leave behind."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec
import orjson
from mlflow.entities import TraceInfo
from mlflow.entities.assessment import Assessment
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
)

from spanferry_worker.services import mlflow_private as private
from spanferry_worker.services.mlflow_build import EntityBuilder
from spanferry_worker.services.mlflow_derive import derive
from spanferry_worker.services.mlflow_span_rows import TAG_PREFIX, SpanRow, SpanRows
from spanferry_worker.services.mlflow_text import ascii_length, loaded
from spanferry_worker.stages.trace import AssembledTrace

__all__ = [
    "ASSESSMENT_COLUMNS",
    "TRACE_COLUMNS",
    "NewTrace",
    "RowBuilder",
    "TraceRows",
    "assessment_row",
    "info_length",
]

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

PORTION_TRACES: Final = 50
PORTION_BYTES: Final = 1_000_000
"""Of traces whose rows are made together, and of their records."""
_GENERATION: Final = 1
"""What one call of log_spans counts it up to."""
_USAGE: Final = SpanAttributeKey.CHAT_USAGE
_COST: Final = SpanAttributeKey.LLM_COST
_ADDERS: Final = {_USAGE: aggregate_usage_from_span_nodes, _COST: aggregate_cost_from_span_nodes}
_NOTHING: Final[Mapping[str, Any]] = {}


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


class NewTrace(NamedTuple):
    """One with spans, of which MLflow has nothing."""

    trace_id: str
    trace: AssembledTrace
    experiment_id: str
    model_id: str | None


class _Made(NamedTuple):
    """What there is of a trace before all of it is known."""

    new: NewTrace
    spans: list[SpanRow]
    read: frozenset[str]
    """As of a SpanRow, of all spans."""
    info: TraceInfo


class RowBuilder:
    """Makes rows for one store. Used by several threads at once."""

    def __init__(self, builder: EntityBuilder) -> None:
        self._builder = builder
        self._spans = SpanRows(builder.spans)

    def rows(self, traces: Sequence[NewTrace]) -> list[TraceRows]:
        """Those of each; without the traces that MLflow's own code must write.

        One step after another for some traces at a time: what a step runs through and looks at is in the
        processor's caches then, and may take half as long as where all steps of one trace come in turn.
        """
        return [rows for some in _portions(traces) for rows in self._rows(some)]

    def _rows(self, traces: Sequence[NewTrace]) -> list[TraceRows]:
        every = [(one, self._span_rows(one)) for one in traces]
        made = [
            _Made(one, spans, read, self._given_info(one))
            for one, spans in every
            if TAG_PREFIX not in (read := frozenset[str]().union(*(span.read for span in spans)))
        ]
        for one in made:
            derive(one.info, one.spans)
        for one in made:
            if _USAGE in one.read and (usage := _added_up(one.spans, "given", _USAGE)):
                one.info.trace_metadata[TraceMetadataKey.TOKEN_USAGE] = json.dumps(usage)
        for one in made:
            self._builder.show(one.info, _shown(one.spans))  # type: ignore[arg-type]
        for one in made:
            _add_sizes(one.info, [span.size for span in one.spans])
        columns = [analytics_columns_from_metadata(one.info.trace_metadata) for one in made]
        metadata = [_stored_metadata(one.info) for one in made]
        for one, values, texts in zip(made, columns, metadata, strict=True):
            _complete(one, values, texts)
        for one in made:
            _complete_previews(one.info, one.spans)
        return list(map(self._put_together, made, columns, metadata))

    def _span_rows(self, one: NewTrace) -> list[SpanRow]:
        number, trace_id = int(one.experiment_id), one.trace.trace_id or b""
        return [self._spans.row(trace_id, one.trace_id, number, span) for span in one.trace.spans]

    def _given_info(self, one: NewTrace) -> TraceInfo:
        return self._builder.given_info(
            one.trace_id, one.trace.trace, one.experiment_id, one.model_id
        )

    def _put_together(
        self, made: _Made, columns: Mapping[str, Any], metadata: Mapping[str, str]
    ) -> TraceRows:
        one, spans, _, info = made
        number = int(one.experiment_id)
        tags = {key: value for key, value in info.tags.items() if key != TraceTagKey.TRACE_NAME}
        tags[TraceTagKey.SPANS_LOCATION] = SpansLocation.TRACKING_STORE.value
        values = (
            one.trace_id, number, info.request_time, info.execution_duration, info.state.value,
            info.client_request_id, info.request_preview, info.response_preview, _GENERATION,
            info.tags.get(TraceTagKey.TRACE_NAME), *map(columns.get, _ANALYTICS_COLUMNS),
        )  # fmt: skip
        return TraceRows(
            one.trace_id,
            number,
            info.request_time,
            values,
            tags,
            metadata,
            [span.values for span in spans],
            self._assessments(one.trace_id, one.trace, number, info.request_time),
        )

    def _assessments(
        self, named: str, trace: AssembledTrace, experiment_id: int, timestamp_ms: int
    ) -> list[tuple[Any, ...]]:
        return [
            assessment_row(assessment, experiment_id, timestamp_ms)
            for assessment in self._builder.assessments.new(named, trace)
        ]


def _portions(traces: Sequence[NewTrace]) -> Iterator[list[NewTrace]]:
    """So few at a time that what is made of them stays near the processor."""
    some: list[NewTrace] = []
    size = 0
    for one in traces:
        if some and (len(some) == PORTION_TRACES or size + one.trace.size > PORTION_BYTES):
            yield some
            some, size = [], 0
        some.append(one)
        size += one.trace.size
    if some:
        yield some


def assessment_row(
    assessment: Assessment, experiment_id: int, timestamp_ms: int
) -> tuple[Any, ...]:
    """In the order of ASSESSMENT_COLUMNS; experiment and time are those of its trace."""
    row: Any = SqlAssessments.from_mlflow_entity(assessment)
    row.experiment_id, row.trace_timestamp_ms = experiment_id, timestamp_ms
    return tuple(getattr(row, column) for column in ASSESSMENT_COLUMNS)


def _shown(spans: Sequence[SpanRow]) -> _Shown:
    """What the root was given and has answered."""
    root = next((span.given for span in spans if span.is_root), _NOTHING)
    return _Shown(root.get(SpanAttributeKey.INPUTS), root.get(SpanAttributeKey.OUTPUTS))


def _added_up(spans: Sequence[SpanRow], which: str, key: str) -> dict[str, Any] | None:
    """An attribute over the tree of all spans, as MLflow adds it up; `which`: given or stored."""
    texts = [getattr(span, which).get(key) for span in spans]
    if not any(texts):
        return None
    values = [_loaded_or_none(text) if text else None for text in texts]
    data = [value if isinstance(value, dict) else None for value in values]
    add: Any = _ADDERS[key]
    amounts: dict[str, Any] | None = add([
        SpanAggregationNode(span.values[2], span.values[3], amounts)
        for span, amounts, counts in zip(spans, data, _that_count(spans, data), strict=True)
        if counts
    ])  # fmt: skip
    return amounts


def _that_count(spans: Sequence[SpanRow], data: Sequence[dict[str, Any] | None]) -> Sequence[bool]:
    """Which spans have data or are above one that has: the others do not change the sum."""
    parents = {span.values[2]: span.values[3] for span in spans}
    if len(parents) < len(spans):
        return [True] * len(spans)
    wanted: set[str | None] = set()
    for span, amounts in zip(spans, data, strict=True):
        above = None if amounts is None else span.values[2]
        while above in parents and above not in wanted:
            wanted.add(above)
            above = parents[above]
    return [span.values[2] in wanted for span in spans]


def _loaded_or_none(text: str) -> Any:
    try:
        return loaded(text)
    except (ValueError, RecursionError):
        return None


def _stored_metadata(info: TraceInfo) -> dict[str, str]:
    """Without what has columns of its own."""
    metadata = dict(info.trace_metadata)
    for key in PROMOTED_TRACE_METADATA_KEYS:
        metadata.pop(key, None)
    metadata[TraceMetadataKey.TRACE_INFO_FINALIZED] = "true"
    return metadata


def _complete(made: _Made, columns: dict[str, Any], metadata: dict[str, str]) -> None:
    """What log_spans takes from translated spans where start_trace has left a place."""
    _, spans, read, _ = made
    if _USAGE in read and all(columns.get(name) is None for name in TOKEN_COLUMN_BY_KEY.values()):
        usage = _added_up(spans, "stored", _USAGE) or {}
        _fill(columns, usage, TOKEN_COLUMN_BY_KEY, token_count_or_none)
    if _COST in read and all(columns.get(name) is None for name in COST_COLUMN_BY_KEY.values()):
        cost = _added_up(spans, "stored", _COST) or {}
        _fill(columns, cost, COST_COLUMN_BY_KEY, finite_float_or_none)
    if not read.isdisjoint(private.OWNER_ATTRIBUTES):
        _complete_owner(columns, metadata, spans)


def _complete_owner(
    columns: dict[str, Any], metadata: dict[str, str], spans: Sequence[SpanRow]
) -> None:
    """The same of session and user."""
    sessions = (private.session_of(span.stored) for span in spans)
    session = next(filter(None, sessions), None)
    if session and columns.get("session_id") is None:
        columns["session_id"] = session
    user = next(filter(None, (private.user_of(span.stored) for span in spans)), None)
    if user:
        metadata.setdefault(TraceMetadataKey.TRACE_USER, user)


def _complete_previews(info: TraceInfo, spans: Sequence[SpanRow]) -> None:
    """The same of previews."""
    roots = (span.stored for span in reversed(spans) if span.is_root)
    root = next(roots, _NOTHING)
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


@lru_cache(100)
def _written(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


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
        "request_time": f"{_written(seconds)}{fraction}Z",
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
    return _dumped_length(shown) + _AROUND_INFO


def _dumped_length(value: dict[str, Any]) -> int:
    """Of what json.dumps writes, in a third of the time."""
    try:
        encoded = orjson.dumps(value)
    except TypeError:  # a lone surrogate, a huge number
        return len(json.dumps(value))
    return ascii_length(msgspec.json.format(encoded, indent=0))


_AROUND_INFO: Final = len(json.dumps({"info": {}, "data": {"spans": []}})) - len("{}")
