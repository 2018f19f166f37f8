"""How much of the time to its end a process gives to Kafka, and how much to the disk."""

from types import SimpleNamespace
from typing import Any

import pytest

from spanferry import ending
from spanferry.buffer import Buffer
from spanferry.client_stats import Stats
from spanferry.ending import Ending, _Reserve
from spanferry.settings import DropPolicy, Settings
from tests.producer.test_buffer import parcel

MEBI = 1024 * 1024
LEAST_S = 1.2


class Clock:
    """Goes where the test wants."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    one = Clock()
    monkeypatch.setattr(ending, "time", SimpleNamespace(monotonic=one.monotonic))
    return one


def filled(size: int, count: int) -> Buffer:
    buffer = Buffer(64 * MEBI, DropPolicy.NEWEST)
    for _ in range(count):
        assert buffer.put(parcel(size))
    return buffer


def test_while_kafka_takes_nothing_the_disk_gets_what_it_needs(clock: Clock) -> None:
    few, large = _Reserve(filled(MEBI, 3), LEAST_S), _Reserve(filled(MEBI, 64), LEAST_S)
    small = _Reserve(filled(1_000, 60_000), LEAST_S)
    clock.now_s += 0.2
    assert few() == LEAST_S
    assert 2 < large() < 4
    assert small() > large()


def test_while_kafka_is_as_fast_as_a_disk_it_gets_nearly_all(clock: Clock) -> None:
    buffer = filled(MEBI, 64)
    reserve = _Reserve(buffer, LEAST_S)
    for _ in range(10):
        clock.now_s += 0.2
        for _ in range(6):
            assert buffer.take() is not None
            buffer.release(MEBI)
        assert reserve() == ending._LAST_S
    clock.now_s += 0.2
    assert reserve() == LEAST_S, "and no longer"


class Sender:
    """It notes for how long it was asked to flush, and takes all of it, in vain."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.answers = False
        self.asked_s: list[float] = []
        self.dispatcher = SimpleNamespace(ledger=SimpleNamespace(traces_kept=0))

    def flush(self, timeout_s: float, *_: Any) -> bool:
        self.asked_s.append(timeout_s)
        self._clock.now_s += 0.0 if self.answers else timeout_s
        return self.answers


def ending_of(sender: Any) -> Ending:
    buffer = filled(1_000, 5)
    settings = Settings(bootstrap_servers="none:1")
    return Ending(
        settings, buffer, sender, lambda: Stats(traces=5, traces_buffered=5, buffered_bytes=5_000)
    )


def test_a_servers_shutdown_and_the_interpreters_exit_are_one_end(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    sender = Sender(clock)
    one = ending_of(sender)
    one.flush_or_spool(3.0)
    clock.now_s += 0.1
    one.flush_or_spool(3.0)
    assert sender.asked_s == [3.0, ending.STOP_S]
    assert [record.getMessage() for record in caplog.records] == [
        "5 traces (5000 bytes) were not acknowledged by Kafka within 3.0 s and are lost: no answer"
    ]


def test_an_end_that_was_none_leaves_the_next_one_its_time(clock: Clock) -> None:
    """A container's first process goes on after a SIGTERM, or an app serves on until it has drained."""
    sender = Sender(clock)
    one = ending_of(sender)
    one.flush_or_spool(3.0)
    clock.now_s += 10
    one.flush_or_spool(3.0)
    sender.answers = True
    one.flush_or_spool(3.0)
    one.flush_or_spool(3.0)
    assert sender.asked_s == [3.0, 3.0, ending.STOP_S, 3.0]
