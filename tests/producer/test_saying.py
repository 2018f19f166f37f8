"""What the log gets of troubles that last for hours, and of those that come back after weeks."""

import asyncio
import logging
from itertools import pairwise
from types import SimpleNamespace

import pytest

from spanferry import log, sessions
from spanferry.buffer import Buffer
from spanferry.dispatch import Dispatcher
from spanferry.loop import Rest
from spanferry.sessions import Sessions
from spanferry.settings import DropPolicy, Settings
from spanferry.troubles import Trouble, TroubleKind
from tests.producer.test_buffer import parcel

HOUR_S = 3600


class Clock:
    """Goes where the test wants."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    one = Clock()
    for module in (log, sessions):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=one.monotonic))
    monkeypatch.setattr(log, "_said_at_s", {})
    return one


@pytest.fixture
def story(clock: Clock) -> Sessions:
    """Sessions of a sender that nobody runs."""
    settings = Settings(bootstrap_servers="kafka:9092")
    buffer = Buffer(1_000, DropPolicy.NEWEST)
    dispatcher = Dispatcher(settings, buffer, producer_id=bytes(8))
    return Sessions(settings, buffer, dispatcher, SimpleNamespace(stopping=False), Rest())


def fails(story: Sessions, clock: Clock, seconds: float, kind: TroubleKind) -> None:
    """One attempt in five seconds, in vain."""
    until_s = clock.now_s + seconds
    while clock.now_s < until_s:
        story._failed(Trouble(kind, f"{kind} it is"), begun=False)
        clock.now_s += 5


def test_kafka_away_for_a_day_is_a_line_an_hour(
    story: Sessions, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    at_s: list[float] = []
    for _ in range(24 * HOUR_S // 5):
        before = len(caplog.records)
        fails(story, clock, 5, TroubleKind.UNREACHABLE)
        at_s += [clock.now_s - 1_005] * (len(caplog.records) - before)
    assert at_s[:5] == [0, 60, 180, 420, 900]
    gaps = [later - sooner for sooner, later in pairwise(at_s)]
    assert max(gaps) == HOUR_S
    assert len(at_s) < 24 + 7
    assert story.state.troubles == {"unreachable": 24 * HOUR_S // 5}


def test_each_kind_of_trouble_is_said_by_itself(
    story: Sessions, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(10):
        fails(story, clock, 5, TroubleKind.UNREACHABLE)
        fails(story, clock, 5, TroubleKind.AUTHENTICATION)
    assert len(caplog.records) == 2 + 2  # the second time after a minute
    assert "authentication it is" in caplog.text


def test_a_trouble_of_another_day_is_said_at_once(
    story: Sessions, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    fails(story, clock, 10 * HOUR_S, TroubleKind.UNREACHABLE)
    said = len(caplog.records)
    clock.now_s += 5
    with caplog.at_level(logging.INFO, "spanferry"):
        story._connected()
        assert "again, after" in caplog.records[-1].getMessage()
    clock.now_s += sessions._HEALTHY_S
    story._disconnected()
    fails(story, clock, 5, TroubleKind.UNREACHABLE)
    assert len(caplog.records) == said + 2


def test_drops_are_said_once_an_hour_not_once_for_ever(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """An app lives for months."""
    buffer = Buffer(1_000, DropPolicy.NEWEST)
    for _ in range(3 * 60):
        for _ in range(100):
            buffer.put(parcel(900))
        clock.now_s += 60
    assert buffer.counts.dropped_full == 100 * 3 * 60 - 1
    assert [one.getMessage() for one in caplog.records] == [
        "the buffer of 1000 bytes is full: traces are dropped and counted, see stats()"
    ] * 3


def test_a_library_is_silent_for_the_sender_alone(caplog: pytest.LogCaptureFixture):
    """Numbers of threads come again: a thread of the app may get that of a sender which ended."""
    library = logging.getLogger("a-library-of-kafkas.client")

    async def within() -> None:
        library.error("a task that the sender began")

    async def sender() -> None:
        log.quiet("a-library-of-kafkas")
        library.error("the sender")
        await asyncio.create_task(within())
        asyncio.get_running_loop().call_soon(library.error, "a callback of the sender's")
        await asyncio.sleep(0)

    asyncio.run(sender())
    assert not caplog.records
    library.error("the app, on the same thread")
    assert [record.getMessage() for record in caplog.records] == ["the app, on the same thread"]
