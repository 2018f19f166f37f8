"""Feedback and expectations: with their trace, after it, repeated, and for traces not there."""

import secrets
from typing import Any

import msgspec
import pytest

from spanferry_schemas import AssessmentKind, TracePart
from spanferry_worker.errors import PoisonError, TraceNotFoundError
from spanferry_worker.stages.trace import AssembledTrace
from tests.sinks.conftest import OpenSink, Place, everywhere
from tests.sinks.stores import START_NS, dump, feedback, five_spans, late, trace

pytestmark = pytest.mark.mlflow


def by_request(client_request_id: str, **fields: Any) -> AssembledTrace:
    one = feedback(client_request_id=client_request_id, **fields)
    return msgspec.structs.replace(trace([], assessments=[one]), trace_id=None)


@everywhere
async def test_with_the_trace_and_after_it(place: Place, opened: OpenSink) -> None:
    sink = await opened(place.uri)
    early = feedback(
        name="early",
        value=b'{"score": [1, 2.5, "\xc3\xbc"]}',
        source_type="HUMAN",
        source_id="someone",
        rationale="because",
        metadata={"k": "v", "mlflow.assessment.sourceRunId": "ab" * 16},
        span_id=b"12345678",
    )
    wanted = feedback(name="wanted", kind=AssessmentKind.EXPECTATION, value=b'"Paris"')
    failed = feedback(name="failed", value=b"null", error=("TIMEOUT", "too slow", None))
    first = five_spans(assessments=[early, wanted])
    await sink.write([first])
    await sink.write([late(first, assessments=[failed])])
    before = dump(place.database)
    await sink.write([late(first, assessments=[failed, early])])
    await sink.write([first])
    assert dump(place.database) == before

    found = {a.name: a for a in place.info(first.trace_id or b"").assessments}
    assert set(found) == {"early", "wanted", "failed"}
    assert found["early"].feedback.value == {"score": [1, 2.5, "ü"]}
    assert (found["early"].source.source_type, found["early"].source.source_id) == (
        "HUMAN",
        "someone",
    )
    assert (found["early"].rationale, found["early"].span_id) == ("because", b"12345678".hex())
    assert found["early"].run_id == "ab" * 16
    assert found["early"].assessment_id == early.assessment_id
    assert found["early"].create_time_ms == START_NS // 1_000_000
    assert found["wanted"].expectation.value == "Paris"
    assert found["failed"].feedback.error.error_code == "TIMEOUT"
    assert len(place.trace(first.trace_id or b"").data.spans) == 5


@everywhere
async def test_one_that_overrides_another(place: Place, opened: OpenSink) -> None:
    sink = await opened(place.uri)
    old = feedback(value=b"true")
    new = feedback(value=b"false", overrides=old.assessment_id)
    first = five_spans(assessments=[old, new])
    await sink.write([first])
    await sink.write([first])
    found = {
        a.assessment_id: (a.feedback.value, a.valid)
        for a in place.info(first.trace_id or b"").assessments
    }
    assert found == {old.assessment_id: (True, False), new.assessment_id: (False, True)}


@pytest.mark.parametrize("when", ["together", "later", "by request"])
async def test_an_override_without_a_name_takes_over_name_and_span(
    when: str, place: Place, opened: OpenSink
) -> None:
    sink = await opened(place.uri)
    request_id = f"r-{secrets.token_hex(4)}"
    old = feedback(name="relevance", span_id=b"12345678")
    new = feedback(name="", value=b"false", overrides=old.assessment_id)
    together = [old, new] if when == "together" else [old]
    part = TracePart(client_request_id=request_id, experiment="overridden by request")
    first = five_spans(part=part, assessments=together)
    await sink.write([first])
    if when == "later":
        await sink.write([late(first, assessments=[new])])
    elif when == "by request":
        new = msgspec.structs.replace(new, client_request_id=request_id)
        alone = msgspec.structs.replace(trace([], assessments=[new]), trace_id=None)
        await sink.write([alone])
    found = {a.assessment_id: a for a in place.info(first.trace_id or b"").assessments}
    assert {one.name for one in found.values()} == {"relevance"}
    assert {one.span_id for one in found.values()} == {b"12345678".hex()}
    assert [found[one.assessment_id].valid for one in (old, new)] == [False, True]


async def test_without_a_name_and_nothing_overridden_it_is_feedback(
    place: Place, opened: OpenSink
) -> None:
    sink = await opened(place.uri)
    first = five_spans(assessments=[feedback(name="")])
    await sink.write([first])
    assert [a.name for a in place.info(first.trace_id or b"").assessments] == ["feedback"]


async def test_overriding_what_is_not_there(place: Place, opened: OpenSink) -> None:
    sink = await opened(place.uri)
    first = five_spans()
    await sink.write([first])
    with pytest.raises(PoisonError, match="a-unknown"):
        await sink.write([late(first, assessments=[feedback(overrides="a-unknown")])])


async def test_by_client_request_id_it_goes_to_the_newest(place: Place, opened: OpenSink) -> None:
    sink = await opened(place.uri)
    request_id = f"it's-{secrets.token_hex(4)}"
    part = TracePart(client_request_id=request_id, experiment="requests")
    older, newer = five_spans(part=part), five_spans(part=part)
    later = [
        msgspec.structs.replace(one, start_ns=one.start_ns + 10**9, end_ns=one.end_ns + 10**9)
        for one in newer.spans
    ]
    newer = msgspec.structs.replace(newer, spans=later)
    await sink.write([newer, older])
    judgement = by_request(request_id)
    await sink.write([judgement])
    before = dump(place.database)
    await sink.write([judgement])
    assert dump(place.database) == before
    assert [a.name for a in place.info(newer.trace_id or b"").assessments] == ["good"]
    assert place.info(older.trace_id or b"").assessments == []


async def test_by_client_request_id_it_is_found_in_other_experiments(
    place: Place, opened: OpenSink
) -> None:
    request_id = f"r-{secrets.token_hex(4)}" + "x" * 60  # longer than MLflow holds
    writer = await opened(place.uri)
    part = TracePart(client_request_id=request_id, experiment="written by another worker")
    first = five_spans(part=part)
    await writer.write([first])
    another = await opened(place.uri)
    await another.write([by_request(request_id)])
    assert len(place.info(first.trace_id or b"").assessments) == 1


async def test_for_a_trace_that_is_not_there(place: Place, opened: OpenSink) -> None:
    sink = await opened(place.uri)
    with pytest.raises(TraceNotFoundError, match="waits in the dead letters"):
        await sink.write([trace([], assessments=[feedback()])])
    with pytest.raises(TraceNotFoundError, match="waits in the dead letters"):
        await sink.write([by_request("nobody")])


async def test_odd_ones_do_not_cost_their_trace(place: Place, opened: OpenSink) -> None:
    sink = await opened(place.uri)
    odd = [
        feedback(name="n" * 900, source_id="s" * 900, rationale="r\0" * 10),
        feedback(name="type", source_type="ALIEN"),
        feedback(name="old judge", source_type="ai_judge"),
        feedback(name="no value", kind=AssessmentKind.EXPECTATION, value=b"null"),
        feedback(name="no json", value=b"\xff{"),
        feedback(name="run", metadata={"mlflow.assessment.sourceRunId": "x" * 99}),
    ]
    first = five_spans(assessments=odd)
    await sink.write([first])
    found = {a.name: a for a in place.info(first.trace_id or b"").assessments}
    assert len(found) == len(odd)
    assert found["type"].source.source_type == "SOURCE_TYPE_UNSPECIFIED"
    assert found["old judge"].source.source_type == "LLM_JUDGE"
    assert found["no value"].expectation.value == "null"
    assert found["no json"].feedback.value == "\ufffd{"
    assert found["n" * 250].source.source_id == "s" * 250
