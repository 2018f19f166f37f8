"""What a trace that is already stored becomes when more of it comes."""

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import msgspec
from mlflow.entities import Span, TraceData, TraceInfo, TraceState
from mlflow.tracing.constant import (
    SpanAttributeKey,
    TraceMetadataKey,
    TraceSizeStatsKey,
    TraceTagKey,
)
from mlflow.tracing.utils import (
    aggregate_cost_from_span_nodes,
    aggregate_usage_from_span_nodes,
)

import spanferry_schemas as wire
from spanferry_schemas.cutting import CUT_ATTRIBUTE
from spanferry_worker.services.mlflow_build import EntityBuilder
from spanferry_worker.services.mlflow_derive import (
    aggregation_nodes,
    derive,
    facts_of,
    is_root,
    root_of,
)
from spanferry_worker.services.mlflow_private import attribute_texts
from spanferry_worker.services.mlflow_span_rows import is_added_cost
from spanferry_worker.stages.giants import OVERLOAD_KEY
from spanferry_worker.stages.sample import MARKS, DecisionReason
from spanferry_worker.stages.trace import PROCESS_METADATA

__all__ = [
    "Change",
    "is_restored",
    "is_stale",
    "merged_info",
    "same_info",
    "truly_marked",
    "unstored_spans",
]

_REASON: Final = f"{MARKS}reason"
_SYSTEM_TAGS: Final = frozenset(
    {
        TraceTagKey.SPANS_LOCATION,
        TraceTagKey.ARCHIVE_LOCATION,
        TraceTagKey.ARCHIVAL_FAILURE,
        "mlflow.artifactLocation",
    }
)
_DERIVED_METADATA: Final = frozenset(
    {
        TraceMetadataKey.INPUTS,
        TraceMetadataKey.OUTPUTS,
        TraceMetadataKey.SIZE_STATS,
        TraceMetadataKey.SIZE_BYTES,
        TraceMetadataKey.TOKEN_USAGE,
        TraceMetadataKey.COST,
    }
)


def unstored_spans(spans: Sequence[Span], stored: Sequence[Span]) -> list[Span]:
    """The spans that are not stored yet, or only as not ended, or cut.

    After its end a span changes only by being cut, so that what has more of it is the better one.
    """
    known = {span.span_id: span for span in stored}
    return [
        span for span in spans if span.span_id not in known or _is_better(span, known[span.span_id])
    ]


def truly_marked(part: wire.TracePart, written: Sequence[Span]) -> wire.TracePart:
    """`part` less the mark that payloads were cut, where no span that is written now is a cut one.

    So it is when records come again, under memory pressure this time, whose trace is stored whole.
    """
    if OVERLOAD_KEY not in part.metadata or any(s.get_attribute(CUT_ATTRIBUTE) for s in written):
        return part
    metadata = {key: value for key, value in part.metadata.items() if key != OVERLOAD_KEY}
    return msgspec.structs.replace(part, metadata=metadata)


def _is_better(span: Span, stored: Span) -> bool:
    if not stored.end_time_ns and span.end_time_ns:
        return True
    return bool(stored.end_time_ns) == bool(span.end_time_ns) and _is_fuller(span, stored)


def _is_fuller(span: Span, stored: Span) -> bool:
    """Whether the span has more of what the stored one was cut of."""
    texts = attribute_texts(stored)
    cut = _cut_names(texts)
    if not cut:
        return False
    whole = attribute_texts(span)
    if cut - _cut_names(whole):
        return True
    return any(len(whole.get(name, "")) > len(texts.get(name, "")) for name in cut)


def _fuller_of(stored: Span, came: Span | None) -> Span:
    """The span as it came, which MLflow has not translated; where that is cut, as it is stored."""
    return _as_sent(stored) if came is None or _is_fuller(stored, came) else came


def _cut_names(texts: Mapping[str, str]) -> set[str]:
    try:
        return set(json.loads(texts.get(CUT_ATTRIBUTE, "{}")))
    except (ValueError, TypeError):
        return set()


def is_restored(part: wire.TracePart, stored: TraceInfo) -> bool:
    """Whether the trace is given whole after it was stored as a skeleton, and that is not done yet."""
    restored = DecisionReason.RESTORED.value
    return part.metadata.get(_REASON) == restored != stored.trace_metadata.get(_REASON)


def is_stale(info: TraceInfo, stored: Sequence[Span], *, rounding_ms: int) -> bool:
    """Whether the trace's own record does not speak of the spans that are stored.

    So it is after a worker died between the two writes, or after two wrote parts of it at once.
    `rounding_ms` is by how much the store's own times may differ from the root's.
    """
    if not stored:
        return False
    root = root_of(stored)
    if root is not None and root.end_time_ns:
        start = root.start_time_ns // 1_000_000
        duration = (root.end_time_ns - root.start_time_ns) // 1_000_000
        if (
            info.state is TraceState.IN_PROGRESS
            or abs(info.request_time - start) > rounding_ms
            or abs((info.execution_duration or 0) - duration) > rounding_ms
        ):
            return True
    try:
        stats = json.loads(info.trace_metadata.get(TraceMetadataKey.SIZE_STATS, "{}"))
        counted = stats.get(TraceSizeStatsKey.NUM_SPANS)
    except (ValueError, AttributeError):
        counted = None
    return bool(counted != len(stored))


class Change(NamedTuple):
    """The spans of a stored trace."""

    before: Sequence[Span] | None
    """As they were before something was added. None: the trace is given whole, and none of its previews
    may stay."""
    now: Sequence[Span]
    """As they are stored."""


def merged_info(
    builder: EntityBuilder,
    stored_info: TraceInfo,
    part: wire.TracePart,
    came: Sequence[Span],
    change: Change | None,
    *,
    state: TraceState,
) -> TraceInfo:
    """The trace's record after `part` and the spans `came` were added.

    `change`: None where the spans have not changed, which leaves everything that is derived from them
    alone. `state` is what the trace had before.
    """
    info = copy.copy(stored_info)
    info.state = state
    info.assessments = []
    info.trace_location = copy.deepcopy(stored_info.trace_location)
    info.tags = {k: v for k, v in stored_info.tags.items() if k not in _SYSTEM_TAGS}
    info.trace_metadata = {
        k: v
        for k, v in stored_info.trace_metadata.items()
        if k != TraceMetadataKey.TRACE_INFO_FINALIZED
    }
    if change is not None:
        _forget_previews(builder, info, change.before)
    part = _without_marks(stored_info, part)
    builder.lay_over(info, _without_root(stored_info, part, came))
    if change is None:
        return info
    union = change.now
    mine = {span.span_id: span for span in came}
    spans = [_fuller_of(span, mine.get(span.span_id)) for span in union]
    for key in _DERIVED_METADATA:
        info.trace_metadata.pop(key, None)
    derive(info, [facts_of(span) for span in spans])
    if usage := aggregate_usage_from_span_nodes(
        aggregation_nodes(union, SpanAttributeKey.CHAT_USAGE)
    ):
        info.trace_metadata[TraceMetadataKey.TOKEN_USAGE] = json.dumps(usage)
    builder.finish(info, spans)
    # Once a cost is stored only the record's own writer can change it. Sizes are counted without.
    if cost := aggregate_cost_from_span_nodes(aggregation_nodes(union, SpanAttributeKey.LLM_COST)):
        info.trace_metadata[TraceMetadataKey.COST] = json.dumps(cost)
    return info


def _as_sent(stored: Span) -> Span:
    """Without the cost that the store has added, so that sizes are those of what came."""
    if not is_added_cost(facts_of(stored).given):
        return stored
    plain = stored.to_dict()
    attributes = {k: v for k, v in plain["attributes"].items() if k != SpanAttributeKey.LLM_COST}
    return Span.from_dict({**plain, "attributes": attributes})


def _forget_previews(builder: EntityBuilder, info: TraceInfo, spans: Sequence[Span] | None) -> None:
    """Take away previews that were made from these spans, so that they are made anew; None: all."""
    if spans is None:
        info.request_preview = info.response_preview = None
        return
    made = copy.copy(info)
    made.request_preview = made.response_preview = None
    made.tags = dict(info.tags)
    builder.show(made, TraceData(spans=list(spans)))
    if info.request_preview == made.request_preview:
        info.request_preview = None
    if info.response_preview == made.response_preview:
        info.response_preview = None


def same_info(new: TraceInfo, stored: TraceInfo) -> bool:
    """Whether writing `new` would change nothing: then it is not written."""
    fields = (
        "request_time",
        "execution_duration",
        "state",
        "client_request_id",
        "request_preview",
        "response_preview",
        "experiment_id",
    )
    return (
        all(getattr(new, field) == getattr(stored, field) for field in fields)
        and all(stored.tags.get(key) == value for key, value in new.tags.items())
        and all(stored.trace_metadata.get(k) == v for k, v in new.trace_metadata.items())
    )


def _without_marks(stored: TraceInfo, part: wire.TracePart) -> wire.TracePart:
    """`part` less what sampling says of it, where the trace was restored since."""
    restored = DecisionReason.RESTORED.value
    if stored.trace_metadata.get(_REASON) != restored or part.metadata.get(_REASON) == restored:
        return part
    metadata = {key: one for key, one in part.metadata.items() if not key.startswith(MARKS)}
    return msgspec.structs.replace(part, metadata=metadata)


def _without_root(stored: TraceInfo, part: wire.TracePart, came: Sequence[Span]) -> wire.TracePart:
    """`part` less what its process attached by itself, where another process has the root."""
    if any(is_root(span) for span in came):
        return part
    metadata = {
        key: value
        for key, value in part.metadata.items()
        if key not in PROCESS_METADATA or key not in stored.trace_metadata
    }
    return msgspec.structs.replace(part, metadata=metadata)
