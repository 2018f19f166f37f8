"""Kafka is away for an hour, by a clock that the test moves: the sessions are the real ones."""

import asyncio
import logging
from collections import Counter
from types import SimpleNamespace

import msgspec
import pytest

from spanferry import log, sessions
from spanferry.buffer import Buffer
from spanferry.dispatch import Dispatcher
from spanferry.loop import Rest
from spanferry.settings import DropPolicy, Settings
from tests.kafka_days.app import arrived
from tests.kafka_days.proxy import Proxy
from tests.kafka_days.secured import SecuredKafka
from tests.producer.traffic import a_trace

pytestmark = pytest.mark.kafka

HOUR_S = 3600.0
EVERY_S = sessions._BACKOFF_MAX_S
TRACES = 50


class Hurried:
    """The sender's thread for them. While there is no Kafka its pauses pass on the clock alone."""

    def __init__(self, way: Proxy, buffer: Buffer) -> None:
        self.stopping = False
        self.now_s = 1_000.0
        self.paused_s: list[float] = []
        self._way = way
        self._buffer = buffer

    def monotonic(self) -> float:
        """What the sessions take for the time."""
        return self.now_s

    def answer_flushes(self) -> None:
        """After each turn of a session that has begun."""
        self.stopping = self._buffer.used_bytes == 0

    async def pause(self, seconds: float, *, at_least_s: float = 0.0) -> None:
        if self.now_s < 1_000 + HOUR_S:
            self.paused_s.append(seconds)
            self.now_s += seconds
            if self.now_s >= 1_000 + HOUR_S:
                self._way.accept()
        else:
            await asyncio.sleep(min(seconds, 0.01))


def test_after_an_hour_the_next_attempt_is_five_seconds_away_and_connects(
    broker: SecuredKafka,
    topic: str,
    way: Proxy,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = Settings(
        bootstrap_servers=f"127.0.0.1:{broker.proxy_port}", topic=topic, collect_environment=False
    )
    buffer = Buffer(settings.buffer_bytes, DropPolicy.NEWEST)
    for number in range(TRACES):
        buffer.put(msgspec.structs.replace(a_trace(), trace_id=number.to_bytes(16, "big")))
    host = Hurried(way, buffer)
    monkeypatch.setattr(sessions, "_BACKOFF_MAX_S", EVERY_S)
    for module in (log, sessions):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=host.monotonic))
    caplog.set_level(logging.INFO, "spanferry")
    way.refuse()

    async def live() -> sessions.SenderState:
        dispatcher = Dispatcher(settings, buffer, producer_id=bytes(8))
        all_of_them = sessions.Sessions(settings, buffer, dispatcher, host, Rest())
        await asyncio.wait_for(all_of_them.run(), 60)
        await all_of_them.finish()
        return all_of_them.state

    state = asyncio.run(live())
    assert Counter(host.paused_s)[EVERY_S] >= len(host.paused_s) - 6
    assert max(host.paused_s) == EVERY_S == 5.0
    assert state.troubles == {"unreachable": len(host.paused_s)}, "the first one after it connects"
    assert state.connects == 1
    said = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
    assert len(said) == 6, "after 0, 1, 3, 7, 15 and 31 minutes"
    assert "sending traces to" in caplog.records[-1].getMessage()
    assert "again, after 360" in caplog.records[-1].getMessage()
    assert arrived(broker.bootstrap_servers, topic) == Counter(range(TRACES))
