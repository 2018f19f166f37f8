"""The wire's structs as MLflow's entities, with the values that MLflow's own SDK derives."""

import json
import logging
from collections.abc import Sequence
from typing import Any, Final

from mlflow.entities import (
    AssessmentError,
    AssessmentSource,
    Expectation,
    Feedback,
    Link,
    Span,
    Trace,
    TraceData,
    TraceInfo,
    TraceLocation,
    TraceState,
)
from mlflow.entities.assessment import DEFAULT_FEEDBACK_NAME, Assessment
from mlflow.entities.model_registry import PromptVersion
from mlflow.exceptions import MlflowException
from mlflow.tracing.constant import (
    TRACE_SCHEMA_VERSION,
    TRACE_SCHEMA_VERSION_KEY,
    AssessmentMetadataKey,
    SpanAttributeKey,
    TraceMetadataKey,
    TraceTagKey,
)
from mlflow.tracing.utils import (
    add_size_stats_to_trace_metadata,
    aggregate_usage_from_span_nodes,
)
from mlflow.tracing.utils.default_log_level import default_log_level_for_span_type
from mlflow.tracing.utils.prompt import update_linked_prompts_tag
from mlflow.tracing.utils.truncation import set_request_response_preview
from mlflow.utils.mlflow_tags import IMMUTABLE_TAGS
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import SpanContext, Status, StatusCode

import spanferry_schemas as wire
from spanferry_worker.services.mlflow_derive import aggregation_nodes, derive, facts_of
from spanferry_worker.services.mlflow_private import set_links
from spanferry_worker.services.mlflow_text import Texts
from spanferry_worker.stages.trace import AssembledTrace

__all__ = ["EntityBuilder", "prompt_versions"]

_logger = logging.getLogger(__name__)

_OWN_ATTRIBUTES: Final = frozenset({SpanAttributeKey.REQUEST_ID, SpanAttributeKey.SPAN_TYPE})
_SESSION_ATTRIBUTES: Final = frozenset({"session.id", "gen_ai.conversation.id", "user.id"})
_COUNTED_ATTRIBUTES: Final = frozenset({SpanAttributeKey.CHAT_USAGE, SpanAttributeKey.LLM_COST})
"""MLflow's store adds up what is in them, and refuses all spans of a call where it cannot."""
_SOURCE_TYPES: Final = frozenset({"HUMAN", "LLM_JUDGE", "CODE", "SOURCE_TYPE_UNSPECIFIED"})
_ERROR_LEVEL: Final = 40
_NO_RESOURCE: Final = Resource.get_empty()


class EntityBuilder:
    """Builds MLflow entities that keep to one store's limits."""

    def __init__(self, texts: Texts) -> None:
        self._texts = texts

    def span(self, trace_id: bytes, span: wire.Span) -> Span:
        """One span. An ended span that is not an error is OK, as MLflow's SDK ends its spans.

        One without a type was made by another tracer, whose UNSET stays.
        """
        number = int.from_bytes(trace_id, "big")
        parent = span.parent_id
        status, message = self.status(span)
        entity = Span(
            ReadableSpan(
                name=self._texts.clean(span.name),
                context=_context(number, span.span_id),
                parent=_context(number, parent) if parent else None,
                start_time=span.start_ns,
                end_time=span.end_ns or None,
                attributes=self.attributes(wire.trace_id_text(trace_id), span),
                status=Status(StatusCode[status], message or None),
                resource=_NO_RESOURCE,
                events=[self._event(event) for event in span.events],
            )
        )
        set_links(entity, [self._link(link) for link in span.links])
        return entity

    def status(self, span: wire.Span) -> tuple[str, str]:
        """UNSET, OK or ERROR, and the message, which an error alone has."""
        if span.status is wire.StatusCode.ERROR:
            return "ERROR", self._texts.clean(span.status_message)
        if span.status is wire.StatusCode.UNSET and not (span.end_ns and span.span_type):
            return "UNSET", ""
        return "OK", ""

    def name(self, span: wire.Span) -> str:
        """As it is stored."""
        return self._texts.clean(span.name)

    def new_info(
        self,
        trace_id: str,
        trace: AssembledTrace,
        spans: Sequence[Span],
        *,
        experiment_id: str,
        model_id: str | None,
    ) -> TraceInfo:
        """The trace's own record where MLflow holds nothing of it yet."""
        info = self.given_info(trace_id, trace.trace, experiment_id, model_id)
        derive(info, [facts_of(span) for span in spans])
        if usage := aggregate_usage_from_span_nodes(
            aggregation_nodes(spans, SpanAttributeKey.CHAT_USAGE)
        ):
            info.trace_metadata[TraceMetadataKey.TOKEN_USAGE] = json.dumps(usage)
        self.finish(info, spans)
        # After the sizes are counted, which stay the same when feedback comes early, late or twice.
        info.assessments = self.new_assessments(trace_id, trace)
        return info

    def given_info(
        self, trace_id: str, part: wire.TracePart, experiment_id: str, model_id: str | None
    ) -> TraceInfo:
        """A new trace's record as far as its spans have no say in it."""
        info = TraceInfo(
            trace_id=trace_id,
            trace_location=TraceLocation.from_experiment_id(experiment_id),
            request_time=0,
            state=TraceState.IN_PROGRESS,
            trace_metadata={TRACE_SCHEMA_VERSION_KEY: str(TRACE_SCHEMA_VERSION)},
        )
        if model_id is not None:
            info.trace_metadata[TraceMetadataKey.MODEL_ID] = model_id
        self.lay_over(info, part)
        return info

    def new_assessments(self, trace_id: str, trace: AssembledTrace) -> list[Assessment]:
        """Those that override no other: the store's upsert does not know overriding."""
        return [
            self.assessment(trace_id, assessment)
            for assessment in {a.assessment_id: a for a in trace.assessments}.values()
            if not assessment.overrides
        ]

    def lay_over(self, info: TraceInfo, part: wire.TracePart) -> None:
        """Put what the app itself has set over what `info` has."""
        limits, texts = self._texts.limits, self._texts
        self._lay_tags(info, part)
        for key, value in part.metadata.items():
            chars = limits.metadata_value_chars
            if key == TraceMetadataKey.TRACE_SESSION:
                chars = limits.session_chars
            info.trace_metadata[texts.cut("metadata key", key, limits.key_chars)] = texts.cut(
                f"value of metadata {key[:50]}", value, chars
            )
        if part.client_request_id:
            info.client_request_id = self.client_request_id(part.client_request_id)
        if part.request_preview:
            info.request_preview = texts.preview(part.request_preview)
        if part.response_preview:
            info.response_preview = texts.preview(part.response_preview)
        if part.state in {wire.TraceState.OK, wire.TraceState.ERROR}:
            info.state = TraceState(part.state)

    def _lay_tags(self, info: TraceInfo, part: wire.TracePart) -> None:
        limits, texts = self._texts.limits, self._texts
        for key in self.deleted_tags(part):
            info.tags.pop(key, None)
        for key, value in part.tags.items():
            chars = limits.tag_value_chars
            if key == TraceTagKey.TRACE_NAME:
                chars = limits.trace_name_chars
            info.tags[texts.cut("tag key", key, limits.key_chars)] = texts.cut(
                f"value of tag {key[:50]}", value, chars
            )
        if part.prompts:
            _link_prompts(info, prompt_versions(part))

    def finish(self, info: TraceInfo, spans: Sequence[Span]) -> None:
        """Add previews and size statistics: what MLflow's exporter does last."""
        data = TraceData(spans=list(spans))
        self.show(info, data)
        add_size_stats_to_trace_metadata(Trace(info, data))

    def show(self, info: TraceInfo, data: TraceData) -> None:
        """Add previews; of `data` only `request` and `response` are looked at."""
        set_request_response_preview(info, data)
        if info.request_preview is not None:
            info.request_preview = self._texts.clean(info.request_preview)
        if info.response_preview is not None:
            info.response_preview = self._texts.clean(info.response_preview)
        if name := info.tags.get(TraceTagKey.TRACE_NAME):
            chars = self._texts.limits.trace_name_chars
            info.tags[TraceTagKey.TRACE_NAME] = self._texts.cut("trace name", name, chars)

    def deleted_tags(self, part: wire.TracePart) -> list[str]:
        """The tags that the part takes away, as they are stored."""
        cut = self._texts.cut
        keys = [cut("tag key", key, self._texts.limits.key_chars) for key in part.deleted_tags]
        return [key for key in keys if key not in part.tags and key not in IMMUTABLE_TAGS]

    def model_params(self, part: wire.TracePart) -> dict[str, str]:
        """Parameters for the active model, as MLflow holds them."""
        limits, cut = self._texts.limits, self._texts.cut
        return {
            cut("parameter name", key, limits.param_key_chars): cut(
                f"value of parameter {key[:50]}", value, limits.param_value_chars
            )
            for key, value in part.model_params.items()
        }

    def client_request_id(self, text: str) -> str:
        """As it is stored, and therefore as it must be searched for."""
        return self._texts.cut("client request id", text, self._texts.limits.id_chars)

    def assessment(
        self, trace_id: str, event: wire.Assessment, overridden: Assessment | None = None
    ) -> Assessment:
        """Feedback or an expectation, with the producer's own id so that a repeat is recognised.

        Without a name it takes over name and span of the one that it overrides, where that is known.
        """
        limits, texts = self._texts.limits, self._texts
        source_type = event.source_type.upper()
        if source_type == "AI_JUDGE":
            source_type = "LLM_JUDGE"
        metadata = {texts.clean(k): texts.clean(v) for k, v in event.metadata.items()}
        common: dict[str, Any] = {
            "name": texts.cut("assessment name", event.name, limits.name_chars)
            or (overridden.name if overridden else DEFAULT_FEEDBACK_NAME),
            "source": AssessmentSource(
                source_type if source_type in _SOURCE_TYPES else "SOURCE_TYPE_UNSPECIFIED",
                texts.cut("assessment source id", event.source_id, limits.name_chars),
            ),
            "trace_id": trace_id,
            "metadata": metadata or None,
            "span_id": event.span_id.hex() if event.span_id else None,
            "create_time_ms": event.created_ns // 1_000_000,
            "last_update_time_ms": event.created_ns // 1_000_000,
        }
        if not event.name and overridden is not None:
            common["span_id"] = overridden.span_id
        value = texts.json_value(event.value)
        entity: Assessment
        if event.kind is wire.AssessmentKind.EXPECTATION:
            # MLflow knows no expectation without a value; the text keeps what was sent.
            entity = Expectation(value="null" if value is None else value, **common)
        else:
            rationale = texts.clean(event.rationale) if event.rationale is not None else None
            entity = Feedback(
                value=value,  # type: ignore[arg-type]  # any JSON value; the store dumps it
                error=self._error(event),
                rationale=rationale,
                **common,
            )
        if run_id := metadata.get(AssessmentMetadataKey.SOURCE_RUN_ID):
            entity.run_id = texts.cut("assessment run id", run_id, limits.run_id_chars)
        if event.overrides:
            entity.overrides = texts.cut(
                "overridden assessment id", event.overrides, limits.id_chars
            )
        entity.assessment_id = texts.cut("assessment id", event.assessment_id, limits.id_chars)
        return entity

    def _error(self, event: wire.Assessment) -> AssessmentError | None:
        if event.error is None:
            return None
        code, message, stack_trace = event.error
        clean = self._texts.clean
        return AssessmentError(
            error_code=clean(code),
            error_message=clean(message) if message is not None else None,
            stack_trace=clean(stack_trace) if stack_trace is not None else None,
        )

    def attributes(self, trace_id: str, span: wire.Span) -> dict[str, str]:
        """All of them as JSON texts, in Python's layout."""
        texts = self._texts
        span_type = texts.cut("span type", span.span_type, texts.limits.span_type_chars)
        attributes = {
            SpanAttributeKey.REQUEST_ID: f'"{trace_id}"',
            SpanAttributeKey.SPAN_TYPE: json.dumps(span_type or None, ensure_ascii=False),
        }
        for key, raw in span.attributes.items():
            if key in _OWN_ATTRIBUTES:
                continue
            text = texts.json(raw)
            if key in _SESSION_ATTRIBUTES and len(text) > texts.limits.session_chars:
                text = self._short_text(key, text)
            elif key in _COUNTED_ATTRIBUTES and not _is_counts(text):
                text = texts.marked(text, "not numbers by name")
            attributes[texts.clean(key)] = text
        if SpanAttributeKey.LOG_LEVEL not in attributes and span_type:
            raised = any(event.name == "exception" for event in span.events)
            level = _ERROR_LEVEL if raised else int(default_log_level_for_span_type(span_type))
            attributes[SpanAttributeKey.LOG_LEVEL] = str(level)
        return attributes

    def _short_text(self, key: str, text: str) -> str:
        """An attribute that MLflow copies into a column: cut to the column's width."""
        value = json.loads(text)
        if not isinstance(value, str):
            return text
        cut = self._texts.cut(f"span attribute {key}", value, self._texts.limits.session_chars)
        return json.dumps(cut, ensure_ascii=False)

    def _event(self, event: wire.SpanEvent) -> Event:
        attributes: Any = self._texts.json_object(event.attributes)
        return Event(self._texts.clean(event.name), attributes, event.time_ns)

    def _link(self, link: wire.SpanLink) -> Link:
        attributes = self._texts.json_object(link.attributes)
        make: Any = Link  # its base declares an abstract method that it never uses
        made: Link = make(wire.trace_id_text(link.trace_id), link.span_id.hex(), attributes or None)
        return made


def prompt_versions(part: wire.TracePart) -> list[PromptVersion]:
    """The prompts that the trace used. Their templates are MLflow's own business."""
    make: Any = PromptVersion  # its base declares an abstract method that it never uses
    return [
        make(name, int(version), "")
        for name, version in part.prompts
        if version.isdecimal()  # anything else is an alias, which was not looked up
    ]


def _link_prompts(info: TraceInfo, prompts: Sequence[PromptVersion]) -> None:
    """Name the prompts in the trace's tag, as MLflow's SDK does while the trace is open."""
    key = TraceTagKey.LINKED_PROMPTS
    try:
        if names := update_linked_prompts_tag(info.tags.get(key), list(prompts)):
            info.tags[key] = names
    except MlflowException:
        _logger.debug("the tag %s is the user's own", key)


def _is_counts(text: str) -> bool:
    value = json.loads(text)
    if not isinstance(value, dict):
        return True  # ignored by MLflow
    return all(isinstance(number, (int, float)) for number in value.values())


def _context(trace_id: int, span_id: bytes) -> SpanContext:
    return SpanContext(trace_id, int.from_bytes(span_id, "big"), is_remote=False)
