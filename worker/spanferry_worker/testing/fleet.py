"""A FleetLog in memory."""

import asyncio
from collections.abc import Sequence

from spanferry_worker.errors import FatalError, TransientError

__all__ = ["MemoryFleet", "MemoryFleetTopic"]


class MemoryFleetTopic:
    """What all MemoryFleets of a test share. A test may set `missing` and `away`."""

    def __init__(self) -> None:
        self.records: list[tuple[bytes, bytes]] = []
        self.arrived = asyncio.Event()
        self.missing = False
        self.away = False

    def fail_as_asked(self) -> None:
        """Raise what a test wants."""
        if self.missing:
            raise FatalError("there is no topic for sampling")
        if self.away:
            raise TransientError("the broker is away")


class MemoryFleet:
    """One worker's view of the topic."""

    def __init__(self, topic: MemoryFleetTopic) -> None:
        self._topic = topic
        self._position = 0
        self._end = 0

    async def open(self) -> None:
        """See FleetLog."""
        await asyncio.sleep(0)
        self._topic.fail_as_asked()
        self._position, self._end = 0, len(self._topic.records)

    async def read(self, *, timeout_s: float) -> Sequence[bytes | None]:
        """See FleetLog."""
        self._topic.fail_as_asked()
        if self._position == len(self._topic.records):
            self._topic.arrived.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._topic.arrived.wait()
            except TimeoutError:
                return []
        found = [value for _, value in self._topic.records[self._position :]]
        self._position += len(found)
        return found

    def caught_up(self) -> bool:
        """See FleetLog."""
        return self._position >= self._end

    async def append(self, records: Sequence[tuple[bytes, bytes]]) -> None:
        """See FleetLog."""
        await asyncio.sleep(0)
        self._topic.fail_as_asked()
        self._topic.records += records
        self._topic.arrived.set()

    async def close(self) -> None:
        """See FleetLog."""
