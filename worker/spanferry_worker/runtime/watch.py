"""Watches that things move: measures the lag, finds stalls, sets the gauges."""

import asyncio
import logging
from collections.abc import Mapping, Sequence

from spanferry_worker.errors import TransientError
from spanferry_worker.ports import Partition
from spanferry_worker.runtime.intake import Intake
from spanferry_worker.runtime.lanes import Lane, Lanes
from spanferry_worker.runtime.parts import Parts
from spanferry_worker.runtime.writer import Writer
from spanferry_worker.settings import Settings
from spanferry_worker.stages.consume import StallDetector
from spanferry_worker.telemetry import LogEvent

__all__ = ["Watch"]

_log = logging.getLogger("spanferry.watch")
_INTERVAL_S = 5.0


class Watch:
    """One look every few seconds."""

    def __init__(
        self, parts: Parts, settings: Settings, lanes: Lanes, intake: Intake, writer: Writer
    ) -> None:
        self._parts = parts
        self._lanes = lanes
        self._intake = intake
        self._writer = writer
        stall_s = settings.consume.stall_s
        self._stall_ms = int(stall_s * 1000)
        self._interval_s = min(_INTERVAL_S, stall_s / 2)
        self._detector = StallDetector(stall_s)
        self._join_ms = int((stall_s + settings.kafka.rebalance_timeout_s) * 1000)
        self._silent_since: tuple[int, list[int | None]] | None = None
        self._reported: dict[int, tuple[int, int]] = {}
        self._lag: Mapping[Partition, int] = {}
        self.stuck: str | None = None
        """What stands for good and needs a restart of the process, for /healthz."""

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await asyncio.sleep(self._interval_s)
            await self.look()

    async def look(self) -> None:
        """One look: gauges, lag, stalls."""
        self._look_at_writes()
        self._look_at_membership()
        try:
            self._lag = lag = await self._parts.log.lag()
        except TransientError as error:
            _log.debug("lag unknown: %s", error, extra=LogEvent.CONSUME_LAG_UNKNOWN())
            self._lag = {}
            self._look_at_silence()
            return
        finally:
            self.refresh()
        self._silent_since = None
        ours = self._lanes.partitions
        # Given up after a refused commit, but still delivered to us: the client has not joined anew.
        adrift = [partition for partition in lag if partition not in ours]
        self._look_at_reads(
            {lane.partition: (lane, lag.get(lane.partition)) for lane in self._lanes}, adrift
        )

    def _look_at_membership(self) -> None:
        """Whether the group has dealt out nothing for so long that our client must have lost it."""
        since_ms = self._lanes.joining_since_ms
        if since_ms is not None and self._parts.clock.now_ms() - since_ms >= self._join_ms:
            self._join_anew("the group has dealt out no partitions for long")
            self._lanes.joining_since_ms = None

    def _look_at_silence(self) -> None:
        """Whether the client has told us nothing for long, neither records nor what waits."""
        offsets = [lane.tracker.next_offset for lane in self._lanes]
        now_ms = self._parts.clock.now_ms()
        if self._intake.waiting or self._silent_since is None or self._silent_since[1] != offsets:
            self._silent_since = now_ms, offsets
        elif now_ms - self._silent_since[0] >= self._stall_ms:
            self._join_anew("Kafka has told us nothing for long")
            self._silent_since = None

    def _join_anew(self, why: str, **extra: object) -> None:
        self._parts.metrics.consume_stalls.labels("consume").inc()
        _log.error("%s; joining anew", why, extra=LogEvent.CONSUME_STALLED(**extra))
        self._detector.reset()
        self._intake.interrupt()

    def _look_at_reads(
        self, lags: dict[Partition, tuple[Lane, int | None]], adrift: Sequence[Partition]
    ) -> None:
        now_ms = self._parts.clock.now_ms()
        state: dict[tuple[str, int], tuple[int | None, int]] = dict.fromkeys(adrift, (None, 1))
        metrics = self._parts.metrics
        metrics.clear_lag()
        mean_bytes = self._intake.sizes.mean_bytes
        for partition, (lane, lag) in lags.items():
            if lag is None:
                continue
            lane.unread = lag
            label = str(partition.partition)
            behind_ms = now_ms - lane.newest_ms if lag and lane.newest_ms else 0
            metrics.consume_lag_records.labels(label).set(lag)
            metrics.consume_lag_seconds.labels(label).set(max(0, behind_ms) / 1000)
            if mean_bytes is not None or not lag:
                metrics.consume_lag_bytes.labels(label).set(lag * (mean_bytes or 0))
            state[partition] = (lane.tracker.next_offset, lag)
        if self._intake.waiting:
            self._detector.reset()
            return
        stalled = self._detector.look(state, now_ms)
        if stalled:
            numbers = sorted(number for _, number in stalled)
            self._join_anew("records wait but none come", partitions=numbers)

    def _look_at_writes(self) -> None:
        began_ms = self._writer.oldest_write_ms()
        if began_ms is None or self._parts.clock.now_ms() - began_ms < self._stall_ms:
            self.stuck = None
            return
        if self.stuck is None:
            self._parts.metrics.consume_stalls.labels("write").inc()
            stall_s = self._stall_ms / 1000
            _log.error(
                "a write has not returned for %.0f s", stall_s, extra=LogEvent.WRITE_STALLED()
            )
        self.stuck = "a write to the store does not return"

    def refresh(self) -> None:
        """Set the gauges to what is so now, but for the lag, which only Kafka knows."""
        self._set_gauges()
        self._set_undecided(self._lag)

    def _set_undecided(self, lag: Mapping[Partition, int]) -> None:
        """How old what is not decided is. `lag`: records not read yet, where that is known."""
        metrics = self._parts.metrics
        now_ms = self._parts.clock.now_ms()
        metrics.commit_undecided.clear()
        metrics.commit_lag_seconds.clear()
        for lane in self._lanes:
            label = str(lane.partition.partition)
            metrics.commit_undecided.labels(label).set(lane.tracker.undecided)
            oldest_ms = lane.oldest_ms(lag.get(lane.partition, 0))
            age_ms = 0 if oldest_ms is None else max(0, now_ms - oldest_ms)
            metrics.commit_lag_seconds.labels(label).set(age_ms / 1000)

    def _set_gauges(self) -> None:
        metrics = self._parts.metrics
        metrics.consume_held_bytes.set(self._intake.held_bytes)
        metrics.assemble_open.set(sum(lane.assembler.held_traces for lane in self._lanes))
        metrics.assemble_held_bytes.set(sum(lane.assembler.held_bytes for lane in self._lanes))
        reported: dict[int, tuple[int, int]] = {}
        for lane in self._lanes:
            ledger = lane.ledger
            missing, repeated = self._reported.get(lane.lane_id, (0, 0))
            metrics.consume_missing.inc(ledger.missing - missing)
            metrics.consume_repeated.inc(ledger.repeated - repeated)
            reported[lane.lane_id] = (ledger.missing, ledger.repeated)
            spans = lane.assembler.spans_repeated
            metrics.assemble_repeated.inc(spans)
            lane.assembler.spans_repeated -= spans
        self._reported = reported
