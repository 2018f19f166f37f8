"""A record that a living server, or a firewall before it, does not take, whenever it is sent."""

import json
import secrets

import pytest

from spanferry_schemas import TracePart
from spanferry_worker.errors import PartlyRefusedError, PoisonError
from spanferry_worker.services import mlflow_records
from spanferry_worker.stages.trace import AssembledTrace
from tests.sinks.conftest import OpenSink, Place
from tests.sinks.gateway import Answer, Gateway, Seen
from tests.sinks.stores import feedback, five_spans, late
from tests.sinks.test_http import RECORDS, rows
from tests.sinks.test_http_suspects import MLFLOWS, PROXYS, Clock, clock_of, tried

pytestmark = pytest.mark.mlflow

BAD = "'; DROP TABLE users --"
OF_BASIC_AUTH = Answer(403, body=b"Permission denied")
FIREWALLS = Answer(403, {"Content-Type": "text/html"}, b"<html>request blocked</html>")
UNAUTHORIZED = Answer(403, body=json.dumps({"error_code": "PERMISSION_DENIED"}).encode())


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return clock_of(mlflow_records, monkeypatch)


def bad() -> AssembledTrace:
    return five_spans(part=TracePart(tags={"question": BAD}))


def forbid(way: Gateway, answer: Answer, word: str = BAD) -> None:
    """Every record with that word, which is in all of them if it is empty."""
    way.rule = lambda seen: answer if is_record(seen) and word in seen.body.decode() else None


def is_record(seen: Seen) -> bool:
    return seen.path == RECORDS


@pytest.mark.parametrize("answer", [FIREWALLS, MLFLOWS])
async def test_one_record_that_is_never_taken(
    way: Gateway, opened: OpenSink, stored: Place, clock: Clock, answer: Answer
) -> None:
    """Its neighbours are stored at once; it is refused after some minutes, and a replay stores it."""
    sink = await opened(way.uri)
    batch = [five_spans(), bad(), five_spans(), bad()]
    others = [batch[0], batch[2]]
    forbid(way, answer)
    assert await tried(sink, clock, batch, 1) == 1
    assert len(rows(stored, others)["spans"]) == 2 * 5
    assert not rows(stored, [batch[1]])["trace_info"]
    began_s = clock.now_s
    with pytest.raises(PartlyRefusedError, match="firewall") as caught:
        await tried(sink, clock, batch, 15)
    assert sorted(caught.value.refused) == [1, 3]
    assert clock.now_s - began_s >= 160
    assert not rows(stored, [batch[1]])["trace_info"]
    way.rule = lambda _: None
    await sink.write([batch[1], batch[3]])
    assert len(rows(stored, batch)["spans"]) == 4 * 5


async def test_the_last_record_of_a_quiet_day(
    way: Gateway, opened: OpenSink, stored: Place, clock: Clock
) -> None:
    """What was stored before it is the witness, and is as it was, but for the server's millisecond. What came
    with feedback would undo what somebody has changed of that."""
    sink = await opened(way.uri)
    before = [five_spans()]
    await sink.write(before)
    rated = five_spans(assessments=[feedback()])
    await sink.write([rated])
    (given,) = stored.info(rated.trace_id or b"").assessments
    stored.store.delete_assessment(given.trace_id, given.assessment_id)
    there = rows(stored, before)
    forbid(way, FIREWALLS)
    with pytest.raises(PoisonError, match="firewall"):
        await tried(sink, clock, [bad()], 15)
    again = rows(stored, before)
    took = [each["trace_info"][0].pop("execution_time_ms") for each in (again, there)]
    assert abs(took[0] - took[1]) <= 1
    assert again == there
    assert not [one for one in stored.info(rated.trace_id or b"").assessments if one.valid]


async def test_more_of_them_than_are_sent_at_once(
    way: Gateway, opened: OpenSink, stored: Place, clock: Clock
) -> None:
    """Each answer of MLflow's ends what is under way beside it: the good ones are stored nevertheless."""
    sink = await opened(way.uri)
    batch = [bad() if place % 2 else five_spans() for place in range(36)]
    forbid(way, MLFLOWS)
    assert await tried(sink, clock, batch, 2) == 2
    assert len(rows(stored, batch[::2])["spans"]) == 18 * 5
    with pytest.raises(PartlyRefusedError) as caught:
        await tried(sink, clock, batch, 15)
    assert sorted(caught.value.refused) == list(range(1, 36, 2))


async def test_a_witness_that_was_deleted_says_nothing(
    way: Gateway, opened: OpenSink, stored: Place, clock: Clock
) -> None:
    """Nobody is blamed until there is another one."""
    sink = await opened(way.uri)
    experiment = f"gone-{secrets.token_hex(4)}"
    before = five_spans(part=TracePart(experiment=experiment))
    await sink.write([before])
    info = stored.info(before.trace_id or b"")
    stored.store.delete_traces(info.experiment_id, trace_ids=[info.trace_id])
    alone = five_spans(part=TracePart(experiment=experiment, tags={"question": BAD}))
    forbid(way, FIREWALLS)
    assert await tried(sink, clock, [alone], 7) == 7
    assert not rows(stored, [before])["trace_info"]
    await sink.write([five_spans(part=TracePart(experiment=experiment))])
    with pytest.raises(PoisonError, match="firewall"):
        await tried(sink, clock, [alone], 15)


async def test_another_experiments_record_proves_nothing(
    way: Gateway, opened: OpenSink, stored: Place, clock: Clock
) -> None:
    """The worker may be allowed to write to that one only."""
    sink = await opened(way.uri)
    batch = [five_spans(), five_spans(part=TracePart(experiment="forbidden", tags={"t": BAD}))]
    forbid(way, FIREWALLS)
    assert await tried(sink, clock, batch, 10) == 10
    assert len(rows(stored, batch[:1])["spans"]) == 5


async def test_what_was_added_to_a_stored_trace(
    way: Gateway, opened: OpenSink, stored: Place, clock: Clock
) -> None:
    sink = await opened(way.uri)
    trace = five_spans()
    await sink.write([five_spans(), trace])
    forbid(way, FIREWALLS)
    with pytest.raises(PoisonError, match="firewall"):
        await tried(sink, clock, [late(trace, part=TracePart(tags={"question": BAD}))], 15)
    assert stored.info(trace.trace_id or b"").tags.get("question") is None


@pytest.mark.parametrize(
    ("answer", "count"), [(FIREWALLS, 1), (UNAUTHORIZED, 4), (MLFLOWS, 4), (OF_BASIC_AUTH, 1)]
)
async def test_a_server_that_takes_no_record_blames_none(
    way: Gateway,
    opened: OpenSink,
    stored: Place,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
    answer: Answer,
    count: int,
) -> None:
    sink = await opened(way.uri)
    await sink.write([five_spans()])
    batch = [five_spans() for _ in range(count)]
    forbid(way, answer, "")
    assert await tried(sink, clock, batch, 10) == 10
    refused = [one for one in caplog.records if getattr(one, "event", "") == "store.refused"]
    assert bool(refused) == (answer.status == 403)
    way.rule = lambda _: None
    await sink.write(batch)
    assert len(rows(stored, batch)["spans"]) == count * 5


async def test_what_a_proxy_is_too_busy_for_blames_none(
    way: Gateway, opened: OpenSink, stored: Place, clock: Clock
) -> None:
    sink = await opened(way.uri)
    batch = [five_spans(), bad()]
    forbid(way, PROXYS)
    assert await tried(sink, clock, batch, 10) == 10
    way.rule = lambda _: None
    await sink.write(batch)
    assert len(rows(stored, batch)["spans"]) == 2 * 5


async def test_nobody_is_blamed_where_nothing_was_ever_taken(
    way: Gateway, opened: OpenSink, clock: Clock
) -> None:
    sink = await opened(way.uri)
    forbid(way, FIREWALLS)
    assert await tried(sink, clock, [bad()], 10) == 10


async def test_a_witness_that_somebody_has_changed_is_left_alone(
    way: Gateway, opened: OpenSink, stored: Place, clock: Clock
) -> None:
    sink = await opened(way.uri)
    before = five_spans(part=TracePart(tags={"team": "search"}))
    await sink.write([before])
    info = stored.info(before.trace_id or b"")
    stored.store.delete_trace_tag(info.trace_id, "team")
    forbid(way, FIREWALLS)
    assert await tried(sink, clock, [bad()], 10) == 10
    assert "team" not in stored.info(before.trace_id or b"").tags
