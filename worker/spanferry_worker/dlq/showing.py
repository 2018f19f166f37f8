"""One record of the dead letters' topic, whole, for a person to read. Nothing in it can fail this."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from spanferry_schemas import (
    HEADER,
    Assessment,
    Chunk,
    Event,
    Fragment,
    Rejection,
    Report,
    Span,
    TracePart,
    decode,
    read_meta,
    trace_id_text,
)
from spanferry_worker.stages.consume import Record
from spanferry_worker.stages.dead_letter import header_text
from spanferry_worker.stages.receipts import is_receipt
from spanferry_worker.text import printable, size_text, time_text

__all__ = ["shown"]

_HEX_BYTES: Final = 32
_HEX_LINE_BYTES: Final = 16
_DUMP_BYTES_MAX: Final = 4_096


def shown(record: Record, *, payload: bool) -> Iterator[str]:
    """Lines without newlines. `payload`: also what the app recorded, and not only how much it is."""
    kind = "a receipt of a replay" if is_receipt(record) else "a dead letter"
    place = f"{record.partition}:{record.offset} of {record.topic}"
    yield f"{place}: {kind}, written at {time_text(record.timestamp)}"
    yield f"key: {'none' if record.key is None else record.key.hex()}"
    yield "headers:"
    for name, value in record.headers:
        yield f"  {printable(name)}: {_header(name, value)}"
    value = record.value
    if is_receipt(record):
        yield f"replayed: {printable((value or b'').decode('utf-8', 'backslashreplace'))}"
        return
    yield f"value: {_bytes(len(value or b''))}"
    event = decode(value)
    if isinstance(event, Rejection):
        yield f"cannot be decoded, {event.reason}: {printable(event.message)}"
        yield from _dump(value or b"", _DUMP_BYTES_MAX if payload else _HEX_BYTES)
    else:
        yield from _event(event, payload=payload)


def _header(name: str, value: bytes | None) -> str:
    if value is None:
        return "none"
    meta = read_meta([(name, value)]) if name == HEADER else None
    if meta is not None:
        return (
            f"{meta.kind.name.lower()}, record {meta.sequence} of producer {meta.producer_id.hex()}"
            f", {meta.spans} spans, {_bytes(meta.size)}, flags {meta.flags}"
        )
    text = header_text(value)
    return text if text.isprintable() else printable(text)


def _event(event: Event, *, payload: bool) -> Iterator[str]:
    match event:
        case Fragment():
            yield from _fragment(event, payload=payload)
        case Chunk():
            yield (
                f"piece {event.index + 1} of {event.count} of a value of {_bytes(event.total_bytes)}, "
                f"group {event.group_id.hex()}, {_bytes(len(event.data))}: not decoded by itself"
            )
            yield f"trace: {trace_id_text(event.trace_id)}"
        case Assessment():
            yield from _assessment(event, payload=payload)
        case Report():
            yield f"report of producer {event.producer_id.hex()}, {event.made_ns}"


def _fragment(event: Fragment, *, payload: bool) -> Iterator[str]:
    yield f"trace: {trace_id_text(event.trace_id)}"
    if event.trace is not None:
        yield from _trace_part(event.trace, payload=payload)
    if event.end is not None:
        end = event.end
        remote = ", with a remote parent" if end.remote_parent else ""
        yield f"end: of {end.spans} spans, {end.contexts_out} contexts handed out{remote}"
    for one in event.attachments:
        kind = printable(one.content_type)
        yield f"attachment: {one.attachment_id}, {kind}, {_bytes(len(one.data))}"
    yield f"spans: {len(event.spans)}"
    for span in event.spans:
        yield from _span(span, payload=payload)


def _trace_part(part: TracePart, *, payload: bool) -> Iterator[str]:
    plain = {
        "experiment id": part.experiment_id,
        "experiment": part.experiment,
        "state": part.state,
        "client request id": part.client_request_id,
        "active model": part.active_model,
    }
    yield from (f"{name}: {printable(text)}" for name, text in plain.items() if text is not None)
    for name, text in (("request", part.request_preview), ("response", part.response_preview)):
        if text is not None:
            yield f"{name} preview: {_text(text, payload=payload)}"
    for kind, texts in (
        ("tag", part.tags),
        ("metadata", part.metadata),
        ("model parameter", part.model_params),
    ):
        yield from _texts(kind, texts, payload=payload)
    yield from (f"prompt: {printable(name)} {printable(text)}" for name, text in part.prompts)
    yield from (f"deleted tag: {printable(name)}" for name in part.deleted_tags)


def _span(span: Span, *, payload: bool) -> Iterator[str]:
    took = "not ended" if span.end_ns == 0 else f"{(span.end_ns - span.start_ns) / 1e6:.1f} ms"
    size = sum(map(len, span.attributes.values()))
    parent = "root" if span.parent_id is None else f"under {span.parent_id.hex()}"
    yield (
        f"  {printable(span.name)}  {printable(span.span_type) or '-'}  {span.status.name}  {took}  "
        f"{_bytes(size)}  {span.span_id.hex()} {parent}"
    )
    if span.status_message:
        yield f"    message: {_text(span.status_message, payload=payload)}"
    for name, value in span.attributes.items():
        yield f"    {printable(name)}: {_json(value, payload=payload)}"
    for event in span.events:
        yield f"    event {printable(event.name)}: {_json(event.attributes, payload=payload)}"
    for link in span.links:
        yield f"    link: {trace_id_text(link.trace_id)} {link.span_id.hex()}"


def _assessment(event: Assessment, *, payload: bool) -> Iterator[str]:
    yield f"{event.kind.name.lower()}: {printable(event.name) or '-'}, {printable(event.assessment_id)}"
    if event.trace_id is not None:
        yield f"trace: {trace_id_text(event.trace_id)}"
    if event.client_request_id is not None:
        yield f"client request id: {printable(event.client_request_id)}"
    yield f"source: {printable(event.source_type)} {printable(event.source_id)}"
    yield f"value: {_json(event.value, payload=payload)}"
    if event.rationale is not None:
        yield f"rationale: {_text(event.rationale, payload=payload)}"
    if event.error is not None:
        code, *rest = event.error
        told = _text(" ".join(text for text in rest if text), payload=payload)
        yield f"error: {printable(code)} {told}"
    yield from _texts("metadata", event.metadata, payload=payload)


def _texts(kind: str, texts: Mapping[str, str], *, payload: bool) -> Iterator[str]:
    for name, text in texts.items():
        yield f"{kind}: {printable(name)} = {_text(text, payload=payload)}"


def _text(text: str, *, payload: bool) -> str:
    size = len(text.encode("utf-8", "surrogatepass"))
    return printable(text) if payload else f"({_bytes(size)})"


def _json(value: bytes, *, payload: bool) -> str:
    text = printable(value.decode("utf-8", "backslashreplace")) if payload else ""
    return text or f"({_bytes(len(value))})"


def _bytes(size: int) -> str:
    return size_text(size).replace(" B", " bytes")


def _dump(value: bytes, count_max: int) -> Iterator[str]:
    """The first bytes, as hexadecimal digits and as what is printable of them."""
    for at in range(0, min(len(value), count_max), _HEX_LINE_BYTES):
        piece = value[at : min(at + _HEX_LINE_BYTES, count_max)]
        yield f"  {at:06x}  {piece.hex(' '):<{3 * _HEX_LINE_BYTES}} {_readable(piece)}"
    if len(value) > count_max:
        yield f"  ... {_bytes(len(value) - count_max)} more"


def _readable(piece: Sequence[int]) -> str:
    return "".join(chr(one) if 0x20 <= one < 0x7F else "." for one in piece)
