"""Kafka records for the stages' benchmark, and one pass of them through the worker's stages."""

import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence

from benchmarks.store_traces import make_traces
from spanferry_schemas import End, Fragment, RecordFlag, RecordKind, RecordMeta, encode, write_meta
from spanferry_worker.ports import Partition
from spanferry_worker.runtime.lanes import Gained, Lanes
from spanferry_worker.settings import Settings
from spanferry_worker.stages.accounts import Outcome
from spanferry_worker.stages.sample import NO_TABLE, Sampler
from spanferry_worker.stages.write import Queued, WriteQueue
from spanferry_worker.testing import MemoryRecord

__all__ = ["PARTITIONS", "TOPIC", "make_records", "make_values", "pass_through"]

TOPIC = "stages"
PARTITIONS = 6
_NOW_MS = 1_700_000_000_000
_POLL = 500
"""Records at once: the worker's default."""


def make_values(payload: str, count: int) -> Iterator[tuple[bytes, bytes, RecordMeta]]:
    """Key, value and header of as many whole traces, each in one fragment, as an app sends them."""
    for sequence, one in enumerate(make_traces(payload, count)):
        trace_id = one.trace_id or b""
        value = encode(Fragment(trace_id, one.spans, one.trace, End(len(one.spans))))
        flags = RecordFlag.END | RecordFlag.TRACE_PART
        root_ns = one.spans[0].end_ns - one.spans[0].start_ns
        meta = RecordMeta(
            b"stages--", sequence, RecordKind.FRAGMENT, flags, len(one.spans), len(value), root_ns
        )
        yield trace_id, value, meta


def make_records(payload: str, count: int) -> dict[Partition, list[MemoryRecord]]:
    """The same as records that lie in partitions."""
    places: dict[Partition, list[MemoryRecord]] = {
        Partition(TOPIC, number): [] for number in range(PARTITIONS)
    }
    for (key, value, meta), place in zip(
        make_values(payload, count), itertools.cycle(places), strict=False
    ):
        lying = places[place]
        lying.append(
            MemoryRecord(
                TOPIC, place.partition, len(lying), _NOW_MS, key, value, (write_meta(meta),)
            )
        )
    return places


def pass_through(records: Mapping[Partition, Sequence[MemoryRecord]], settings: Settings) -> int:
    """decode → assemble → sample → write to nobody → commit; how many traces came out, all of them.

    What the runtime does without its event loop: polls in turn from each partition, queues what is
    decided, takes batches, releases their offsets, asks for the watermarks.
    """
    lanes, sampler, queue = Lanes(settings), Sampler(settings.sample), WriteQueue(settings.write)
    for partition in records:
        lanes.open(partition)
    written = 0
    most = max(map(len, records.values()))
    for at in range(0, most, _POLL):
        for partition, lying in records.items():
            lane = lanes.of(partition)
            some = lying[at : at + _POLL]
            if lane is None or not some:
                continue
            gained = Gained()
            lane.take(some, _NOW_MS, gained)
            for trace, owner in gained.traces:
                kept = sampler.apply(trace, sampler.decide(trace, NO_TABLE)).trace
                if kept is not None:
                    queue.add(Queued(kept, owner.lane_id, _NOW_MS), _NOW_MS)
            written += _write(queue, lanes, flush=False)
        for lane in lanes:
            lane.expire(Gained(), sys.maxsize)
            due = lane.due()
            lane.committed = lane.committed if due is None else due
    written += _write(queue, lanes, flush=True)
    assert all(lane.tracker.watermark() == len(records[lane.partition]) for lane in lanes)
    return written


def _write(queue: WriteQueue, lanes: Lanes, *, flush: bool) -> int:
    written = 0
    while (batch := queue.take(_NOW_MS, flush=flush)) is not None:
        for item in batch:
            lane = lanes.owned(item.lane_id)
            if lane is not None:
                lane.settle(item.trace.positions, Outcome.STORED)
        queue.settle(batch)
        written += len(batch)
    return written
