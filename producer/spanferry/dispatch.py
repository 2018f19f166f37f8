"""Dispatch: what waits in lanes becomes batches, and acknowledgements settle parcels."""

import asyncio
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from msgspec import Struct

from spanferry.buffer import Buffer
from spanferry.client_stats import parcels_dropped
from spanferry.lanes import Fate, Lane, Lanes, Ledger, Receipt, Staged
from spanferry.log import say_once
from spanferry.pace import Pace
from spanferry.parcel import DropReason
from spanferry.process import supply_ids
from spanferry.records import Record, header_of, recut
from spanferry.reporting import Reporter
from spanferry.settings import Settings
from spanferry.spool.spool import SpoolCounts, new_spool
from spanferry.spooling import Spooler
from spanferry.staging import Breath, Stager
from spanferry.troubles import Trouble, TroubleKind
from spanferry_schemas.limits import RECORD_BYTES_FLOOR

__all__ = ["DispatchCounts", "Dispatcher"]

_BEHIND_S: Final = 0.02
_WRITE_AHEAD_S: Final = 0.025


class DispatchCounts(Struct):
    """Totals of the sender since it was made."""

    parcels_sent: int = 0
    traces_sent: int = 0
    parcels_spooled: int = 0
    traces_spooled: int = 0
    records_sent: int = 0
    bytes_sent: int = 0
    batches_sent: int = 0
    batches_failed: int = 0


class Dispatcher:
    """Lives on the sender's loop, through several producers one after another."""

    def __init__(self, settings: Settings, buffer: Buffer, *, producer_id: bytes) -> None:
        self._settings = settings
        self._buffer = buffer
        self.producer_id = producer_id
        self._producer: Any = None
        self._new_batch: Callable[[], Any] | None = None
        self._pumps: set[asyncio.Task[None]] = set()
        self._failure: Exception | None = None
        self.pace = Pace(settings.batch_bytes)
        self._breath = Breath()
        self._lanes = Lanes()
        self.ledger = Ledger(self._settled)
        self.stager = Stager(settings, buffer, self._lanes, self.ledger, self._breath)
        self.spooler: Spooler | None = None
        spool = new_spool(settings)
        if spool is not None:
            self.spooler = Spooler(
                spool, buffer, self.stager, self._lanes, self.ledger, self._breath
            )
            self.stager.write_ahead = spool if spool.writes_ahead else None
        self.counts = DispatchCounts()
        self.reporter = Reporter(
            producer_id,
            settings.topic,
            self._lanes,
            lambda: (
                parcels_dropped(buffer.counts, self.stager.drops),
                self.counts.parcels_spooled,
            ),
        )

    def open(self, producer: Any, partitions: list[int]) -> None:
        """A producer is connected to the topic with these partitions."""
        from spanferry.batches import ZstdBatch  # noqa: PLC0415  needs aiokafka, which is loaded now

        self._producer = producer
        self._new_batch = producer.create_batch
        if self._settings.compression == "zstd":
            self._new_batch = partial(ZstdBatch, self._settings.batch_bytes)
        self._failure = None
        self.pace.session()
        self._lanes.open(partitions)
        self.reporter.open(producer, producer.create_batch)

    async def close(self) -> None:
        """The producer ends: batches that are out go back to their lanes."""
        for pump in self._pumps:
            pump.cancel()
        if self._pumps:
            await asyncio.wait(self._pumps, timeout=1)
        await self.reporter.close()

    async def turn(self) -> None:
        """Stage what there is room for and set idle lanes going.

        Raises what broke a batch, and Trouble where Kafka has one and does not acknowledge it: an
        idempotent producer would wait for ever.
        """
        supply_ids()
        overdue_s = self.pace.overdue_s(time.monotonic())
        if overdue_s is not None:
            raise Trouble(
                TroubleKind.UNACKNOWLEDGED,
                f"it has a batch and has not acknowledged it for {overdue_s:.0f} s: too few replicas "
                "in sync, a partition without a leader, or a slow way there",
            )
        await self.stager.stage()
        if self.spooler is not None:
            await self.spooler.replay()
        for lane in self._lanes:
            if lane.waiting and not lane.busy and self._failure is None:
                lane.busy = True
                pump = asyncio.get_running_loop().create_task(self._pump(lane))
                self._pumps.add(pump)
                pump.add_done_callback(self._pumps.discard)
        self.reporter.turn()
        if self._failure is not None:
            raise self._failure
        if self.reporter.failure is not None:
            raise self.reporter.failure

    @property
    def linger_s(self) -> float:
        """When to look again: soon while more waits than was taken, or where what waits in memory is
        to be on disk soon."""
        if self.stager.is_full:
            return min(_BEHIND_S, self._settings.linger_s)
        if self.stager.write_ahead is not None:
            return min(_WRITE_AHEAD_S, self._settings.linger_s)
        return self._settings.linger_s

    @property
    def spool_counts(self) -> SpoolCounts:
        """What the spool has done; all zero where there is none."""
        return SpoolCounts() if self.spooler is None else self.spooler.spool.counted()

    async def overflow(self, *, connected: bool, hopeless: bool) -> None:
        """Have the spool, if there is one, take what memory should not hold any longer.

        `hopeless`: without a connection for so long that nothing is to wait for the next one.
        """
        if self.spooler is None:
            return
        spool = self.spooler.spool
        spool.tick()
        if spool.writes_ahead:
            everything = not connected or self.stager.is_full
        else:
            everything = not connected and hopeless
        await self.spooler.overflow(-1 if everything else self._settings.buffer_bytes // 2)

    def settled_up_to(self, serial: int) -> bool:
        """Whether all parcels up to `serial` are off our hands, or none is left at all."""
        nothing_left = not self._buffer and not self.ledger
        return nothing_left or self.ledger.settled_up_to(serial)

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
        acknowledged = False
        self.pace.sent(lane.partition, time.monotonic())
        try:
            sent = await self._producer.send_batch(
                batch, self._settings.topic, partition=lane.partition
            )
            await sent
            acknowledged = True
        except asyncio.CancelledError:
            lane.put_back(staged)
            raise
        except Exception as error:
            if _is_too_large(error):
                self._shrink(lane, staged, batch.size())
            else:
                lane.put_back(staged)
            raise
        finally:
            self.pace.settled(lane.partition, time.monotonic(), acknowledged=acknowledged)
        self.counts.batches_sent += 1
        lane.settled(staged)
        for one in staged:
            self.counts.records_sent += 1
            self.counts.bytes_sent += len(one.record.value)
            self.ledger.finish(one.receipt)

    async def _build(self, lane: Lane) -> tuple[Any, list[Staged]]:
        assert self._new_batch is not None  # set before any lane is busy
        batch = self._new_batch()
        staged: list[Staged] = []
        size = 0
        now_ms = time.time_ns() // 1_000_000
        try:
            while one := lane.pop():
                record = one.record
                size += len(record.value)
                full = staged and size > self.pace.batch_bytes
                if full or not _append(batch, one, self.producer_id, now_ms):
                    lane.put_back_unsent([one])
                    break
                staged.append(one)
                await self._breath.after(len(record.value))
        except BaseException:
            lane.put_back(staged)
            raise
        batch.close()
        return batch, staged

    def _shrink(self, lane: Lane, staged: list[Staged], size: int) -> None:
        """The topic takes less than we thought: smaller batches first, then smaller records.

        Nothing of a refused batch was written. The caller's error ends the session, because an
        idempotent producer cannot go on after a batch that failed for good.
        """
        if len(staged) > 1:
            self.pace.limit(self.pace.batch_bytes // 2)
            lane.put_back_unsent(staged)
            return
        one = staged[0]
        limit = min(len(one.record.value), self.stager.record_bytes_max) // 2
        if limit < RECORD_BYTES_FLOOR:
            lane.free(staged)
            refusal = ValueError(f"a record of {size} bytes")
            self.stager.drop(one.receipt, DropReason.REFUSED, refusal)
            self.ledger.finish(one.receipt)
            return
        self.stager.record_bytes_max = limit
        self.pace.limit(limit)
        say_once(
            "shrink",
            "topic %s refuses records of %d bytes: sending smaller ones until it takes them. Raise its "
            "max.message.bytes or lower record_bytes_max.",
            self._settings.topic,
            size,
        )
        lane.put_back_unsent([one])
        for waiting in lane.clear():
            self._recut(lane, waiting)

    def _recut(self, lane: Lane, staged: Staged) -> None:
        """Cut it where it is too large now. The first piece has its number, if it has one."""
        pieces: list[Record] = list(recut(staged.record, self.stager.record_bytes_max, os.urandom))
        staged.receipt.open += len(pieces) - 1
        staged.record = pieces[0]
        lane.push(staged)
        for record in pieces[1:]:
            lane.push(Staged(record, staged.receipt))

    def _settled(self, receipt: Receipt) -> None:
        if receipt.ticket is not None:
            receipt.ticket.settle()
        if receipt.serial == 0:
            if self.spooler is not None and receipt.fate is Fate.SENT:
                self.spooler.spool.replayed(receipt.size)
            return
        if receipt.fate is Fate.SENT:
            self.counts.parcels_sent += 1
            self.counts.traces_sent += receipt.ends_trace
        elif receipt.fate is Fate.SPOOLED:
            self.counts.parcels_spooled += 1
            self.counts.traces_spooled += receipt.ends_trace
        self._buffer.release(receipt.size)  # last: whoever sees that nothing waits finds it counted


def _append(batch: Any, one: Staged, producer_id: bytes, now_ms: int) -> bool:
    """False where the batch is full."""
    origin = one.origin
    if origin is None:
        header = header_of(one.record, producer_id, one.sequence)
    else:
        header = header_of(one.record, origin.producer_id, origin.sequence)
    done = batch.append(
        timestamp=now_ms, key=one.record.key, value=one.record.value, headers=[header]
    )
    return done is not None


def _is_too_large(error: Exception) -> bool:
    from aiokafka import errors  # noqa: PLC0415  loaded on the sender's thread

    return isinstance(error, errors.MessageSizeTooLargeError | errors.RecordListTooLargeError)
