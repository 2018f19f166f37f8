"""A trace that MLflow's SDK has made, as the wire structs that a producer would have sent."""

import json
from typing import Any

import msgspec

import spanferry_schemas as wire

EXPERIMENT = "programs"


class Recorded(msgspec.Struct):
    """One native trace as wire structs."""

    program: str
    trace_id: bytes
    part: wire.TracePart
    spans: list[wire.Span]
    assessments: list[wire.Assessment]


DERIVED = {
    "mlflow.trace_schema.version",
    "mlflow.traceInputs",
    "mlflow.traceOutputs",
    "mlflow.trace.tokenUsage",
    "mlflow.trace.cost",
    "mlflow.trace.sizeStats",
    "mlflow.trace.sizeBytes",
}


def as_wire(name: str, trace: Any, given: dict[str, Any]) -> Recorded:
    info = trace.info
    part = wire.TracePart(
        experiment=EXPERIMENT,
        client_request_id=info.client_request_id,
        tags={k: v for k, v in info.tags.items() if k != "mlflow.traceName"},
        metadata={k: v for k, v in info.trace_metadata.items() if k not in DERIVED},
    )
    return Recorded(
        program=name,
        trace_id=bytes.fromhex(info.trace_id.removeprefix("tr-")),
        part=msgspec.structs.replace(
            part, **{**given, "tags": {**part.tags, **given.get("tags", {})}}
        ),
        spans=[wire_span(span) for span in trace.data.spans],
        assessments=[wire_assessment(a, i, info) for i, a in enumerate(info.assessments)],
    )


def wire_span(span: Any) -> wire.Span:
    attributes = {
        key: json.dumps(json.loads(text), separators=(",", ":"), ensure_ascii=False).encode()
        for key, text in span._span.attributes.items()
        if key not in {"mlflow.traceRequestId", "mlflow.spanType"}
    }
    return wire.Span(
        span_id=bytes.fromhex(span.span_id),
        parent_id=bytes.fromhex(span.parent_id) if span.parent_id else None,
        name=span.name,
        span_type=span.span_type,
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
    )


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
