"""Finds the records of one trace in the traces' topic."""

from collections.abc import Sequence

from msgspec import Struct

from spanferry_schemas import trace_id_text
from spanferry_worker.errors import WorkerError
from spanferry_worker.ports import Clock
from spanferry_worker.sampling.gathering import Gatherer
from spanferry_worker.services.kafka_scan import (
    Times,
    TopicScan,
    open_scan,
    partition_count,
    partition_of,
)
from spanferry_worker.settings import Settings
from spanferry_worker.stages.sample import FleetState, Table, decode_event
from spanferry_worker.stages.trace import AssembledTrace
from spanferry_worker.text import time_text

__all__ = [
    "AmbiguousError",
    "Found",
    "NotFoundError",
    "NotThereError",
    "TraceWanted",
    "find",
    "find_table",
]

_HEX_DIGITS = 32


class NotThereError(WorkerError):
    """There is no such topic, or no such trace in it."""


class NotFoundError(NotThereError):
    """No record of the trace is in Kafka, as far as was looked."""


class AmbiguousError(WorkerError):
    """The beginning of an id fits several traces."""


class TraceWanted(Struct, frozen=True):
    """What was asked for: the first hexadecimal digits of a trace id, or all of them."""

    digits: str

    @property
    def key(self) -> bytes | None:
        """The records' key, where all digits were given."""
        return bytes.fromhex(self.digits) if len(self.digits) == _HEX_DIGITS else None

    def fits(self, key: bytes | None) -> bool:
        """Whether a record with this key may be of the trace."""
        return key is not None and len(key) == 16 and key.hex().startswith(self.digits)

    def __str__(self) -> str:
        return f"tr-{self.digits}" + ("" if self.key else "…")


class Found(Struct, frozen=True):
    """All that Kafka has of a trace: what was decided on first, and what came late for it."""

    trace_id: bytes
    pieces: list[AssembledTrace]
    records: int
    first_ms: int
    """When its first record was produced ..."""
    last_ms: int
    """... and its last."""
    is_open: bool
    """Whether a worker still waits for more of it."""


async def find(
    settings: Settings, wanted: TraceWanted, clock: Clock, *, since_ms: int | None, everywhere: bool
) -> Found:
    """Read the partition of the trace, or, where that cannot be told or is told not to, all of them.

    Raises NotThereError and AmbiguousError with a message, and WorkerErrors of Kafka.
    """
    topic = settings.kafka.topic
    count = await partition_count(settings, topic)
    if count is None:
        raise NotThereError(f"the topic {topic} does not exist, or this user may not see it")
    key = wanted.key
    numbers = range(count) if key is None or everywhere else [partition_of(key, count)]
    gatherers: dict[bytes, _Gathered] = {}
    async with open_scan(settings, topic, count, Times(since_ms)) as scan:
        async for record in scan.records(numbers):
            for gathered in gatherers.values():
                gathered.tick(record.timestamp)
            if not wanted.fits(record.key):
                continue
            assert record.key is not None
            gathered = gatherers.setdefault(record.key, _Gathered(settings))
            gathered.pieces += gathered.gatherer.take(record)
            gathered.saw(record.timestamp)
            _check_one(wanted, list(gatherers))
        if not gatherers:
            raise NotFoundError(await _missing(scan, wanted, numbers, since_ms))
    [(trace_id, gathered)] = gatherers.items()
    return gathered.found(trace_id, clock.now_ms())


class _Gathered:
    """What was found of one trace so far."""

    def __init__(self, settings: Settings) -> None:
        self.gatherer = Gatherer(settings)
        self.pieces: list[AssembledTrace] = []
        self.first_ms = 0
        self.last_ms = 0

    def tick(self, now_ms: int) -> None:
        self.pieces += self.gatherer.tick(now_ms)

    def saw(self, timestamp_ms: int) -> None:
        self.first_ms = min(self.first_ms or timestamp_ms, timestamp_ms)
        self.last_ms = max(self.last_ms, timestamp_ms)

    def found(self, trace_id: bytes, now_ms: int) -> Found:
        self.tick(now_ms)
        is_open = not any(piece.spans for piece in self.pieces)
        return Found(
            trace_id=trace_id,
            pieces=[*self.pieces, *self.gatherer.drain()],
            records=self.gatherer.records,
            first_ms=self.first_ms,
            last_ms=self.last_ms,
            is_open=is_open,
        )


def _check_one(wanted: TraceWanted, keys: Sequence[bytes]) -> None:
    if len(keys) > 1:
        ids = ", ".join(trace_id_text(key) for key in keys)
        raise AmbiguousError(f"{wanted} fits more than one trace: {ids}, …; give more digits")


async def _missing(
    scan: TopicScan, wanted: TraceWanted, numbers: Sequence[int], since_ms: int | None
) -> str:
    where = f"partition {numbers[0]}" if len(numbers) == 1 else f"{len(numbers)} partitions"
    oldest = [await scan.retained_since_ms(number) for number in numbers]
    times = [each for each in oldest if each is not None]
    if not times:
        kept = "which holds no records at all" if len(numbers) == 1 else "which hold no records"
    else:
        kept = f"whose records are retained since {time_text(min(times))}"
    looked = "" if since_ms is None else f", looked through since {time_text(since_ms)}"
    hint = (
        ""
        if len(numbers) > 1 or wanted.key is None
        else (". Were partitions added since? Then --everywhere finds it")
    )
    return f"no record of {wanted} in {scan.topic}, {where}, {kept}{looked}{hint}"


async def find_table(settings: Settings, bucket: int) -> Table | None:
    """What the fleet has agreed on for a bucket; None where its topic or the table is not there."""
    topic = settings.fleet_topic
    if await partition_count(settings, topic) is None:
        return None
    state = FleetState()
    async with open_scan(settings, topic, 1) as scan:
        async for record in scan.records():
            event = decode_event(record.value)
            if event is not None:
                state.apply(event)
    return state.table(bucket)
