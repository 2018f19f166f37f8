"""The wire's structs as MLflow's entities, with the values that MLflow's own SDK derives."""

import json
import logging
from collections.abc import Sequence
from typing import Any, Final

from mlflow.entities import (
    Span,
    Trace,
    TraceData,
    TraceInfo,
    TraceLocation,
    TraceState,
)
from mlflow.entities.model_registry import PromptVersion
from mlflow.exceptions import MlflowException
from mlflow.tracing.constant import (
    TRACE_SCHEMA_VERSION,
    TRACE_SCHEMA_VERSION_KEY,
    SpanAttributeKey,
    TraceMetadataKey,
    TraceTagKey,
)
from mlflow.tracing.utils import (
    add_size_stats_to_trace_metadata,
    aggregate_usage_from_span_nodes,
)
from mlflow.tracing.utils.prompt import update_linked_prompts_tag
from mlflow.utils.mlflow_tags import IMMUTABLE_TAGS

import spanferry_schemas as wire
from spanferry_worker.services.mlflow_build_assessments import AssessmentBuilder
from spanferry_worker.services.mlflow_build_spans import SpanBuilder
from spanferry_worker.services.mlflow_derive import aggregation_nodes, derive, facts_of
from spanferry_worker.services.mlflow_private import truncated_preview
from spanferry_worker.services.mlflow_text import Texts
from spanferry_worker.stages.trace import AssembledTrace
from spanferry_worker.telemetry import LogEvent

__all__ = ["EntityBuilder", "prompt_versions"]

_logger = logging.getLogger(__name__)


class EntityBuilder:
    """Builds MLflow entities that keep to one store's limits."""

    def __init__(self, texts: Texts) -> None:
        self._texts = texts
        self.spans: Final = SpanBuilder(texts)
        self.assessments: Final = AssessmentBuilder(texts)

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
        info.assessments = self.assessments.new(trace_id, trace)
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
        info.request_preview = self._preview(info.request_preview, data.request, "user")
        info.response_preview = self._preview(info.response_preview, data.response, "assistant")
        if name := info.tags.get(TraceTagKey.TRACE_NAME):
            chars = self._texts.limits.trace_name_chars
            info.tags[TraceTagKey.TRACE_NAME] = self._texts.cut("trace name", name, chars)

    def _preview(self, own: str | None, text: str | None, role: str) -> str | None:
        """The user's own, else MLflow's."""
        preview = truncated_preview(text, role) if own is None and text is not None else own
        return None if preview is None else self._texts.clean(preview)

    def deleted_tags(self, part: wire.TracePart) -> list[str]:
        """The tags that the part takes away, as they are stored."""
        cut = self._texts.cut
        keys = [cut("tag key", key, self._texts.limits.key_chars) for key in part.deleted_tags]
        return [key for key in keys if key not in part.tags and key not in IMMUTABLE_TAGS]

    def model_name(self, name: str) -> str:
        """The active model's, as MLflow holds it."""
        return self._texts.cut("model name", name, self._texts.limits.model_name_chars)

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
        _logger.debug("the tag %s is the user's own", key, extra=LogEvent.WRITE_DETAIL())
