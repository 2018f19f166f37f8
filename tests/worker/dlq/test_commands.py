"""The commands against a broker: reading without a group, sending, receipts, and what goes wrong."""

import asyncio
import json
import os
from collections.abc import AsyncIterator

import pytest
from aiokafka import AIOKafkaProducer

from spanferry_schemas import encode, read_meta
from spanferry_worker import cli
from spanferry_worker.dev.broker.server import EmbeddedBroker
from spanferry_worker.ports import DeadLetter
from spanferry_worker.services.kafka_dead_letters import VERSION, KafkaDeadLetters
from spanferry_worker.testing import MemoryRecord
from tests.worker.events import T0_MS, header, number, whole
from tests.worker.kafka.logs import kafka_settings, read_topic

DLQ = "traces.dlq"


class Desk:
    """A topic with dead letters, and the command line before it."""

    def __init__(self, broker: EmbeddedBroker, capsys: pytest.CaptureFixture[str]) -> None:
        self.broker = broker
        self.address = broker.bootstrap_servers
        self._capsys = capsys
        self.err = ""

    async def bury(self, *letters: DeadLetter) -> None:
        """As a worker does."""
        office = KafkaDeadLetters(kafka_settings(self.address))
        await office.open()
        await office.send(letters)
        await office.close()

    async def dlq(self, *words: str) -> tuple[int, str]:
        """Exit code and output of a command."""
        self._capsys.readouterr()
        words = ("dlq", *words, f"--bootstrap-servers={self.address}", "--topic=traces")
        code = await asyncio.to_thread(cli.main, words)
        out, self.err = self._capsys.readouterr()
        return code, out

    async def listed(self, *words: str) -> list[dict]:
        _, out = await self.dlq("list", "--json", *words)
        return [json.loads(line) for line in out.splitlines()]


def dead(offset: int, reason: str = "refused", **fields) -> DeadLetter:
    values = {
        "topic": "traces",
        "partition": 0,
        "offset": offset,
        "timestamp": T0_MS,
        "key": number(offset),
        "value": encode(whole(offset)),
        "headers": [header(offset), ("mine", b"kept")],
    }
    return DeadLetter(MemoryRecord(**(values | fields)), reason, f"why {offset}", T0_MS + offset)


@pytest.fixture
async def desk(capsys: pytest.CaptureFixture[str]) -> AsyncIterator[Desk]:
    async with EmbeddedBroker() as broker:
        broker.create_topic("traces", 2)
        yield Desk(broker, capsys)


async def test_letters_are_listed_and_counted(desk: Desk):
    await desk.bury(*(dead(n) for n in range(3)), dead(3, "malformed", value=b"\x01\xc1"))
    code, out = await desk.dlq("list")
    assert code == 0
    *lines, summary = out.splitlines()
    assert lines[0].startswith("POSITION")
    assert len(lines) == 5
    assert "0:3 " in lines[4]
    assert "malformed" in lines[4]
    assert "4 of 4 dead letters: refused 3, malformed 1; 4 never replayed" in summary
    code, out = await desk.dlq("list", "--limit=2", "--reason=refused")
    assert (code, len(out.splitlines())) == (0, 4)
    assert "3 of 4 dead letters (2 shown)" in out


async def test_json_lines_say_where_each_came_from(desk: Desk):
    await desk.bury(dead(1), dead(2, partition=1, topic="other"))
    first, second = await desk.listed()
    assert first["origin"] == {
        "topic": "traces",
        "partition": 0,
        "offset": 1,
        "timestamp_ms": T0_MS,
    }
    assert (first["attempts"], first["version"], first["replayed_to"]) == (1, VERSION, [])
    assert await desk.listed("--origin-topic=other") == [second]
    assert await desk.listed("--origin-partition=0") == [first]
    assert await desk.listed("--trace-id=" + f"{2:032x}") == [second]
    assert await desk.listed("--experiment=shop") == [first, second]
    assert await desk.listed("--experiment=none") == []
    assert await desk.listed("--since=1h") == [first, second]
    assert await desk.listed("--since=2999-01-01") == []


async def test_nothing_that_matches_is_code_1(desk: Desk):
    await desk.bury(dead(1))
    code, out = await desk.dlq("list", "--reason=empty")
    assert (code, out) == (1, f"{DLQ}: nothing matches, of 1 dead letters\n")
    code, out = await desk.dlq("replay", "--yes", "--reason=empty")
    assert (code, out) == (1, f"{DLQ}: nothing matches, of 1 dead letters\n")


async def test_without_a_topic_it_says_what_makes_one(desk: Desk):
    for words in (["list"], ["show", "0:0"], ["replay", "--dry-run"]):
        code, _ = await desk.dlq(*words)
        assert code == 3
        assert f"topic {DLQ} does not exist" in desk.err
        assert "spanferry topics create" in desk.err


async def test_one_letter_is_shown(desk: Desk):
    await desk.bury(dead(0), dead(1, "malformed", value=b"\xff\x00"))
    code, out = await desk.dlq("show", "0:0")
    assert code == 0
    assert "span-3  CHAIN  OK  5.0 ms" in out
    assert "xxxx" not in out
    assert '"xxxxxxxxxx"' in (await desk.dlq("show", "0:0", "--payload"))[1]
    code, out = await desk.dlq("show", "0:1")
    assert code == 0
    assert "cannot be decoded, unknown_version" in out
    assert (await desk.dlq("show", "0:2"))[0] == 1
    assert "no record at 0:2; it holds offsets 0 to 1" in desk.err
    assert (await desk.dlq("show", "7:0"))[0] == 1
    assert "has partitions 0 to 0" in desk.err


async def test_a_replay_sends_what_was_there_back_once(desk: Desk):
    await desk.bury(*(dead(n) for n in range(3)), dead(3, "malformed", value=b"\x01\xc1"))
    code, out = await desk.dlq("replay", "--dry-run", "--reason=refused")
    assert (code, out) == (0, f"{DLQ}: 3 to replay: traces (refused 3)\n")
    code, out = await desk.dlq("replay", "--yes", "--reason=refused", "--limit=2")
    assert code == 0
    assert f"{DLQ}: the first 2 of 3 to replay: traces (refused 3)\n" in out
    assert "2 replayed: traces (refused 2)\n" in out
    assert [one["replayed_to"] for one in await desk.listed()] == [["traces"]] * 2 + [[], []]
    code, out = await desk.dlq("replay", "--yes", "--reason=refused")
    assert "1 to replay: traces (refused 1); 2 were replayed before" in out
    code, out = await desk.dlq("replay", "--yes", "--reason=refused")
    assert (code, out) == (
        0,
        f"{DLQ}: nothing to replay; 3 were replayed before (--again sends them once more)\n",
    )
    assert [one["reason"] for one in await desk.listed("--pending")] == ["malformed"]
    sent = await read_topic(desk.address, "traces", 3)
    for record in sent:
        offset = int.from_bytes(record.key, "big")
        assert record.value == encode(whole(offset))
        assert record.headers[1:] == (("mine", b"kept"), ("dlq.attempts", b"1"))
        meta = read_meta(record.headers)
        assert meta is not None
        assert meta.producer_id != b"producer"
    assert len({record.key for record in sent}) == 3


async def test_a_limit_cuts_no_trace_in_two(desk: Desk):
    keys = [number(1), number(2), number(2), number(2), number(3), None, None]
    await desk.bury(*(dead(n, key=key) for n, key in enumerate(keys)))
    for words, sent in ([], 4), ([], 2), (["--again"], 4):
        code, out = await desk.dlq("replay", "--yes", "--limit=2", *words)
        assert (code, f"\n{sent} replayed" in out) == (0, True)
    assert [one["offset"] for one in await desk.listed("--pending")] == [6]


async def test_what_a_topic_never_takes_keeps_nobody_else_back(desk: Desk):
    desk.broker.create_topic("small", 1, {"max.message.bytes": "20000"})
    big = os.urandom(40_000)
    await desk.bury(dead(1), dead(2, value=big), *(dead(n, key=None) for n in range(3, 6)))
    code, out = await desk.dlq("replay", "--yes", "--to=small")
    assert code == 1
    assert "4 replayed: small (refused 4)" in out
    assert "1 not sent: small refuses a record for its size" in desk.err
    assert [one["value_bytes"] for one in await desk.listed("--pending")] == [len(big)]
    code, out = await desk.dlq("replay", "--yes")
    assert (code, "5 replayed: traces (refused 5)" in out) == (0, True)


async def test_again_and_elsewhere(desk: Desk):
    desk.broker.create_topic("staging", 1)
    await desk.bury(dead(1))
    for words, sent in (
        ([], 1),
        ([], 0),
        (["--to=staging"], 1),
        (["--to=staging"], 0),
        (["--again"], 1),
    ):
        code, out = await desk.dlq("replay", "--yes", *words)
        assert code == 0
        assert ("replayed: " in out) == bool(sent), (words, out)
    assert [one["replayed_to"] for one in await desk.listed()] == [["staging", "traces"]]
    assert len(await read_topic(desk.address, "traces", 2)) == 2
    assert len(await read_topic(desk.address, "staging", 1)) == 1


async def test_what_dies_again_has_more_attempts(desk: Desk):
    await desk.bury(dead(1))
    for attempts in (2, 3):
        await desk.dlq("replay", "--yes")
        record = (await read_topic(desk.address, "traces", attempts - 1))[-1]
        await desk.bury(DeadLetter(record, "refused", "again", T0_MS))
        listed = await desk.listed()
        assert [one["attempts"] for one in listed] == list(range(1, attempts + 1))
        assert dict(record.headers)["mine"] == b"kept"
    assert len(await desk.listed("--pending")) == 1


async def test_a_target_must_exist_and_be_another(desk: Desk):
    await desk.bury(dead(1, topic="gone"))
    assert (await desk.dlq("replay", "--yes"))[0] == 3
    assert "the topic gone does not exist" in desk.err
    assert "--to TOPIC" in desk.err
    assert (await desk.dlq("replay", "--yes", f"--to={DLQ}"))[0] == 3
    assert "own topic" in desk.err
    assert len(await desk.listed("--pending")) == 1


async def test_a_letter_that_does_not_say_where_it_came_from(desk: Desk):
    await desk.bury(dead(1))
    producer = AIOKafkaProducer(bootstrap_servers=desk.address)
    await producer.start()
    await producer.send_and_wait(DLQ, b"who knows", key=b"k")
    await producer.stop()
    code, out = await desk.dlq("replay", "--yes")
    assert code == 1
    assert "1 replayed: traces (refused 1)" in out
    assert "1 do not say where they came from: give --to TOPIC" in desk.err
    code, out = await desk.dlq("replay", "--yes", "--to=traces")
    assert (code, "1 replayed: traces (unknown 1)" in out) == (0, True)


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("", 1), ("no", 1)])
async def test_at_a_terminal_it_asks(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, answer: str, code: int
):
    await desk.bury(dead(1))
    asked: list[str] = []

    def reply(question: str) -> str:
        asked.append(question)
        return answer

    monkeypatch.setattr("builtins.input", reply)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    assert (await desk.dlq("replay"))[0] == code
    assert asked == ["Send them? [y/N] "]
    assert len(await desk.listed("--pending")) == code


async def test_several_partitions_and_batches(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("spanferry_worker.dlq.replaying._BATCH_LETTERS", 7)
    desk.broker.create_topic(DLQ, 3)
    await desk.bury(*(dead(n) for n in range(40)))
    code, out = await desk.dlq("replay", "--yes", "--limit=33")
    assert (code, "33 replayed" in out) == (0, True)
    assert len(await desk.listed("--pending")) == 7
    assert len(await desk.listed("--pending", "--limit=3")) == 3
    code, out = await desk.dlq("replay", "--yes")
    assert "7 replayed: traces (refused 7)" in out
    sent = await read_topic(desk.address, "traces", 40)
    assert {record.key for record in sent} == {number(n) for n in range(40)}
