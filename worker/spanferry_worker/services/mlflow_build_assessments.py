"""The wire's feedback and expectations as MLflow's entities."""

from typing import Any, Final

from mlflow.entities import AssessmentError, AssessmentSource, Expectation, Feedback
from mlflow.entities.assessment import DEFAULT_FEEDBACK_NAME, Assessment
from mlflow.tracing.constant import AssessmentMetadataKey

import spanferry_schemas as wire
from spanferry_worker.services.mlflow_text import Texts
from spanferry_worker.stages.trace import AssembledTrace

__all__ = ["AssessmentBuilder"]

_SOURCE_TYPES: Final = frozenset({"HUMAN", "LLM_JUDGE", "CODE", "SOURCE_TYPE_UNSPECIFIED"})


class AssessmentBuilder:
    """Builds assessments that keep to one store's limits."""

    def __init__(self, texts: Texts) -> None:
        self._texts = texts

    def new(self, trace_id: str, trace: AssembledTrace) -> list[Assessment]:
        """Those that override no other: the store's upsert does not know overriding."""
        return [
            self.entity(trace_id, assessment)
            for assessment in {a.assessment_id: a for a in trace.assessments}.values()
            if not assessment.overrides
        ]

    def entity(
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
