"""Dispatch: parcels become records in lanes, lanes become batches, acknowledgements settle parcels."""

import asyncio
import os
import time
from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct

from spanferry.buffer import Buffer
from spanferry.environment import collect_environment
from spanferry.lanes import Lane, Ledger, Receipt, Staged
from spanferry.log import logger, say_once
from spanferry.parcel import Parcel
from spanferry.records import Record, header_of, records_of, recut
from spanferry.settings import Settings
from spanferry_schemas.limits import RECORD_BYTES_FLOOR

__all__ = ["DispatchCounts", "Dispatcher"]

_STAGED_BYTES_MAX: Final = 8 * 1024 * 1024
"""Taken from the buffer ahead of Kafka; the rest waits there, where the drop policy can reach it."""

_SLICE_BYTES: Final = 64 * 1024
_SLICE_RECORDS: Final = 8
"""Work between two visits to the loop, which lets the app's threads have the interpreter."""


class DispatchCounts(Struct):
    """Totals of the sender since it was made."""

    parcels_sent: int = 0
    traces_sent: int = 0
    records_sent: int = 0
    bytes_sent: int = 0
    batches_sent: int = 0
    batches_failed: int = 0
    dropped_oversize: int = 0
    dropped_refused: int = 0
    dropped_broken: int = 0
    dropped_traces: int = 0


class Dispatcher:
    """Lives on the sender's loop, through several producers one after another."""

    def __init__(self, settings: Settings, buffer: Buffer, *, producer_id: bytes) -> None:
        self._settings = settings
        self._buffer = buffer
        self._producer_id = producer_id
        self._producer: Any = None
        self._environment: Mapping[str, str] = {}
        self._lanes: dict[int, Lane] = {}
        self._partitions: list[int] = []
        self._pumps: set[asyncio.Task[None]] = set()
        self._failure: Exception | None = None
        self._since_pause = 0
        self._record_bytes_max = settings.record_bytes_max
        self._batch_bytes = settings.batch_bytes
        self.ledger = Ledger(self._settled)
        self.counts = DispatchCounts()

    def collect_environment(self) -> None:
        """Look at user, script and Git once, before the first trace part is encoded."""
        if self._settings.collect_environment:
            self._environment = collect_environment()

    def open(self, producer: Any, partitions: list[int]) -> None:
        """A producer is connected. Records staged for partitions that are gone find new lanes."""
        self._producer = producer
        self._partitions = partitions
        self._failure = None
        gone = [lane for number, lane in self._lanes.items() if number not in partitions]
        for number in partitions:
            self._lanes.setdefault(number, Lane(number))
        for lane in gone:
            del self._lanes[lane.partition]
            for staged in lane.clear():
                self._lane(staged.record.key).push(staged)

    async def close(self) -> None:
        """The producer ends: batches that are out go back to their lanes."""
        for pump in self._pumps:
            pump.cancel()
        if self._pumps:
            await asyncio.wait(self._pumps, timeout=1)

    async def turn(self) -> None:
        """Stage what there is room for and set idle lanes going. Raises what broke a batch."""
        await self._stage()
        for lane in self._lanes.values():
            if lane.waiting and not lane.busy and self._failure is None:
                lane.busy = True
                pump = asyncio.get_running_loop().create_task(self._pump(lane))
                self._pumps.add(pump)
                pump.add_done_callback(self._pumps.discard)
        if self._failure is not None:
            raise self._failure

    def settled_up_to(self, serial: int) -> bool:
        """Whether all parcels up to `serial` are off our hands, or none is left at all."""
        nothing_left = not self._buffer and not self.ledger
        return nothing_left or self.ledger.settled_up_to(serial)

    async def _stage(self) -> None:
        room = self._room()
        while room > 0:
            parcel = self._buffer.take()
            if parcel is None:
                return
            room -= parcel.size
            receipt = self.ledger.enter(size=parcel.size, ends_trace=parcel.end is not None)
            try:
                await self._stage_parcel(parcel, receipt)
            except ValueError as error:
                self.counts.dropped_oversize += 1
                self._dropped(receipt, "oversize", error)
            except Exception as error:  # noqa: BLE001  one parcel must not stop the others
                self.counts.dropped_broken += 1
                self._dropped(receipt, "broken", error)
            self.ledger.finish(receipt)

    async def _stage_parcel(self, parcel: Parcel, receipt: Receipt) -> None:
        for record in records_of(
            parcel,
            environment=self._environment,
            record_bytes_max=self._record_bytes_max,
            chance=os.urandom,
        ):
            receipt.open += 1
            self._lane(record.key).push(Staged(record, receipt))
            await self._breathe(len(record.value))

    async def _breathe(self, size: int) -> None:
        """Visit the loop after every slice of work."""
        self._since_pause += size + _SLICE_BYTES // _SLICE_RECORDS
        if self._since_pause >= _SLICE_BYTES:
            self._since_pause = 0
            await asyncio.sleep(0)

    def _room(self) -> int:
        """Bytes to take now. A partition without a leader must not stop the others: while one lane
        idles, a little more is taken than the limit allows."""
        lanes = self._lanes.values()
        room = _STAGED_BYTES_MAX - sum(lane.waiting_bytes for lane in lanes)
        if room <= 0 and any(not lane.waiting and not lane.busy for lane in lanes):
            return _SLICE_BYTES
        return room

    def _lane(self, key: bytes) -> Lane:
        """Kafka's default partitioner, so that every producer of a trace finds the same one."""
        from aiokafka.partitioner import murmur2  # noqa: PLC0415  loaded on the sender's thread

        number = (murmur2(key) & 0x7FFFFFFF) % len(self._partitions)
        return self._lanes[self._partitions[number]]

    async def _pump(self, lane: Lane) -> None:
        """Send the lane's batches one after another until it is empty or one fails."""
        try:
            while lane.waiting and self._failure is None:
                await self._send(lane)
        except Exception as error:  # noqa: BLE001  `turn` raises it where the session can end
            self.counts.batches_failed += 1
            self._failure = self._failure or error
        finally:
            lane.busy = False

    async def _send(self, lane: Lane) -> None:
        """One batch: build, send, wait for the acknowledgement, settle."""
        batch, staged = await self._build(lane)
        try:
            sent = await self._producer.send_batch(
                batch, self._settings.topic, partition=lane.partition
            )
            await sent
        except asyncio.CancelledError:
            lane.put_back(staged)
            raise
        except Exception as error:
            if _is_too_large(error):
                self._shrink(lane, staged, batch.size())
            else:
                lane.put_back(staged)
            raise
        self.counts.batches_sent += 1
        for one in staged:
            self.counts.records_sent += 1
            self.counts.bytes_sent += len(one.record.value)
            self.ledger.finish(one.receipt)

    async def _build(self, lane: Lane) -> tuple[Any, list[Staged]]:
        batch = self._producer.create_batch()
        staged: list[Staged] = []
        size = 0
        now_ms = time.time_ns() // 1_000_000
        try:
            while one := lane.pop():
                record = one.record
                size += len(record.value)
                full = staged and size > self._batch_bytes
                if full or not self._append(batch, one, now_ms):
                    lane.put_back_unsent([one])
                    break
                staged.append(one)
                await self._breathe(len(record.value))
        except BaseException:
            lane.put_back(staged)
            raise
        batch.close()
        return batch, staged

    def _append(self, batch: Any, one: Staged, now_ms: int) -> bool:
        header = header_of(one.record, self._producer_id, one.sequence)
        done = batch.append(
            timestamp=now_ms, key=one.record.key, value=one.record.value, headers=[header]
        )
        return done is not None

    def _shrink(self, lane: Lane, staged: list[Staged], size: int) -> None:
        """The topic takes less than we thought: smaller batches first, then smaller records.

        Nothing of a refused batch was written. The caller's error ends the session, because an
        idempotent producer cannot go on after a batch that failed for good.
        """
        if len(staged) > 1:
            self._batch_bytes = max(self._batch_bytes // 2, RECORD_BYTES_FLOOR)
            lane.put_back_unsent(staged)
            return
        one = staged[0]
        limit = min(len(one.record.value), self._record_bytes_max) // 2
        if limit < RECORD_BYTES_FLOOR:
            self.counts.dropped_refused += 1
            self._dropped(one.receipt, "refused", ValueError(f"a record of {size} bytes"))
            self.ledger.finish(one.receipt)
            return
        self._record_bytes_max = limit
        self._batch_bytes = min(self._batch_bytes, limit)
        say_once(
            f"shrink-{limit}",
            "topic %s refuses records of %d bytes: sending at most %d. Raise its max.message.bytes "
            "or lower record_bytes_max.",
            self._settings.topic,
            size,
            limit,
        )
        lane.put_back_unsent([one])
        waiting = lane.clear()
        for piece in waiting:
            self._recut(lane, piece)

    def _recut(self, lane: Lane, staged: Staged) -> None:
        pieces: list[Record] = list(recut(staged.record, self._record_bytes_max, os.urandom))
        staged.receipt.open += len(pieces) - 1
        for record in pieces:
            lane.push(Staged(record, staged.receipt))

    def _dropped(self, receipt: Receipt, reason: str, error: Exception) -> None:
        receipt.dropped = True
        if receipt.ends_trace:
            self.counts.dropped_traces += 1
        say_once(f"dropped-{reason}", "a trace was dropped (%s): %s", reason, error)
        logger.debug("a trace was dropped (%s): %s", reason, error)

    def _settled(self, receipt: Receipt) -> None:
        self._buffer.release(receipt.size)
        if receipt.dropped:
            return
        self.counts.parcels_sent += 1
        if receipt.ends_trace:
            self.counts.traces_sent += 1


def _is_too_large(error: Exception) -> bool:
    from aiokafka import errors  # noqa: PLC0415  loaded on the sender's thread

    return isinstance(error, errors.MessageSizeTooLargeError | errors.RecordListTooLargeError)
