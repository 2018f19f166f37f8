"""A trace that MLflow's SDK has made, as the wire structs that a producer would have sent."""

import json
from typing import Any

import msgspec

import spanferry_schemas as wire
from spanferry_worker.stages.trace import AssembledTrace, FinishReason

EXPERIMENT = "programs"


class Recorded(msgspec.Struct):
    """One native trace as wire structs."""

    program: str
    trace_id: bytes
    part: wire.TracePart
    spans: list[wire.Span]
    assessments: list[wire.Assessment]
    attachments: list[wire.Attachment]

    def assembled(self) -> AssembledTrace:
        """As a worker has it when it is complete."""
        return AssembledTrace(
            trace_id=self.trace_id,
            trace=self.part,
            spans=self.spans,
            assessments=self.assessments,
            reason=FinishReason.COMPLETE,
            complete=True,
            size=1,
            positions=[],
            attachments=self.attachments,
        )


class Made(msgspec.Struct):
    """What MLflow's SDK held of a trace when it ended, before references replaced its payloads."""

    trace: Any
    prompts: list[Any]
    given: dict[tuple[str, str], bytes]
    """JSON by span id and attribute, of what set_inputs and set_outputs got."""


DERIVED_TAGS = {"mlflow.traceName", "mlflow.linkedPrompts"}
DERIVED = {
    "mlflow.trace_schema.version",
    "mlflow.traceInputs",
    "mlflow.traceOutputs",
    "mlflow.trace.tokenUsage",
    "mlflow.trace.cost",
    "mlflow.trace.sizeStats",
    "mlflow.trace.sizeBytes",
}


def as_wire(name: str, made: Made, given: dict[str, Any]) -> Recorded:
    trace = made.trace
    info = trace.info
    judged = given.pop("assessments", info.assessments)
    part = wire.TracePart(
        experiment=EXPERIMENT,
        client_request_id=info.client_request_id,
        tags={k: v for k, v in info.tags.items() if k not in DERIVED_TAGS},
        metadata={k: v for k, v in info.trace_metadata.items() if k not in DERIVED},
        prompts=tuple((prompt.name, str(prompt.version)) for prompt in made.prompts),
    )
    return Recorded(
        program=name,
        trace_id=bytes.fromhex(info.trace_id.removeprefix("tr-")),
        part=msgspec.structs.replace(
            part, **{**given, "tags": {**part.tags, **given.get("tags", {})}}
        ),
        spans=[wire_span(span, made.given) for span in trace.data.spans],
        assessments=wire_assessments(judged, info),
        attachments=[
            wire.Attachment(one.id, one.content_type, one.content_bytes)
            for span in trace.data.spans
            if not any(of == span.span_id for of, _ in made.given)
            for one in span._attachments.values()
        ],
    )


def wire_span(span: Any, given: dict[tuple[str, str], bytes]) -> wire.Span:
    attributes = {
        key: json.dumps(json.loads(text), separators=(",", ":"), ensure_ascii=False).encode()
        for key, text in span._span.attributes.items()
        if key not in {"mlflow.traceRequestId", "mlflow.spanType"}
    }
    attributes |= {key: text for (of, key), text in given.items() if of == span.span_id}
    return wire.Span(
        span_id=bytes.fromhex(span.span_id),
        parent_id=bytes.fromhex(span.parent_id) if span.parent_id else None,
        name=span.name,
        span_type=span.span_type or "",
        start_ns=span.start_time_ns,
        end_ns=span.end_time_ns or 0,
        status=wire.StatusCode[span.status.status_code.name],
        status_message=span.status.description or "",
        attributes=attributes,
        events=[
            wire.SpanEvent(e.name, e.timestamp, msgspec.json.encode(e.attributes))
            for e in span.events
        ],
        links=[
            wire.SpanLink(
                bytes.fromhex(link.trace_id.removeprefix("tr-")),
                bytes.fromhex(link.span_id),
                msgspec.json.encode(link.attributes or {}),
            )
            for link in span.links
        ],
        kind=wire.SpanKind(span._span.kind.value + 1),
    )


def wire_assessments(assessments: list[Any], info: Any) -> list[wire.Assessment]:
    """With ids of our own making, by which they also override each other."""
    made = [wire_assessment(one, index, info) for index, one in enumerate(assessments)]
    ids = {
        one.assessment_id: ours.assessment_id for one, ours in zip(assessments, made, strict=True)
    }
    return [
        msgspec.structs.replace(ours, overrides=ids[one.overrides] if one.overrides else None)
        for one, ours in zip(assessments, made, strict=True)
    ]


def wire_assessment(assessment: Any, index: int, info: Any) -> wire.Assessment:
    feedback = assessment.feedback is not None
    error = assessment.feedback.error if feedback else None
    kind = wire.AssessmentKind.FEEDBACK if feedback else wire.AssessmentKind.EXPECTATION
    value = assessment.feedback.value if feedback else assessment.expectation.value
    return wire.Assessment(
        assessment_id=f"a-{info.trace_id[3:20]}-{index}",
        kind=kind,
        name=assessment.name,
        value=msgspec.json.encode(value),
        created_ns=assessment.create_time_ms * 1_000_000,
        trace_id=bytes.fromhex(info.trace_id.removeprefix("tr-")),
        span_id=bytes.fromhex(assessment.span_id) if assessment.span_id else None,
        source_type=assessment.source.source_type,
        source_id=assessment.source.source_id or "default",
        rationale=assessment.rationale,
        metadata=assessment.metadata or {},
        error=(error.error_code, error.error_message, error.stack_trace) if error else None,
    )
