"""Staging: parcels leave the buffer and become records in the lanes of their partitions."""

import asyncio
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from msgspec import Struct, field

from spanferry.buffer import Buffer
from spanferry.environment import collect_environment
from spanferry.giants import GIANT_BYTES, give_way
from spanferry.lanes import Fate, Lanes, Ledger, Receipt, Staged
from spanferry.log import logger, say_hourly
from spanferry.parcel import DropReason, Parcel, SentSpan, Whole, none_dropped
from spanferry.process import PROCESS
from spanferry.process_metadata import say_what_is_too_long
from spanferry.records import Record, records_of
from spanferry.settings import Settings
from spanferry.spool.entries import Entry, SpooledRecord
from spanferry_schemas import encode_large_span

if TYPE_CHECKING:
    from spanferry.spool.spool import Spool

__all__ = ["STAGED_BYTES_MAX", "Breath", "DropCounts", "Stager"]

STAGED_BYTES_MAX: Final = 8 * 1024 * 1024
"""Taken from the buffer ahead of Kafka; the rest waits there, where the drop policy can reach it."""

_SLICE_BYTES: Final = 64 * 1024
_SLICE_RECORDS: Final = 8


class DropCounts(Struct):
    """What was taken from the buffer and cannot be sent, by DropReason."""

    parcels: dict[str, int] = field(default_factory=none_dropped)
    traces: dict[str, int] = field(default_factory=none_dropped)
    """Those that were ended by one of these, by what the first of their parcels was dropped for."""


class Breath:
    """Visits the event loop after every slice of work, which lets the app's threads have the
    interpreter."""

    def __init__(self) -> None:
        self._since = 0

    async def after(self, size: int) -> None:
        """So many bytes, one record, have been worked on."""
        self._since += size + _SLICE_BYTES // _SLICE_RECORDS
        if self._since >= _SLICE_BYTES:
            self._since = 0
            give_way()
            await asyncio.sleep(0)


class Stager:
    """Takes what there is room for. `record_bytes_max` may shrink while it lives."""

    def __init__(
        self, settings: Settings, buffer: Buffer, lanes: Lanes, ledger: Ledger, breath: Breath
    ) -> None:
        self._settings = settings
        self._buffer = buffer
        self._lanes = lanes
        self._ledger = ledger
        self._breath = breath
        self._environment: Mapping[str, str] = settings.metadata
        self._given_back: list[tuple[Receipt, list[Record]]] = []
        # What is staged fills the buffer too, and the spool cannot relieve it of that.
        self._room_bytes = min(STAGED_BYTES_MAX, settings.buffer_bytes // 4)
        self.write_ahead: Spool | None = None
        """Where everything is written before it is sent, if it is."""
        self.record_bytes_max = settings.record_bytes_max
        self.drops = DropCounts()

    def collect_environment(self) -> None:
        """Look at user, script and Git once, before the first trace part is encoded."""
        found = collect_environment() if self._settings.collect_environment else {}
        self._environment = {**found, **self._settings.metadata}
        if PROCESS.finish_above < 0:
            self._environment = PROCESS.finisher.texts(self._environment)

    async def stage(self) -> None:
        """Move parcels into lanes until the buffer is empty or enough is staged."""
        room = self._room()
        while room > 0:
            taken = await self.take()
            if taken is None:
                return
            receipt, records = taken
            room -= receipt.size
            if self.write_ahead is not None:
                parts = [SpooledRecord(record) for record in records]
                receipt.ticket = self.write_ahead.keep(Entry(parts, receipt.ends_trace))
            for record in records:
                receipt.open += 1
                self._lanes.push(Staged(record, receipt))
            self._ledger.finish(receipt)

    @property
    def is_full(self) -> bool:
        """Whether `stage` would take nothing now."""
        return self._room() <= 0

    async def take(self) -> tuple[Receipt, list[Record]] | None:
        """The next parcel as records, the caller's to `finish`; None where none waits."""
        while True:
            if self._given_back:
                return self._given_back.pop()
            waiting = self._buffer.take()
            if waiting is None:
                return None
            receipt = self._ledger.enter(
                size=waiting.size, ends_trace=waiting.ends_trace, whole=waiting.whole
            )
            doomed = _is_doomed(waiting.whole)
            try:
                parcel = waiting.parcel()
                if not doomed:
                    return receipt, await self._records(receipt, parcel)
                self._give_up(receipt, DropReason.FULL)
            except ValueError as error:
                self.drop(receipt, DropReason.OVERSIZE, error)
            except Exception as error:  # noqa: BLE001  one parcel must not stop the others
                self.drop(receipt, DropReason.BROKEN, error)
            self._ledger.finish(receipt)

    def give_back(self, receipt: Receipt, records: list[Record]) -> None:
        """What was taken and found no place: the next `take` gives it again."""
        self._given_back.append((receipt, records))

    def drop(self, receipt: Receipt, reason: DropReason, error: Exception) -> None:
        """A parcel is given up: count it and its trace, once, and say so."""
        self._give_up(receipt, reason)
        say_hourly(f"dropped-{reason}", "a trace was dropped (%s): %s", reason, error)
        logger.debug("a trace was dropped (%s): %s", reason, error)

    def _give_up(self, receipt: Receipt, reason: DropReason) -> None:
        if receipt.fate is Fate.DROPPED:  # another record of it was refused before
            return
        receipt.fate = Fate.DROPPED
        self.drops.parcels[reason.value] += 1
        first = reason if receipt.whole is None else receipt.whole.lose(reason)
        if receipt.ends_trace:
            self.drops.traces[first.value] += 1

    async def _records(self, receipt: Receipt, parcel: Parcel) -> list[Record]:
        """Where the session ends in the middle of it they are given back, all of them: the buffer does
        not have the parcel any more."""
        records: list[Record] = []
        if parcel.trace is not None:
            say_what_is_too_long(parcel.trace)
        more = records_of(
            parcel,
            environment=self._environment,
            record_bytes_max=self.record_bytes_max,
            chance=os.urandom,
        )
        try:
            if parcel.size > GIANT_BYTES:
                await self._encode(parcel)
            for record in more:
                records.append(record)
                await self._breath.after(len(record.value))
        except asyncio.CancelledError:
            try:
                records.extend(more)
            except ValueError as error:
                self.drop(receipt, DropReason.OVERSIZE, error)
                self._ledger.finish(receipt)
            else:
                self.give_back(receipt, records)
            raise
        return records

    async def _encode(self, parcel: Parcel) -> None:
        """Its spans one by one, so that nobody waits for all of them."""
        for at, span in enumerate(parcel.spans):
            parcel.spans[at] = made = _encoded(span)
            await self._breath.after(len(made))

    def _room(self) -> int:
        """Bytes to take now. A partition without a leader must not stop the others: while one lane
        idles, a little more is taken than the limit allows."""
        room = self._room_bytes - self._lanes.waiting_bytes
        return _SLICE_BYTES if room <= 0 and self._lanes.any_idle else room


def _encoded(span: SentSpan) -> bytes:
    return span if isinstance(span, bytes) else span.encoded(encode_large_span)


def _is_doomed(whole: Whole | None) -> bool:
    """Whether a part of the trace was dropped before; if not, from now on it is begun."""
    if whole is None or whole.doomed:
        return whole is not None
    whole.begun = True
    return False
