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
    """It notes for how long it was asked to flush, and takes all of it, in vain; so does its disk."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.answers = False
        self.asked_s: list[float] = []
        self.dispatcher = SimpleNamespace(ledger=SimpleNamespace(traces_kept=0))

    def flush(self, timeout_s: float, *_: Any) -> bool:
        self.asked_s.append(timeout_s)
        self._clock.now_s += 0.0 if self.answers else timeout_s
        return self.answers

    def put_away(self, timeout_s: float) -> bool:
        self._clock.now_s += timeout_s
        return False


def ending_of(sender: Any, spool_dir: str | None = None) -> Ending:
    buffer = filled(1_000, 5)
    settings = Settings(bootstrap_servers="none:1", spool_dir=spool_dir)
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
    assert sender.asked_s == pytest.approx([3.0, ending._AGAIN_S])
    assert one.left_s == pytest.approx(ending.STOP_S - ending._AGAIN_S)
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
    assert sender.asked_s == pytest.approx([3.0, 3.0, ending._AGAIN_S, 3.0])


@pytest.mark.parametrize("spool_dir", [None, "/a/disk/that/hangs"])
@pytest.mark.parametrize("timeout_s", [0.0, 0.1, 3.0])
def test_an_end_takes_its_time_and_half_a_second_however_often_it_is_asked_for(
    clock: Clock, timeout_s: float, spool_dir: str | None
) -> None:
    """What is in between is not counted: an app may serve on, and trace."""
    one = ending_of(Sender(clock), spool_dir)
    took_s = 0.0
    for _ in range(5):
        begun_s = clock.now_s
        one.flush_or_spool(timeout_s)
        took_s += clock.now_s - begun_s
        assert took_s + one.left_s == pytest.approx(timeout_s + ending.STOP_S)
        clock.now_s += 1.5
    assert took_s >= timeout_s


def test_a_ctrl_c_leaves_the_disk_and_the_sender_a_second(clock: Clock) -> None:
    class Interrupted(Sender):
        def flush(self, timeout_s: float, *_: Any) -> bool:
            self._clock.now_s += 0.4
            raise KeyboardInterrupt

    one, begun_s = ending_of(Interrupted(clock), "/a/disk/that/hangs"), clock.now_s
    with pytest.raises(KeyboardInterrupt):
        one.flush_or_spool(3.0)
    assert clock.now_s - begun_s + one.left_s == pytest.approx(1.4)


def test_a_handler_that_asks_for_the_end_in_the_middle_of_it_does_not_wait_for_itself(
    clock: Clock,
) -> None:
    class Signalled(Sender):
        def flush(self, timeout_s: float, *_: Any) -> bool:
            if not self.asked_s:
                self.asked_s.append(timeout_s)
                assert not one.flush_or_spool(3.0)
            return super().flush(timeout_s)

    sender = Signalled(clock)
    one = ending_of(sender)
    one.flush_or_spool(3.0)
    assert sender.asked_s == [3.0, 3.0]


def test_who_interrupts_its_own_thread_right_after_it_got_the_turn_does_not_wait_for_ever(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal may come between the lock and the note whose it is."""
    one = ending_of(Sender(clock))
    one._turn.acquire()
    waited_s: list[float] = []

    def sleep(seconds: float) -> None:
        waited_s.append(seconds)
        clock.now_s += seconds

    monkeypatch.setattr(ending, "time", SimpleNamespace(monotonic=clock.monotonic, sleep=sleep))
    assert not one.flush_or_spool(3.0)
    assert sum(waited_s) == pytest.approx(3.0 + ending.STOP_S, abs=0.1)
