"""Into a tracking server over a bad way: nothing is lost, nothing is doubled, and who is refused is named."""

import base64
import gzip
import json
import secrets
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from spanferry_schemas import TracePart
from spanferry_worker.errors import (
    NoExperimentError,
    PartlyRefusedError,
    PoisonError,
    TraceNotFoundError,
    TransientError,
)
from spanferry_worker.services import http_client
from spanferry_worker.stages.requests import RequestPolicy
from spanferry_worker.stages.trace import AssembledTrace
from tests.services.mlflow import MlflowServer
from tests.sinks.conftest import OpenSink, Place
from tests.sinks.gateway import Answer, Gateway, Seen, gateway
from tests.sinks.stores import dump, feedback, five_spans, ids, late, span, trace

pytestmark = pytest.mark.mlflow

SPANS = "/v1/traces"
RECORDS = "/api/3.0/mlflow/traces"
LOOK = "/batchGetInfos"
USAGE = "mlflow.chat.tokenUsage"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "BACKOFF_S", 0.01)


def some(count: int, **fields: Any) -> list[AssembledTrace]:
    return [five_spans(assessments=[feedback()], **fields) for _ in range(count)]


def twins(batch: Sequence[AssembledTrace]) -> list[AssembledTrace]:
    """The same once more, as other traces."""
    return [
        msgspec.structs.replace(one, trace_id=secrets.token_bytes(16), assessments=[feedback()])
        for one in batch
    ]


def rows(place: Place, batch: Sequence[AssembledTrace]) -> dict[str, list[dict[str, Any]]]:
    """What is stored of these traces; ids and what the store counts are left out."""
    wanted = {"tr-" + (one.trace_id or b"").hex(): f"trace {n}" for n, one in enumerate(batch)}
    names = dict(wanted)
    for n, one in enumerate(batch):
        names[base64.b64encode(one.trace_id or b"").decode()] = f"trace {n}"
    kept: dict[str, list[dict[str, Any]]] = {}
    hidden = ("db_payload_generation", "last_updated_timestamp", "assessment_id", "experiment_id")
    for table, every in dump(place.database, without=hidden).items():
        mine = [row for row in every if wanted.keys() & set(map(str, row.values()))]
        kept[table] = [json.loads(_renamed(json.dumps(row, default=str), names)) for row in mine]
        kept[table].sort(key=lambda row: json.dumps(row, sort_keys=True))
    return kept


def _renamed(text: str, names: dict[str, str]) -> str:
    for name, number in names.items():
        text = text.replace(name, number)
    return text


def spans_of(seen: Seen) -> list[Any]:
    request = ExportTraceServiceRequest()
    body = gzip.decompress(seen.body) if "Content-Encoding" in seen.headers else seen.body
    request.ParseFromString(body)
    return [s for r in request.resource_spans for c in r.scope_spans for s in c.spans]


def loads(way: Gateway) -> list[int]:
    """How many traces each request had the spans of, since the sink was opened."""
    sizes = [len({s.trace_id for s in spans_of(one)}) for one in way.seen if one.path == SPANS]
    return [size for size in sizes if size]


async def test_records_first_and_many_at_once_then_spans_of_many_in_one_request(
    way: Gateway, opened: OpenSink
) -> None:
    sink = await opened(way.uri, http=RequestPolicy(request_traces_max=20))
    way.seen.clear()
    batch = some(30, part=TracePart(experiment="shop")) + some(
        10, part=TracePart(experiment="desk")
    )
    await sink.write(batch)
    assert sorted(loads(way)) == [10, 10, 20]
    paths = way.paths()
    assert len(way.paths(RECORDS)) == 40 + len(way.paths(LOOK))
    assert max(i for i, path in enumerate(paths) if path == RECORDS) < paths.index(SPANS)
    assert 1 < way.most_under_way <= 16
    experiments = {one.headers["x-mlflow-experiment-id"] for one in way.seen if one.path == SPANS}
    assert len(experiments) == 2
    assert all(one.headers["Content-Encoding"] == "gzip" for one in way.seen if one.path == SPANS)


@pytest.mark.parametrize("cut", [RECORDS, SPANS, LOOK])
async def test_an_answer_that_is_lost_changes_nothing(
    way: Gateway, opened: OpenSink, stored: Place, cut: str
) -> None:
    """The server has done it; the client asks again, and the batch comes once more for good measure."""
    sink = await opened(way.uri)
    clean = some(5)
    batch = twins(clean)
    await sink.write(clean)
    way.times(2, cut, "cut")
    await sink.write(batch)
    once = rows(stored, batch)
    assert once == rows(stored, clean)
    assert len(once["spans"]) == 25
    assert len(once["assessments"]) == 5
    await sink.write(batch)
    assert rows(stored, batch) == once


@pytest.mark.parametrize("same_worker", [True, False])
@pytest.mark.parametrize("dies_at", [RECORDS, SPANS])
async def test_a_batch_that_half_succeeded_is_completed(
    way: Gateway, opened: OpenSink, stored: Place, dies_at: str, *, same_worker: bool
) -> None:
    """The way breaks in the middle of a batch; it comes again to the same worker, or to the next one."""
    policy = RequestPolicy(request_traces_max=2)
    sink = await opened(way.uri, http=policy)
    clean = some(6)
    batch = twins(clean)
    await sink.write(clean)
    done = 0

    def rule(seen: Seen) -> str | None:
        nonlocal done
        with way.lock:
            done += seen.path == dies_at
            return "cut" if done > 2 else None

    way.rule = rule
    with pytest.raises(TransientError):
        await sink.write(batch)
    way.rule = lambda _: None
    if not same_worker:
        sink = await opened(way.uri, http=policy)
    way.seen.clear()
    await sink.write(batch)
    assert rows(stored, batch) == rows(stored, clean)
    if same_worker and dies_at == RECORDS:
        assert loads(way) == [2, 2, 2], "those without spans are new still"


async def test_who_is_refused_is_named_and_the_others_are_stored(
    way: Gateway, opened: OpenSink, stored: Place
) -> None:
    sink = await opened(way.uri)
    batch = some(40)
    batch[3] = five_spans(part=TracePart(experiment_id="31415926"))
    unknown = late(five_spans(), part=TracePart(tags={"a": "b"}))
    batch[4] = unknown
    poison = {(batch[place].trace_id or b"") for place in (7, 21)}

    def rule(seen: Seen) -> Answer | None:
        if seen.path == SPANS and poison & {s.trace_id for s in spans_of(seen)}:
            return Answer(422, body=b'{"detail": "Cannot convert"}')
        return None

    way.rule = rule
    way.seen.clear()
    with pytest.raises(PartlyRefusedError) as caught:
        await sink.write(batch)
    refused = caught.value.refused
    assert sorted(refused) == [3, 4, 7, 21]
    assert isinstance(refused[3], NoExperimentError)
    assert isinstance(refused[4], TraceNotFoundError)
    assert "Cannot convert" in str(refused[7])
    assert len(rows(stored, batch)["spans"]) == 36 * 5
    assert len(loads(way)) <= 1 + 2 * 2 * 6, "found by halves"
    assert len(way.paths(RECORDS)) < 60
    way.rule = lambda _: None
    await sink.write([batch[7], batch[21]])
    assert len(rows(stored, batch)["spans"]) == 38 * 5


async def test_a_record_that_is_refused_is_named_too(way: Gateway, opened: OpenSink) -> None:
    sink = await opened(way.uri)
    batch = some(6)
    bad = ("tr-" + (batch[2].trace_id or b"").hex()).encode()
    error = {"error_code": "INVALID_PARAMETER_VALUE", "message": "no such trace name"}

    def rule(seen: Seen) -> Answer | None:
        is_bad = seen.path == RECORDS and bad in seen.body
        return Answer(400, body=json.dumps(error).encode()) if is_bad else None

    way.rule = rule
    with pytest.raises(PartlyRefusedError, match="no such trace name") as caught:
        await sink.write(batch)
    assert list(caught.value.refused) == [2]
    with pytest.raises(PoisonError, match="no such trace name") as alone:
        await sink.write([batch[2]])
    assert not isinstance(alone.value, PartlyRefusedError)


def llm(parent: bytes | None, tokens: int, at_ms: float, text: bytes) -> Any:
    usage = {"input_tokens": tokens, "output_tokens": 1, "total_tokens": tokens + 1}
    attributes = {
        USAGE: json.dumps(usage).encode(),
        "mlflow.llm.model": b'"gpt-4o-mini"',
        "mlflow.llm.provider": b'"openai"',
        "mlflow.spanInputs": text,
    }
    return span(ids(1)[0], parent, at_ms=at_ms, span_type="LLM", attributes=attributes)


def giant() -> AssembledTrace:
    """Eight spans of 80 KB that cannot be compressed, with tokens and costs."""
    (root,) = ids(1)
    texts = [json.dumps(b"".join(ids(5_000)).hex()).encode() for _ in range(8)]
    spans = [llm(root, 10 + n, n, text) for n, text in enumerate(texts)]
    return trace([*spans, span(root, for_ms=50)])


@pytest.mark.parametrize("why", ["the setting", "413"])
async def test_a_trace_that_is_too_large_for_a_request_goes_in_several(
    way: Gateway, opened: OpenSink, stored: Place, why: str
) -> None:
    """... and its tokens, cost and sizes are those of the whole."""
    whole = giant()
    at_once = await opened(way.uri)
    await at_once.write([whole])
    assert loads(way) == [1]

    def rule(seen: Seen) -> Answer | None:
        large = seen.path == SPANS and len(seen.body) > 120_000
        return Answer(413, body=b"Request Entity Too Large") if large else None

    limit = RequestPolicy(request_bytes_max=200_000) if why == "the setting" else RequestPolicy()
    sink = await opened(way.uri, http=limit)
    again = giant()
    again = late(again, spans=whole.spans)
    if why == "413":
        way.rule = rule
    way.seen.clear()
    small = five_spans()
    await sink.write([again, small])
    assert len(loads(way)) >= 4
    found, wanted = (stored.trace(one.trace_id or b"") for one in (again, whole))
    ours, theirs = found.info.to_dict(), wanted.info.to_dict()
    for key in ("mlflow.trace.sizeBytes", "mlflow.trace.sizeStats"):
        assert ours["trace_metadata"].pop(key)
        assert theirs["trace_metadata"].pop(key)
    assert "mlflow.trace.cost" in ours["trace_metadata"]
    for info in (ours, theirs):
        info["tags"].pop("mlflow.artifactLocation")
        info.pop("trace_id")
    assert ours == theirs
    way.seen.clear()
    before = rows(stored, [again, small])
    await sink.write([again, small])
    assert rows(stored, [again, small]) == before
    if why == "413":
        more = late(giant(), spans=giant().spans)
        await sink.write([more])
        assert not [one for one in way.seen if len(one.body) > 120_000], "the size was learnt"


async def test_a_span_that_is_too_large_by_itself_is_refused(
    way: Gateway, opened: OpenSink
) -> None:
    sink = await opened(way.uri)
    way.rule = lambda seen: Answer(413) if seen.path == SPANS and len(seen.body) > 20_000 else None
    text = json.dumps(b"".join(ids(4_000)).hex()).encode()
    batch = [five_spans(), trace([llm(None, 1, 0, text)]), five_spans()]
    with pytest.raises(PartlyRefusedError, match="413") as caught:
        await sink.write(batch)
    assert list(caught.value.refused) == [1]


async def test_a_way_that_takes_no_gzip_gets_none(
    way: Gateway, opened: OpenSink, stored: Place
) -> None:
    way.rule = lambda seen: Answer(415) if seen.headers.get("Content-Encoding") == "gzip" else None
    sink = await opened(way.uri)
    batch = some(2)
    await sink.write(batch)
    assert len(rows(stored, batch)["spans"]) == 10


@pytest.mark.parametrize("path", [SPANS, RECORDS])
async def test_the_page_of_a_gateway_is_no_answer(
    way: Gateway, opened: OpenSink, stored: Place, path: str
) -> None:
    """Somebody should sign in: 200, and nothing is stored."""
    sink = await opened(way.uri)
    batch = some(2)
    page = Answer(200, {"Content-Type": "text/html"}, b"<html>Sign in</html>")
    way.rule = lambda seen: page if seen.path == path else None
    with pytest.raises(TransientError, match="Sign in"):
        await sink.write(batch)
    way.rule = lambda _: None
    await sink.write(batch)
    assert len(rows(stored, batch)["spans"]) == 10


async def test_what_a_server_asks_for_reaches_the_writer(way: Gateway, opened: OpenSink) -> None:
    sink = await opened(way.uri)
    batch = some(20)
    way.times(1, RECORDS, Answer(429, {"Retry-After": "120"}))
    way.seen.clear()
    with pytest.raises(TransientError) as caught:
        await sink.write(batch)
    assert 100 < (caught.value.retry_after_s or 0) <= 120
    asked = len(way.seen)
    with pytest.raises(TransientError):
        await sink.write(batch)
    assert len(way.seen) == asked, "nothing is asked meanwhile"


@pytest.mark.parametrize("path", [RECORDS, SPANS])
async def test_no_server_stops_the_writer_for_longer_than_it_may(
    way: Gateway, opened: OpenSink, path: str
) -> None:
    """As a firewall does that bars for a day."""
    sink = await opened(way.uri)
    way.times(1, path, Answer(429, {"Retry-After": "86400"}))
    with pytest.raises(TransientError) as caught:
        await sink.write(some(20))
    assert 290 < (caught.value.retry_after_s or 0) <= 300


async def test_no_answer_tells_a_secret(
    way: Gateway, opened: OpenSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a gateway does that repeats what it was sent."""
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "canary-s3cret")
    sink = await opened(way.uri, http=RequestPolicy(headers={"X-Key": "canary-key"}))

    def rule(seen: Seen) -> Answer | None:
        return (
            Answer(400, body=repr(seen.headers).encode()) if seen.path in {SPANS, RECORDS} else None
        )

    way.rule = rule
    for path in (RECORDS, SPANS):
        way.rule = lambda seen, path=path: rule(seen) if seen.path == path else None
        with pytest.raises(PoisonError, match=r"\*\*\*") as caught:
            await sink.write(some(1))
        assert "canary" not in f"{caught.value} {caught.value!r} {caught.value.__cause__}"


async def test_a_server_that_starts_again_in_the_middle(opened: OpenSink, tmp_path: Any) -> None:
    """Killed while a batch is on its way; what it had stored of it is completed when it is back."""
    with MlflowServer() as server, gateway(server.uri) as way:
        sink = await opened(way.uri, http=RequestPolicy(request_traces_max=2))
        place = Place("server", way.uri, server.backend_uri, tmp_path)
        clean = some(6)
        batch = twins(clean)
        await sink.write(clean)
        sent = 0

        def rule(seen: Seen) -> str | None:
            nonlocal sent
            with way.lock:
                sent += seen.path == SPANS
                if sent == 2:
                    server.kill()
            return "drop" if sent >= 2 else None

        way.rule = rule
        with pytest.raises(TransientError):
            await sink.write(batch)
        server.start()
        way.rule = lambda _: None
        await sink.write(batch)
        assert rows(place, batch) == rows(place, clean)
        place.close()
