"""Spooling: parcels that Kafka does not take now go to disk, and come back when it does."""

import asyncio
import math
import time
from typing import Final

from spanferry.buffer import Buffer
from spanferry.lanes import Fate, Lane, Lanes, Ledger, Receipt, Staged
from spanferry.records import Record
from spanferry.spool.entries import Entry, Origin, SpooledRecord
from spanferry.spool.spool import Spool
from spanferry.staging import STAGED_BYTES_MAX, Breath, Stager

__all__ = ["Spooler"]

_REPLAYED_BYTES_MAX: Final = STAGED_BYTES_MAX // 2
"""Staged from the spool while lanes hold less than that: what is new goes first."""


class Spooler:
    """Between the buffer, the lanes and the spool. Lives on the sender's loop."""

    def __init__(
        self,
        spool: Spool,
        buffer: Buffer,
        stager: Stager,
        lanes: Lanes,
        ledger: Ledger,
        breath: Breath,
    ) -> None:
        self.spool = spool
        self._buffer = buffer
        self._stager = stager
        self._lanes = lanes
        self._ledger = ledger
        self._breath = breath
        self.until_s = math.inf
        """Nothing is put away after that (time.monotonic()); any thread may set it."""
        self._overflowing = asyncio.Lock()
        """Whoever has it may have a parcel in hand, which nobody else sees."""

    async def overflow(self, down_to_bytes: int) -> None:
        """Put away what waits until memory holds no more than that, or the spool takes nothing."""
        async with self._overflowing:
            await self._overflow(down_to_bytes)

    async def _overflow(self, down_to_bytes: int) -> None:
        while (
            self._buffer.used_bytes > down_to_bytes
            and self.spool.ready
            and time.monotonic() < self.until_s
        ):
            taken = await self._stager.take()
            if taken is None:
                return
            receipt, records = taken
            if not self.spool.put(_entry(records, receipt)):
                self._stager.give_back(receipt, records)
                return
            receipt.fate = Fate.SPOOLED
            self._ledger.finish(receipt)

    async def replay(self) -> None:
        """Stage what was put away as long as the lanes have room for it."""
        while self._lanes.waiting_bytes < _REPLAYED_BYTES_MAX:
            found = self.spool.next()
            if found is None:
                return
            ticket, entry = found
            receipt = self._ledger.enter_again(
                size=entry.size, ends_trace=entry.ends_trace, ticket=ticket
            )
            for one in entry.records:
                receipt.open += 1
                self._lanes.push(Staged(one.record, receipt, origin=one.origin))
            self._ledger.finish(receipt)
            await self._breath.after(entry.size)

    async def put_away(self, producer_id: bytes, until_s: float) -> None:
        """Put away all that memory has and the disk has not, as far as the time allows, and nothing
        afterwards. No batch may be out."""
        self.until_s = until_s
        await self._put_away(producer_id, everything=True)
        await self.overflow(-1)
        self.until_s = 0.0
        self.spool.tick()

    async def write_names(self, producer_id: bytes) -> None:
        """Write down under which names records that are on disk may have arrived. No batch may be out."""
        await self._put_away(producer_id, everything=False)

    async def _put_away(self, producer_id: bytes, *, everything: bool) -> None:
        """An entry on disk of which a record has been in a batch is written anew with its name, for the
        others may still be sent under theirs."""
        waiting: dict[int, list[tuple[Lane, Staged]]] = {}
        for lane in self._lanes:
            for staged in lane.clear():
                waiting.setdefault(id(staged.receipt), []).append((lane, staged))
        for parts in waiting.values():
            receipt = parts[0][1].receipt
            wanted = everything and time.monotonic() < self.until_s
            if receipt.ticket is not None:  # settled there when Kafka has it
                wanted = receipt.numbered
            records = [_spooled(lane, staged, producer_id) for lane, staged in parts]
            if wanted and self.spool.ready and self.spool.put(Entry(records, receipt.ends_trace)):
                receipt.fate = Fate.SPOOLED
                for _ in parts:
                    self._ledger.finish(receipt)
            else:
                for lane, staged in parts:
                    lane.push(staged)
            await self._breath.after(sum(len(one.record.value) for one in records))


def _entry(records: list[Record], receipt: Receipt) -> Entry:
    return Entry([SpooledRecord(record) for record in records], receipt.ends_trace)


def _spooled(lane: Lane, staged: Staged, producer_id: bytes) -> SpooledRecord:
    """With the name under which it may have arrived, where it has been in a batch."""
    origin = staged.origin
    if origin is None and staged.sequence >= 0:
        origin = Origin(producer_id, lane.partition, staged.sequence)
    return SpooledRecord(staged.record, origin)
