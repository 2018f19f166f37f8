"""A LedgerLog in memory."""

import asyncio
from collections.abc import Sequence

from spanferry_worker.errors import FatalError, TransientError
from spanferry_worker.ports import KeptAccounts, Partition
from spanferry_worker.stages.accounts import Entry, read_entry
from spanferry_worker.testing.broker import MemoryBroker

__all__ = ["MemoryLedger"]


class MemoryLedger:
    """Compacted at once. A test may set `missing` (there is no topic) and `transient_failures`."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self.entries: dict[bytes, bytes] = {}
        self.missing = False
        self.transient_failures = 0
        self.saves = 0

    async def open(self) -> None:
        """See LedgerLog."""
        self._fail_as_asked()

    async def load(self, partitions: Sequence[Partition]) -> KeptAccounts:
        """See LedgerLog."""
        await asyncio.sleep(0)
        self._fail_as_asked()
        kept = map(read_entry, self.entries.values())
        ends = {each: len(self._broker.records[each.partition]) for each in partitions}
        return KeptAccounts([one for one in kept if one is not None], ends)

    async def save(self, entries: Sequence[Entry]) -> None:
        """See LedgerLog."""
        await asyncio.sleep(0)
        self._fail_as_asked()
        self.saves += 1
        for entry in entries:
            if entry.value is None:
                self.entries.pop(entry.key, None)
            else:
                self.entries[entry.key] = entry.value

    async def close(self) -> None:
        """See LedgerLog."""

    def _fail_as_asked(self) -> None:
        if self.missing:
            raise FatalError("there is no topic for the ledger")
        if self.transient_failures:
            self.transient_failures -= 1
            raise TransientError("the ledger is away")
