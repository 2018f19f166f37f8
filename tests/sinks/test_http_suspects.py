"""A server that says 503 while it lives: its database is away, or one span has its database hang up."""

import json
from types import ModuleType, SimpleNamespace

import pytest

from spanferry_worker.errors import PartlyRefusedError, PoisonError, TransientError
from spanferry_worker.services import http_client, mlflow_loads
from spanferry_worker.services.mlflow_sink import MlflowSink
from spanferry_worker.stages.trace import AssembledTrace
from tests.sinks.conftest import OpenSink, Place
from tests.sinks.gateway import Answer, Gateway, Seen
from tests.sinks.stores import five_spans, ids, late, span, trace
from tests.sinks.test_http import SPANS, loads, rows, spans_of

pytestmark = pytest.mark.mlflow

ERROR = {"error_code": "TEMPORARILY_UNAVAILABLE", "message": "MySQL server has gone away"}
MLFLOWS = Answer(503, body=json.dumps(ERROR).encode())
PROXYS = Answer(503, body=b"<html>upstream away</html>")
BUSY = [
    Answer(503, body=json.dumps({**ERROR, "message": message}).encode())
    for message in (
        "Lock wait timeout exceeded",
        "canceling statement due to statement timeout",
        'could not extend file "base/1/2": No space left on device',
        "database or disk is full",
        "FATAL: remaining connection slots are reserved",
    )
]
TRY_S = 40
"""Between two tries of the writer, as the clock has it."""


class Clock:
    """Of the sender: it goes on by so much whenever a write begins."""

    now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s


def clock_of(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The one that the module reads from now on; requests are repeated at once."""
    made = Clock()
    monkeypatch.setattr(http_client, "BACKOFF_S", 0.001)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=made.monotonic))
    return made


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return clock_of(mlflow_loads, monkeypatch)


def lone() -> AssembledTrace:
    return trace([span(ids(1)[0])])


def hang_up(way: Gateway, span_ids: set[bytes], answer: Answer = MLFLOWS) -> None:
    """The database does so on each of these spans."""

    def rule(seen: Seen) -> Answer | None:
        hit = seen.path == SPANS and span_ids & {one.span_id for one in spans_of(seen)}
        return answer if hit else None

    way.rule = rule


def away(way: Gateway, reads: bool, answer: Answer = MLFLOWS) -> None:
    """The database takes no spans, and may answer questions."""

    def rule(seen: Seen) -> Answer | None:
        writes = seen.path == SPANS and spans_of(seen)
        return answer if writes or (not reads and "/experiments/get" in seen.path) else None

    way.rule = rule


async def tried(sink: MlflowSink, clock: Clock, batch: list[AssembledTrace], times: int) -> int:
    """Write as the writer does; how often it was not available. Raises what is refused."""
    for number in range(times):
        clock.now_s += TRY_S
        try:
            await sink.write(batch)
        except TransientError:
            continue
        return number
    return times


def poison(batch: list[AssembledTrace], *places: int) -> set[bytes]:
    return {batch[place].spans[-1].span_id for place in places}


async def test_one_span_that_the_database_hangs_up_on(
    way: Gateway, opened: OpenSink, stored: Place, clock: Clock
) -> None:
    """Its trace is refused after some minutes; the neighbours are stored before."""
    sink = await opened(way.uri)
    batch = [five_spans() for _ in range(8)]
    hang_up(way, poison(batch, 3, 6))
    assert await tried(sink, clock, batch, 3) == 3
    others = [one for place, one in enumerate(batch) if place not in {3, 6}]
    assert len(rows(stored, others)["spans"]) == 6 * 5, "three tries, and they are stored"
    began_s = clock.now_s
    with pytest.raises(PartlyRefusedError, match="gone away") as caught:
        await tried(sink, clock, batch, 15)
    assert sorted(caught.value.refused) == [3, 6]
    assert "max_allowed_packet" in str(caught.value)
    assert clock.now_s - began_s >= 160
    assert len(rows(stored, others)["spans"]) == 6 * 5
    way.rule = lambda _: None
    await sink.write([batch[3], batch[6]])
    assert len(rows(stored, batch)["spans"]) == 8 * 5, "a replay completes them"


async def test_the_last_trace_of_a_quiet_day_is_found_as_well(
    way: Gateway, opened: OpenSink, stored: Place, clock: Clock
) -> None:
    """Nothing else comes: what was stored before it is the witness, and is as it was, but for the
    millisecond by which the server rounds."""
    sink = await opened(way.uri)
    before = [five_spans()]
    await sink.write(before)
    there = rows(stored, before)
    alone = lone()
    hang_up(way, {alone.spans[0].span_id})
    with pytest.raises(PoisonError, match="gone away"):
        await tried(sink, clock, [alone], 15)
    assert clock.now_s >= 180
    again = rows(stored, before)
    took = [each["trace_info"][0].pop("execution_time_ms") for each in (again, there)]
    assert 0 <= took[0] - took[1] <= 1
    assert again == there


async def test_a_span_that_came_late(
    way: Gateway, opened: OpenSink, stored: Place, clock: Clock
) -> None:
    sink = await opened(way.uri)
    front = five_spans()
    await sink.write([front])
    bad, good = ids(2)
    root = front.spans[0].span_id
    more = late(front, spans=[span(bad, root, at_ms=2), span(good, root, at_ms=3)])
    hang_up(way, {bad})
    with pytest.raises(PoisonError, match="gone away"):
        await tried(sink, clock, [more], 15)
    assert len(rows(stored, [front])["spans"]) == 6


@pytest.mark.parametrize("reads", [True, False])
@pytest.mark.parametrize("alone", [True, False])
async def test_a_database_that_is_away_behind_a_living_server(
    way: Gateway, opened: OpenSink, stored: Place, clock: Clock, *, reads: bool, alone: bool
) -> None:
    """For hours, and it comes and goes: nothing is refused, and all is stored at the end."""
    sink = await opened(way.uri)
    await sink.write([five_spans()])
    batch = [lone()] if alone else [five_spans() for _ in range(4)]
    for _ in range(2):
        away(way, reads)
        assert await tried(sink, clock, batch, 10) == 10
        way.rule = lambda _: None
        await sink.write([five_spans()])
        clock.now_s += 3_600
    asked = len(loads(way))
    away(way, reads)
    assert await tried(sink, clock, batch, 1) == 1
    assert len(loads(way)) - asked <= 4 * (mlflow_loads.FAILURES_MAX + 1)
    way.rule = lambda _: None
    await sink.write(batch)
    assert len(rows(stored, batch)["spans"]) == (1 if alone else 4 * 5)


@pytest.mark.parametrize("answer", [PROXYS, *BUSY])
async def test_what_is_not_said_of_a_span_blames_none(
    way: Gateway, opened: OpenSink, clock: Clock, answer: Answer
) -> None:
    """A proxy's answer, and that of a database with too much to do, or without room."""
    sink = await opened(way.uri)
    await sink.write([five_spans()])
    batch = [five_spans() for _ in range(3)]
    hang_up(way, poison(batch, 1), answer)
    assert await tried(sink, clock, batch, 10) == 10


async def test_a_witness_that_was_deleted_is_not_brought_back(
    way: Gateway, opened: OpenSink, stored: Place, clock: Clock
) -> None:
    sink = await opened(way.uri)
    before = five_spans()
    await sink.write([before])
    info = stored.info(before.trace_id or b"")
    stored.store.delete_traces(info.experiment_id, trace_ids=[info.trace_id])
    alone = lone()
    hang_up(way, {alone.spans[0].span_id})
    assert await tried(sink, clock, [alone], 10) == 10
    assert not rows(stored, [before])["trace_info"]
    await sink.write([five_spans()])
    with pytest.raises(PoisonError, match="gone away"):
        await tried(sink, clock, [alone], 15)
