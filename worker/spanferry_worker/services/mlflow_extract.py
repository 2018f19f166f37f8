"""Base64 within inputs and outputs as attachments: what MLflow's SDK does when they are set."""

import hashlib
import json
import uuid
from collections.abc import Iterator
from functools import partial
from typing import Final

from mlflow.environment_variables import MLFLOW_TRACE_EXTRACT_ATTACHMENTS
from msgspec.structs import replace

import spanferry_schemas as wire
from spanferry_schemas import mlflow_keys, trace_id_text
from spanferry_worker.services.mlflow_private import AttachmentHolder
from spanferry_worker.stages.trace import AssembledTrace

__all__ = ["extract", "is_wanted"]

_ATTRIBUTES: Final = (mlflow_keys.SPAN_INPUTS, mlflow_keys.SPAN_OUTPUTS)
_NAMESPACE: Final = uuid.UUID("6f1d2c0e-5b0c-5a53-9d6e-0f6b1c6a7c11")


def is_wanted() -> bool:
    """Whether MLflow's own switch, MLFLOW_TRACE_EXTRACT_ATTACHMENTS, is on, as it is by default."""
    wanted: bool = MLFLOW_TRACE_EXTRACT_ATTACHMENTS.get()
    return wanted


def extract(trace: AssembledTrace) -> AssembledTrace:
    """The trace with references in place of base64, and with what these refer to.

    The same trace gives the same ids whenever it comes. A payload that sampling has cut is no
    base64 any more and stays as it is. A trace without any, or of an app that wants it left where it
    is, is returned itself.
    """
    if trace.trace_id is None or trace.trace.files_inline:
        return trace
    if not _is_marked(b"\n".join(_values(trace))):
        return trace
    found: dict[str, wire.Attachment] = {}
    spans = [_extract_span(trace.trace_id, span, found) for span in trace.spans]
    if all(new is old for new, old in zip(spans, trace.spans, strict=True)):
        return trace
    return replace(trace, spans=spans, attachments=[*trace.attachments, *found.values()])


def _values(trace: AssembledTrace) -> Iterator[bytes]:
    for span in trace.spans:
        for key in _ATTRIBUTES:
            if (raw := span.attributes.get(key)) is not None:
                yield raw


def _extract_span(trace_id: bytes, span: wire.Span, found: dict[str, wire.Attachment]) -> wire.Span:
    attributes: dict[str, bytes] = {}
    refusals: list[str] = []
    for key in _ATTRIBUTES:
        raw = span.attributes.get(key)
        if raw is None or not _is_marked(raw):
            continue
        name = partial(_name, trace_id, span.span_id)
        holder = AttachmentHolder(trace_id_text(trace_id), name)
        text = _walk(holder, raw)
        if text is None:
            continue
        attributes[key] = text
        refusals += holder.refusals
        for one in holder.found():
            found[one.id] = wire.Attachment(one.id, one.content_type, one.content_bytes)
    if not attributes:
        return span
    span = replace(span, attributes={**span.attributes, **attributes})
    return _failed(span, refusals) if refusals else span


def _is_marked(raw: bytes) -> bool:
    """Without one of these MLflow's walk finds nothing, and what has none is not even decoded."""
    return (
        b"base64" in raw  # data URIs, Anthropic's sources
        or b'audio"' in raw  # OpenAI's, in and out
        or b'"b64_json"' in raw
        or b'"bytes"' in raw  # Bedrock's images
        or b'"inline_data"' in raw
        or b'"image_generation_call"' in raw
    )


def _walk(holder: AttachmentHolder, raw: bytes) -> bytes | None:
    """The JSON text with references; None where there is nothing to refer to."""
    try:
        value = holder.take(json.loads(raw))
        if not (holder.found() or holder.refusals):
            return None
        # MLflow walks a second time over what the first walk has left.
        return json.dumps(holder.take(value)).encode()
    except (ValueError, RecursionError):
        return None  # no JSON, or nested too deep for MLflow to read


def _failed(span: wire.Span, refusals: list[str]) -> wire.Span:
    """The span as it is after record_exception, for attachments above MLflow's limit."""
    time_ns = span.end_ns or span.start_ns
    events = [
        wire.SpanEvent(
            "exception",
            time_ns,
            json.dumps({
                "exception.message": message,
                "exception.type": "Exception",
                "exception.stacktrace": f"Exception: {message}",
            }).encode(),
        )
        for message in refusals
    ]  # fmt: skip
    return replace(
        span,
        status=wire.StatusCode.ERROR,
        status_message=f"Exception: {refusals[-1]}",
        events=[*span.events, *events],
    )


def _name(trace_id: bytes, span_id: bytes, content: bytes) -> str:
    digest = hashlib.sha256(content).hexdigest()
    return str(uuid.uuid5(_NAMESPACE, f"{trace_id.hex()}/{span_id.hex()}/{digest}"))
