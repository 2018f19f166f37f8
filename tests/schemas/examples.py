"""Events for the wire's tests: one of each kind by hand, and strategies that make any."""

from hypothesis import strategies as st
from msgspec.structs import replace

from spanferry_schemas import (
    Assessment,
    AssessmentKind,
    Attachment,
    Chunk,
    End,
    Fragment,
    Report,
    Span,
    SpanEvent,
    SpanKind,
    SpanLink,
    StatusCode,
    TracePart,
    TraceState,
)

TRACE_ID = bytes(range(16))
ROOT_ID = b"\x01" * 8
CHILD_ID = b"\x02" * 8

ROOT = Span(
    span_id=ROOT_ID,
    parent_id=None,
    name="answer",
    span_type="AGENT",
    start_ns=1_700_000_000_000_000_000,
    end_ns=1_700_000_000_250_000_000,
    status=StatusCode.OK,
    attributes={
        "mlflow.spanInputs": b'{"question":"Wie gro\xc3\x9f ist ein Elefant?"}',
        "mlflow.spanOutputs": b'"3 m"',
        "temperature": b"0.2",
    },
)
CHILD = Span(
    span_id=CHILD_ID,
    parent_id=ROOT_ID,
    name="retrieve",
    span_type="RETRIEVER",
    start_ns=1_700_000_000_010_000_000,
    end_ns=1_700_000_000_090_000_000,
    status=StatusCode.ERROR,
    status_message="ValueError: no index",
    events=[SpanEvent("exception", 1_700_000_000_080_000_000, b'{"exception.type":"ValueError"}')],
    links=[SpanLink(bytes(16), bytes(8), b'{"why":"retry"}')],
)

EXAMPLES = {
    "fragment": Fragment(
        trace_id=TRACE_ID,
        spans=[CHILD, ROOT],
        trace=TracePart(
            experiment="chat-prod",
            state=TraceState.OK,
            client_request_id="req-1",
            request_preview="How tall?",
            tags={"team": "search"},
            metadata={"mlflow.trace.session": "s-1", "mlflow.trace.user": "u-1"},
            active_model="chat-agent",
        ),
        end=End(spans=2, contexts_out=1),
    ),
    "fragment_minimal": Fragment(trace_id=TRACE_ID, spans=[], end=End(spans=0)),
    "fragment_full": Fragment(
        trace_id=TRACE_ID,
        spans=[ROOT],
        trace=TracePart(
            experiment_id="7",
            active_model="chat-agent",
            model_params={"temperature": "0.2"},
            prompts=(("greeting", "3"),),
            deleted_tags=("draft",),
        ),
        end=End(spans=1),
        attachments=[
            Attachment("01234567-89ab-4cde-8f01-23456789abcd", "image/png", b"\x89PNG\r\n")
        ],
    ),
    "fragment_files_inline": Fragment(
        trace_id=TRACE_ID, spans=[ROOT], trace=TracePart(files_inline=True), end=End(spans=1)
    ),
    "fragment_kind": Fragment(
        trace_id=TRACE_ID, spans=[replace(ROOT, kind=SpanKind.SERVER)], end=End(spans=1)
    ),
    "fragment_end": Fragment(trace_id=TRACE_ID, spans=[], end=End(spans=1, remote_parent=True)),
    "chunk": Chunk(
        trace_id=TRACE_ID, group_id=b"\x07" * 8, index=1, count=3, total_bytes=20, data=b"01234567"
    ),
    "assessment": Assessment(
        assessment_id="a-0123456789abcdef",
        kind=AssessmentKind.FEEDBACK,
        name="helpful",
        value=b"true",
        created_ns=1_700_000_001_000_000_000,
        trace_id=TRACE_ID,
        source_type="HUMAN",
        source_id="u-1",
        rationale="to the point",
        metadata={"page": "chat"},
    ),
    "assessment_by_request": Assessment(
        assessment_id="a-fedcba9876543210",
        kind=AssessmentKind.EXPECTATION,
        name="expected",
        value=b'{"answer":"3 m"}',
        created_ns=1_700_000_002_000_000_000,
        client_request_id="req-1",
        error=("TIMEOUT", "judge did not answer", None),
    ),
    "report": Report(
        producer_id=b"\x05" * 8,
        made_ns=1_700_000_003_000_000_000,
        started_ns=1_700_000_000_000_000_000,
        acknowledged=((0, 12), (3, 1)),
        dropped={"buffer_full": 2},
        spooled=1,
        last=True,
    ),
}

EARLIER = {"fragment", "fragment_minimal", "fragment_full", "fragment_files_inline"}
"""Written before fields were appended: read for ever, not written any more."""

_ns = st.integers(0, 2**63 - 1)
_text = st.text(max_size=20)
_json = st.sampled_from([b"1", b'"a"', b"null", b'{"k":[1,2]}', b""])
_span_id = st.binary(min_size=8, max_size=8)
_trace_id = st.binary(min_size=16, max_size=16)
_strings = st.dictionaries(_text, _text, max_size=3)

span = st.builds(
    Span,
    span_id=_span_id,
    parent_id=st.none() | _span_id,
    name=_text,
    span_type=_text,
    start_ns=_ns,
    end_ns=_ns,
    status=st.sampled_from(StatusCode),
    status_message=_text,
    attributes=st.dictionaries(_text, _json, max_size=4),
    events=st.lists(st.builds(SpanEvent, name=_text, time_ns=_ns, attributes=_json), max_size=2),
    links=st.lists(
        st.builds(SpanLink, trace_id=_trace_id, span_id=_span_id, attributes=_json), max_size=2
    ),
    kind=st.sampled_from(SpanKind),
)
trace_part = st.builds(
    TracePart,
    experiment_id=st.none() | _text,
    experiment=st.none() | _text,
    state=st.none() | st.sampled_from(TraceState),
    client_request_id=st.none() | _text,
    request_preview=st.none() | _text,
    response_preview=st.none() | _text,
    tags=_strings,
    metadata=_strings,
    active_model=st.none() | _text,
    model_params=_strings,
    prompts=st.lists(st.tuples(_text, _text), max_size=2).map(tuple),
    deleted_tags=st.lists(_text, max_size=2).map(tuple),
    files_inline=st.booleans(),
)
attachment = st.builds(
    Attachment,
    attachment_id=st.uuids().map(str),
    content_type=_text,
    data=st.binary(max_size=20),
)
end = st.builds(
    End,
    spans=st.integers(0, 2**31 - 1),
    contexts_out=st.integers(0, 2**31 - 1),
    remote_parent=st.booleans(),
)
fragment = st.builds(
    Fragment,
    trace_id=_trace_id,
    spans=st.lists(span, min_size=1, max_size=4),
    trace=st.none() | trace_part,
    end=st.none() | end,
    attachments=st.lists(attachment, max_size=2),
)
chunk = st.integers(1, 65_536).flatmap(
    lambda count: st.builds(
        Chunk,
        trace_id=_trace_id,
        group_id=_span_id,
        index=st.integers(0, count - 1),
        count=st.just(count),
        total_bytes=st.integers(50, 10_000),
        data=st.binary(max_size=50),
    )
)
assessment = st.builds(
    Assessment,
    assessment_id=_text,
    kind=st.sampled_from(AssessmentKind),
    name=_text,
    value=_json,
    created_ns=_ns,
    trace_id=_trace_id,
    client_request_id=st.none() | _text,
    span_id=st.none() | _span_id,
    rationale=st.none() | _text,
    metadata=_strings,
    error=st.none() | st.tuples(_text, st.none() | _text, st.none() | _text),
)
report = st.builds(
    Report,
    producer_id=st.binary(min_size=8, max_size=8),
    made_ns=_ns,
    started_ns=_ns,
    acknowledged=st.lists(st.tuples(st.integers(0, 2**31 - 1), _ns), max_size=3).map(tuple),
    dropped=st.dictionaries(_text, _ns, max_size=3),
    spooled=_ns,
    last=st.booleans(),
)
event = st.one_of(fragment, chunk, assessment, report)
