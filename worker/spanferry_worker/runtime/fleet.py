"""Keeps the fleet's tables for sampling: reads the log, proposes what is missing, reports what was seen."""

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Mapping
from typing import Final

from spanferry_worker.errors import FatalError, WorkerError
from spanferry_worker.ports import FleetLog
from spanferry_worker.runtime.complaint import Complaint
from spanferry_worker.runtime.parts import Parts
from spanferry_worker.stages.sample import (
    FleetEvent,
    FleetState,
    Report,
    Table,
    decode_event,
    encode_event,
    event_key,
)
from spanferry_worker.stages.sample.account import Account
from spanferry_worker.telemetry import LogEvent

__all__ = ["Fleet"]

_log = logging.getLogger("spanferry.sample")
_READ_S: Final = 0.05
_REPORT_MS: Final = 1_000
_RETRY_S: Final = 2.0
_REFUSED_RETRY_S: Final = 60.0
"""After Kafka has refused: rights and topics change rarely."""
_PROPOSALS_MAX: Final = 20
"""At once; traces of very many times at once are answered in turn."""


class Fleet:
    """Delivery never waits for it in vain: without it decisions go on by what was known last."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._state = FleetState()
        self._author = (
            f"{socket.gethostname()[:64]}/{os.getpid()}/{parts.chance.getrandbits(32):08x}"
        )
        self._wanted: dict[int, None] = {}
        self._number = 0
        self._reported_ms = 0
        self._complaint = Complaint()
        self.account = Account()
        """What was decided since the last report."""
        self.budgets: Mapping[str, float] = {}
        """Bytes a second by policy, for proposals and reports."""
        self.is_on = False
        """Whether any policy needs tables at all."""
        self.available = True
        """Whether it makes sense to wait for a table."""
        self.on_tables: Callable[[], None] = lambda: None
        """Called whenever tables may have come, or will not."""

    def table(self, bucket: int) -> Table | None:
        """What holds for a bucket; where that is not known yet it is asked for."""
        found = self._state.table(bucket)
        if found is None:
            self._wanted[bucket] = None
        return found

    @property
    def latest(self) -> Table:
        """What to go by where the log does not answer."""
        return self._state.latest

    async def run(self) -> None:
        """Read and write for ever; returns at once where there is no log."""
        log = self._parts.fleet
        self.available = log is not None
        if log is None:
            return
        while True:
            if not self.is_on:
                await asyncio.sleep(_READ_S)
                continue
            try:
                await log.open()
                self._state = FleetState()
                await self._serve(log)
            except (WorkerError, TimeoutError) as error:
                self._cannot(error)
            finally:
                await log.close()
            refused = not self.available
            await asyncio.sleep(_REFUSED_RETRY_S if refused else _RETRY_S)

    async def _serve(self, log: FleetLog) -> None:
        """Until it fails, or is not needed any more."""
        while self.is_on:
            for value in await log.read(timeout_s=_READ_S):
                event = decode_event(value)
                if event is not None:
                    self._state.apply(event)
            if not log.caught_up():
                continue
            self.available = True
            self._complaint.over()
            self.on_tables()
            events = [*self._proposals(), *self._report()]
            if events:
                await log.append([(event_key(event), encode_event(event)) for event in events])

    def _proposals(self) -> list[FleetEvent]:
        """Tables for the buckets that are asked for."""
        events: list[FleetEvent] = []
        for bucket in list(self._wanted)[:_PROPOSALS_MAX]:
            del self._wanted[bucket]
            if self._state.table(bucket) is None:
                events += self._state.propose(bucket, self.budgets, self._author)
        return events

    def _report(self) -> list[FleetEvent]:
        now_ms = self._parts.clock.now_ms()
        if now_ms - self._reported_ms < _REPORT_MS:
            return []
        self._reported_ms = now_ms
        for policy in self.budgets:
            target = min(self.latest.target_bytes(policy), 2.0**60)
            self._parts.metrics.sample.target_bytes.labels(policy).set(target)
        demands, durations = self.account.take()
        if not demands and not durations:
            return []
        self._number += 1
        return [Report(self._author, self._number, demands, dict(self.budgets), durations)]

    def _cannot(self, error: Exception) -> None:
        self._parts.metrics.sample.fleet_errors.inc()
        level, text = self._complaint.about(error)
        message = "sampling goes on without the fleet's account: %s"
        _log.log(level, message, text, extra=LogEvent.SAMPLE_FLEET())
        if isinstance(error, FatalError):
            self.available = False
            self.on_tables()
