"""An app in the test's process: what it sends, what it says, and the account of it."""

import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from spanferry import outlet
from spanferry.client import disable, enable, flush, stats
from spanferry_schemas import read_meta
from tests.producer.topic import read_numbered
from tests.producer.traffic import a_trace

__all__ = ["App", "arrived", "until"]

WAIT_S = 1.0
"""An app's thread that took so long for a trace has waited for something."""


class App:
    """Traces have the numbers 0, 1, 2 … as their ids."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog
        self.sent = 0

    def on(self, servers: str, topic: str, **options: Any) -> None:
        """Enabled."""
        common = {"mlflow": False, "exit_timeout_s": 0.1, "collect_environment": False}
        enable(bootstrap_servers=servers, topic=topic, **{**common, **options})

    def off(self) -> None:
        """Disabled. What is left is not waited for."""
        disable()

    def send(self, count: int, size: int = 1000, *, every_s: float = 0.0) -> None:
        """Hand over so many traces; fails where that had to wait."""
        current = outlet.current()
        assert current is not None
        for _ in range(count):
            trace = msgspec.structs.replace(a_trace(size), trace_id=self.sent.to_bytes(16, "big"))
            self.sent += 1
            begun_s = time.perf_counter()
            current.put(trace)
            assert time.perf_counter() - begun_s < WAIT_S, "the app's thread has waited"
            if every_s:
                time.sleep(every_s)
        self.adds_up()

    def adds_up(self) -> None:
        """Every trace is somewhere, whatever the moment."""
        account = stats()
        settled = account.traces_sent + account.traces_spooled + account.traces_dropped
        assert account.traces == settled + account.traces_buffered == self.sent
        assert account.parcels_dropped == sum(account.dropped.values())
        assert account.traces_dropped == sum(account.traces_dropped_by_reason.values())

    def in_trouble(self, kind: str, timeout_s: float = 90.0) -> str:
        """Wait for that kind of trouble; what `stats` says of it."""
        until(lambda: kind in stats().troubles, timeout_s)
        assert not stats().connected
        self.adds_up()
        return stats().last_error or ""

    def delivers(self, timeout_s: float = 90.0) -> None:
        """All that was sent is acknowledged."""
        assert flush(timeout_s), stats()
        account = stats()
        self.adds_up()
        assert account.traces_dropped == 0
        assert account.traces_sent == self.sent

    @property
    def warnings(self) -> list[str]:
        """What came into the app's log so far, from whomever, of level WARNING and above."""
        return [
            record.getMessage()
            for record in self._caplog.records
            if record.levelno >= logging.WARNING
        ]

    @property
    def log(self) -> str:
        """All of it, of every level, with tracebacks."""
        return self._caplog.text


def arrived(servers: str, topic: str) -> Counter[int]:
    """How often each trace is in the topic; records with the same producer id and sequence once."""
    names: set[tuple[int, bytes, int]] = set()
    found: Counter[int] = Counter()
    for record in read_numbered(servers, topic):
        meta = read_meta(record.headers)
        assert meta is not None
        name = (record.partition, meta.producer_id, meta.sequence)
        if name not in names:
            names.add(name)
            found[int.from_bytes(record.key, "big")] += 1
    return found


def until(true: Callable[[], bool], timeout_s: float) -> None:
    """Wait for it. Fails where it does not come."""
    deadline_s = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline_s, stats()
        time.sleep(0.02)
