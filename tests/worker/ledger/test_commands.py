"""The command against a broker: what it says, its exit codes, and what it does not do."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from spanferry_schemas import RecordKind, RecordMeta, encode, write_meta
from spanferry_worker import cli
from spanferry_worker.dev.broker.server import EmbeddedBroker
from spanferry_worker.services.kafka_ledger import KafkaLedger
from spanferry_worker.stages.accounts import Books, Outcome
from spanferry_worker.stages.ledger import Ledger, LedgerPolicy
from tests.worker.events import T0_MS, number, whole
from tests.worker.kafka.logs import kafka_settings

APP = b"app-0001"
PLACE = TopicPartition("traces", 0)
ENDS_WELL = "everything adds up"


class Desk:
    """A topic with records, a ledger of it, and the command line before both."""

    def __init__(self, broker: EmbeddedBroker, capsys: pytest.CaptureFixture[str]) -> None:
        self.broker = broker
        self.settings = kafka_settings(broker.bootstrap_servers)
        self._capsys = capsys
        self.err = ""

    async def ledger(self, *words: str) -> tuple[int, str]:
        """Exit code and output of the command; what is said last counts."""
        self._capsys.readouterr()
        kafka = self.settings.kafka
        place = (
            f"--bootstrap-servers={kafka.bootstrap_servers}",
            f"--topic={kafka.topic}",
            f"--group={kafka.group}",
        )
        code = await asyncio.to_thread(cli.main, ("ledger", *place, *words))
        out, self.err = self._capsys.readouterr()
        return code, out

    async def produce(self, sequences: Sequence[int], producer_id: bytes = APP) -> None:
        """Records with these numbers, all into one partition."""
        producer = AIOKafkaProducer(bootstrap_servers=self.broker.bootstrap_servers)
        await producer.start()
        for sequence in sequences:
            meta = RecordMeta(producer_id, sequence, RecordKind.FRAGMENT)
            value = encode(whole(sequence))
            await producer.send_and_wait(
                "traces", value, key=number(1), headers=[write_meta(meta)], partition=0
            )
        await producer.stop()

    async def keep(self, *records: tuple[int, int, Outcome], now_ms: int = T0_MS) -> None:
        """A worker has decided these (offset, number, outcome), and written the account."""
        kafka = self.settings.kafka
        book = Ledger(LedgerPolicy(), Books(kafka.group, kafka.topic, 0))
        book.begin((), resumed_at=None, end=None, now_ms=now_ms)
        for offset, sequence, outcome in records:
            book.read(offset, APP, sequence, now_ms)
            book.decided([offset], outcome)
        book.fold(records[-1][0] + 1, now_ms)
        kept = KafkaLedger(self.settings)
        await kept.open()
        await kept.save(book.changes(now_ms))
        await kept.close()


@pytest.fixture
async def desk(capsys: pytest.CaptureFixture[str]) -> AsyncIterator[Desk]:
    async with EmbeddedBroker() as broker:
        broker.create_topic("traces", 2)
        yield Desk(broker, capsys)


@contextlib.asynccontextmanager
async def group_member(desk: Desk) -> AsyncIterator[AIOKafkaConsumer]:
    """Who may ask and say what the group has committed."""
    kafka = desk.settings.kafka
    consumer = AIOKafkaConsumer(
        bootstrap_servers=kafka.bootstrap_servers, group_id=kafka.group, enable_auto_commit=False
    )
    await consumer.start()
    consumer.assign([PLACE])
    yield consumer
    await consumer.stop()


async def no_accounts(desk: Desk) -> None:
    """The ledger's topic, as a worker makes it, with nothing in it."""
    kept = KafkaLedger(desk.settings)
    await kept.open()
    await kept.close()


async def test_what_is_stored_and_what_lies_behind_it_adds_up(desk: Desk):
    await desk.produce(range(5))
    await desk.keep(*((n, n, Outcome.STORED) for n in range(3)))
    code, out = await desk.ledger()
    head, app, totals, *rest = out.splitlines()
    assert head.startswith("PRODUCER ")
    assert app.split()[:10] == [APP.hex(), "5", "=", "3", "+", "0", "+", "0", "+", "2"]
    assert totals.split()[:4] == ["all", "5", "=", "3"]
    assert rest == ["no ledger is kept yet of partition 1", ENDS_WELL]
    assert (code, desk.err) == (0, "")


async def test_a_number_that_is_nowhere_is_exit_code_1_and_named(desk: Desk):
    await desk.produce((0, 1, 4, 5))
    await desk.keep((0, 0, Outcome.STORED), (1, 1, Outcome.SAMPLED), (2, 4, Outcome.DEAD_LETTERED))
    code, out = await desk.ledger()
    assert code == 1
    assert ENDS_WELL not in out
    assert out.splitlines()[-2:] == [
        "1 of 1 producers do not add up:",
        f"  {APP.hex()}: 2 missing (partition 0: 2-3)",
    ]
    code, out = await desk.ledger("--json")
    said = json.loads(out)
    assert (code, said["adds_up"], said["totals"]["missing"]) == (1, False, 2)
    assert said["producers"][0]["missing_by_partition"] == {"0": [[2, 3]]}


async def test_what_was_committed_without_a_ledger_is_unaccounted_and_not_wrong(desk: Desk):
    await desk.produce(range(6))
    async with group_member(desk) as consumer:
        await consumer.commit({PLACE: 4})
    await no_accounts(desk)
    code, out = await desk.ledger()
    assert code == 0
    assert "of PRODUCED 4 were committed while no ledger was kept: nothing is known of them" in out
    assert "no ledger is kept yet of partition 0, 1" in out


async def test_all_shows_every_producer(desk: Desk):
    producers = [bytes([n]) * 8 for n in range(1, 25)]
    for producer_id in producers:
        await desk.produce((0,), producer_id)
    await no_accounts(desk)
    code, out = await desk.ledger()
    assert (code, "... and 4 more that add up (--all shows them)" in out) == (0, True)
    code, out = await desk.ledger("--all")
    shown = {line.split()[0] for line in out.splitlines()}
    assert {producer_id.hex() for producer_id in producers} <= shown
    assert "--all" not in out


async def test_more_in_flight_than_it_may_read_is_refused(desk: Desk):
    await desk.produce(range(5))
    await no_accounts(desk)
    code, out = await desk.ledger("--records-max=4")
    assert (code, out) == (3, "")
    assert "5 records are in flight" in desk.err
    assert "--records-max 5" in desk.err
    assert (await desk.ledger("--records-max=5"))[0] == 0


async def test_without_its_topic_or_the_traces_it_says_what_makes_one(desk: Desk):
    code, out = await desk.ledger()
    assert (code, out) == (3, "")
    assert "the ledger's topic traces.ledger does not exist" in desk.err
    assert "spanferry topics create" in desk.err
    code, out = await desk.ledger("--topic=nowhere")
    assert (code, out) == (3, "")
    assert "nowhere does not exist" in desk.err


async def test_where_kafka_is_not_the_exit_code_is_3(desk: Desk):
    code, out = await desk.ledger("--bootstrap-servers=127.0.0.1:1")
    assert (code, out) == (3, "")
    assert desk.err.splitlines()[-1].startswith("spanferry ledger: cannot ")
    assert "Traceback" not in desk.err


def test_wrong_usage_is_exit_code_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPANFERRY_BOOTSTRAP_SERVERS", raising=False)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["ledger", "--records-max=many"])
    assert stopped.value.code == 2


async def test_it_joins_no_group_and_commits_nothing(desk: Desk):
    await desk.produce(range(3))
    await desk.keep((0, 0, Outcome.STORED))
    before = (await desk.ledger("--json"))[1]
    assert (await desk.ledger("--json"))[1] == before
    async with group_member(desk) as consumer:
        assert await consumer.committed(PLACE) is None
