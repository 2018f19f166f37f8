"""A DroppedLog in memory."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

from spanferry_worker.errors import FatalError, TransientError
from spanferry_worker.ports import Clock
from spanferry_worker.stages.consume import Record
from spanferry_worker.testing.broker import MemoryRecord

__all__ = ["MemoryDropped"]


class MemoryDropped:
    """All workers of a test may share one. A test may set `missing` and `away`."""

    def __init__(self, clock: Clock, *, portion: int = 3) -> None:
        """`portion`: how many records `tail` gives at once."""
        self._clock = clock
        self._portion = portion
        self.records: dict[int, list[MemoryRecord]] = {}
        self.missing = False
        self.away = False
        self.opened = 0

    async def open(self) -> None:
        """See DroppedLog."""
        await asyncio.sleep(0)
        self._fail_as_asked()
        self.opened += 1

    async def append(self, records: Sequence[tuple[int, bytes]]) -> None:
        """See DroppedLog."""
        await asyncio.sleep(0)
        self._fail_as_asked()
        for partition, value in records:
            place = self.records.setdefault(partition, [])
            now_ms = self._clock.now_ms()
            place.append(MemoryRecord("dropped", partition, len(place), now_ms, None, value))

    async def tail(self, partition: int) -> AsyncGenerator[Sequence[Record]]:
        """See DroppedLog."""
        left = list(self.records.get(partition, ()))
        while left:
            await asyncio.sleep(0)
            self._fail_as_asked()
            yield left[-self._portion :]
            del left[-self._portion :]

    async def close(self) -> None:
        """See DroppedLog."""

    def _fail_as_asked(self) -> None:
        if self.missing:
            raise FatalError("there is no topic for dropped traces")
        if self.away:
            raise TransientError("the broker is away")
