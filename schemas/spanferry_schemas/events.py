"""The events of the wire: msgspec structs, laid out as arrays, fields append-only.

A field is never removed, renamed in meaning or moved; a new one is added at the end with a default.
Integers and byte strings are checked while decoding, so what leaves the decoder is sound.
"""

from enum import IntEnum, StrEnum
from typing import Annotated

from msgspec import Meta, Raw, Struct

from spanferry_schemas.limits import (
    CHUNK_GROUP_ID_BYTES,
    CHUNKS_MAX,
    PRODUCER_ID_BYTES,
    SPAN_ID_BYTES,
    TRACE_ID_BYTES,
    VALUE_BYTES_MAX,
)

__all__ = [
    "Assessment",
    "AssessmentKind",
    "Attachment",
    "Chunk",
    "EncodedFragment",
    "End",
    "Event",
    "Fragment",
    "Report",
    "Span",
    "SpanEvent",
    "SpanKind",
    "SpanLink",
    "StatusCode",
    "TracePart",
    "TraceState",
]

TraceId = Annotated[bytes, Meta(min_length=TRACE_ID_BYTES, max_length=TRACE_ID_BYTES)]
SpanId = Annotated[bytes, Meta(min_length=SPAN_ID_BYTES, max_length=SPAN_ID_BYTES)]
AttachmentId = Annotated[
    str,
    Meta(pattern=r"\A[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z"),
]
ProducerId = Annotated[bytes, Meta(min_length=PRODUCER_ID_BYTES, max_length=PRODUCER_ID_BYTES)]
GroupId = Annotated[bytes, Meta(min_length=CHUNK_GROUP_ID_BYTES, max_length=CHUNK_GROUP_ID_BYTES)]
Nanoseconds = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]


class StatusCode(IntEnum):
    """OpenTelemetry's span status, with its numbers."""

    UNSET = 0
    OK = 1
    ERROR = 2


class SpanKind(IntEnum):
    """OpenTelemetry's span kind, with OTLP's numbers."""

    UNSPECIFIED = 0
    INTERNAL = 1
    SERVER = 2
    CLIENT = 3
    PRODUCER = 4
    CONSUMER = 5


class TraceState(StrEnum):
    """MLflow's trace state, where the app set it itself; otherwise it follows from the root span."""

    OK = "OK"
    ERROR = "ERROR"
    IN_PROGRESS = "IN_PROGRESS"
    UNSPECIFIED = "STATE_UNSPECIFIED"


class AssessmentKind(IntEnum):
    """MLflow's assessments: a judgement, or the answer that was wanted."""

    FEEDBACK = 1
    EXPECTATION = 2


class SpanEvent(Struct, array_like=True, frozen=True, gc=False):
    """A moment within a span. `attributes` is one JSON object in UTF-8."""

    name: str
    time_ns: Nanoseconds
    attributes: bytes = b"{}"


class SpanLink(Struct, array_like=True, frozen=True, gc=False):
    """A pointer to a span, of this trace or another. `attributes` is one JSON object in UTF-8."""

    trace_id: TraceId
    span_id: SpanId
    attributes: bytes = b"{}"


class Span(Struct, array_like=True, frozen=True):
    """One ended span. Each attribute value is one JSON text in UTF-8, exactly once encoded.

    Inputs and outputs are the attributes `mlflow.spanInputs` and `mlflow.spanOutputs`; the type is
    a field of its own and is not repeated among the attributes; it is empty where another tracer made
    the span. `end_ns` 0 means "not ended". MLflow keeps the kind from 3.18 on; what its own API makes is
    INTERNAL.
    """

    span_id: SpanId
    parent_id: SpanId | None
    name: str
    span_type: str
    start_ns: Nanoseconds
    end_ns: Nanoseconds
    status: StatusCode = StatusCode.UNSET
    status_message: str = ""
    attributes: dict[str, bytes] = {}
    events: list[SpanEvent] = []
    links: list[SpanLink] = []
    kind: SpanKind = SpanKind.INTERNAL


class Attachment(Struct, array_like=True, frozen=True, gc=False):
    """Bytes that inputs or outputs refer to by `mlflow-attachment://<id>?...`: an image, a sound.

    `attachment_id` is a UUID in its canonical text form; it becomes a file name.
    """

    attachment_id: AttachmentId
    content_type: str
    data: bytes


class TracePart(Struct, array_like=True, gc=False):
    """What belongs to the trace and not to a span. Later parts of one trace override earlier ones.

    Where neither `experiment_id` nor `experiment` (a name) is given the worker's default is used.
    `active_model` is a LoggedModel's name, looked up by the worker; an id goes to the metadata
    `mlflow.modelId` at once. Session and user are the metadata `mlflow.trace.session` and
    `mlflow.trace.user`. `state` None means: as the root span ended.

    `model_params` are the active model's, added where it lacks them. `prompts` are names and versions
    of registered prompts that the trace used. `deleted_tags` are taken away from what was set before;
    a tag that the same part or a later one sets is there. `files_inline`: base64 in inputs and outputs
    stays there instead of becoming attachments, whatever the worker does otherwise.
    """

    experiment_id: str | None = None
    experiment: str | None = None
    state: TraceState | None = None
    client_request_id: str | None = None
    request_preview: str | None = None
    response_preview: str | None = None
    tags: dict[str, str] = {}
    metadata: dict[str, str] = {}
    active_model: str | None = None
    model_params: dict[str, str] = {}
    prompts: tuple[tuple[str, str], ...] = ()
    deleted_tags: tuple[str, ...] = ()
    files_inline: bool = False


class End(Struct, array_like=True, frozen=True, gc=False):
    """The local root has ended: how much there is to wait for.

    `spans`: spans that this process started in this trace, ended or not. `contexts_out`: how many
    times the trace's context was handed to another service. `remote_parent`: this local root is
    itself a child of another service's span.

    A trace is complete when an End without remote parent was seen, the Ends with remote parent are
    at least as many as all `contexts_out` together (one context may give several local roots), and
    the spans at least as many as all `spans` together. What comes later is added to it.
    """

    spans: Count
    contexts_out: Count = 0
    remote_parent: bool = False


class Fragment(Struct, array_like=True, frozen=True, tag=1):
    """Some spans of one trace, with the trace's own part and the end marker where they are known."""

    trace_id: TraceId
    spans: list[Span]
    trace: TracePart | None = None
    end: End | None = None
    attachments: list[Attachment] = []


class EncodedFragment(Struct, array_like=True, frozen=True, tag=1):
    """A Fragment for encoding only: its spans are already msgpack. Same layout, same bytes."""

    trace_id: bytes
    spans: list[Raw]
    trace: TracePart | None = None
    end: End | None = None
    attachments: list[Attachment] = []


class Chunk(Struct, array_like=True, frozen=True, tag=2):
    """Piece `index` of `count` of an encoded value (version byte included) too big for one record."""

    trace_id: TraceId
    group_id: GroupId
    index: Annotated[int, Meta(ge=0, lt=CHUNKS_MAX)]
    count: Annotated[int, Meta(ge=1, le=CHUNKS_MAX)]
    total_bytes: Annotated[int, Meta(ge=1, le=VALUE_BYTES_MAX)]
    data: bytes


class Assessment(Struct, array_like=True, frozen=True, tag=3):
    """Feedback or an expectation on a trace, by trace id or by client request id.

    `assessment_id` is made by the producer, so that a repeat is recognised. `value` is one JSON text
    in UTF-8. `source_type` and `rationale` are MLflow's; `error` is (code, message, stack trace). An
    empty name means: name and span of the one that it `overrides`.
    """

    assessment_id: str
    kind: AssessmentKind
    name: str
    value: bytes
    created_ns: Nanoseconds
    trace_id: TraceId | None = None
    client_request_id: str | None = None
    span_id: SpanId | None = None
    source_type: str = "CODE"
    source_id: str = "default"
    rationale: str | None = None
    metadata: dict[str, str] = {}
    error: tuple[str, str | None, str | None] | None = None
    overrides: str | None = None


class Report(Struct, array_like=True, frozen=True, tag=4, gc=False):
    """What a producer has made and dropped since it began: for accounts, not for a trace.

    Every report says it all anew, so that the newest one is enough and a lost one costs nothing. Its
    record has no header and no number. `acknowledged` are the records that Kafka has acknowledged by
    partition: those numbered below. `dropped` are parcels (what one trace hands over at once) by
    reason; `spooled` parcels were moved to disk, from where somebody may send them. `last`: the
    producer has ended in order.
    """

    producer_id: ProducerId
    made_ns: Nanoseconds
    started_ns: Nanoseconds = 0
    acknowledged: tuple[tuple[Count, Nanoseconds], ...] = ()
    dropped: dict[str, Nanoseconds] = {}
    spooled: Nanoseconds = 0
    last: bool = False


Event = Fragment | Chunk | Assessment | Report
