"""What all workers of a group decide by together: tables, one for every few seconds of the traces' time.

The log is one Kafka partition. Workers report what was offered and stored; whoever meets a trace of a
time that has no table yet proposes one; the first in the log holds, for everybody and for every replay.
This is the replicated state: fed with the log's records in order, every worker has the same.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec
from msgspec import Struct

from spanferry_worker.stages.sample.budget import UNBOUND, Demand, solve
from spanferry_worker.stages.sample.durations import Durations

__all__ = [
    "BUCKET_MS",
    "NO_TABLE",
    "FleetEvent",
    "FleetState",
    "Report",
    "SlowLimits",
    "Table",
    "bucket_of",
    "decode_event",
    "encode_event",
    "event_key",
]

BUCKET_MS: Final = 2_000
"""For how long of the traces' own time one table holds."""
SLOW_BUCKETS: Final = 30
"""For how many buckets the limits of what is slow hold."""
WINDOW: Final = 30
"""How many buckets' demand a target is made from."""
_CORRECT_BUCKETS: Final = 4
"""Within how many buckets what was stored too much, or too little, is made up for."""
_CREDIT_BUCKETS: Final = 5.0
_DEBT_BUCKETS: Final = 10.0
_FORGET: Final = 0.98
_MEMORY: Final = 100
"""Buckets after which nothing is left of an error."""
_ROOM_MIN: Final = 0.2
"""However much is to be made up for, this part of the budget is spent."""
_FIRST_TARGET: Final = 100_000.0
"""Before anything is known."""
_TABLES_MAX: Final = 200_000
_BUCKETS_MAX: Final = 200
_WORKERS_MAX: Final = 10_000


class Table(Struct, array_like=True, frozen=True, tag=2):
    """What decisions on traces of one bucket depend on, apart from trace and policy."""

    bucket: int = 0
    targets: dict[str, float] = {}
    """By policy (`live`, `shadow`): up to how many bytes rules with a budget store traces whole."""
    slow_id: int = -1
    slow_s: dict[str, float] = {}
    """By the traces' name: above how many seconds one is slow. Kept apart in the log, see SlowLimits."""
    author: str = ""
    """The worker that has proposed it."""

    def target_bytes(self, policy: str) -> float:
        """The target of a budget; as good as none where nothing is known."""
        return self.targets.get(policy, UNBOUND)


NO_TABLE: Final = Table()
"""For policies that need none."""


class SlowLimits(Struct, array_like=True, frozen=True, tag=3):
    """By the traces' name: the 99th percentile of durations in seconds, for tables with this id."""

    slow_id: int
    slow_s: dict[str, float]
    author: str = ""


class Report(Struct, array_like=True, frozen=True, tag=1):
    """What one worker was offered and has decided to store since its last report."""

    worker: str
    number: int
    demands: dict[str, dict[int, Demand]] = {}
    """By policy and bucket."""
    budgets: dict[str, float] = {}
    """By policy: bytes a second for the fleet."""
    durations: dict[str, dict[int, int]] = {}
    """By the traces' name: counts by Durations' bins."""


FleetEvent = Report | Table | SlowLimits

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[FleetEvent] = msgspec.msgpack.Decoder(FleetEvent)


def encode_event(event: FleetEvent) -> bytes:
    """A record's value. Limits of what is slow are not repeated in tables."""
    if isinstance(event, Table):
        event = msgspec.structs.replace(event, slow_s={})
    return _encoder.encode(event)


def decode_event(value: bytes | None) -> FleetEvent | None:
    """What a record says; None for what this version cannot read."""
    if not value:
        return None
    try:
        return _decoder.decode(value)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def event_key(event: FleetEvent) -> bytes:
    """A record's key: compaction keeps the last report of a worker, and every table.

    A proposal that comes second must not take the first one's place: its author is in the key.
    """
    match event:
        case Report():
            return f"report/{event.worker}".encode()
        case Table():
            return f"table/{event.bucket}/{event.author}".encode()
        case SlowLimits():
            return f"slow/{event.slow_id}/{event.author}".encode()


def bucket_of(moment_ms: int) -> int:
    """The bucket of a trace's time."""
    return moment_ms // BUCKET_MS


class FleetState:
    """See the module. `policy` names below are `live` and `shadow`."""

    def __init__(self) -> None:
        self._tables: OrderedDict[int, Table] = OrderedDict()
        self._slow: OrderedDict[int, SlowLimits] = OrderedDict()
        self._demands: dict[str, OrderedDict[int, Demand]] = {}
        self._budgets: dict[str, float] = {}
        self._durations = Durations()
        self._numbers: dict[str, int] = {}

    def apply(self, event: FleetEvent) -> None:
        """Take the log's next record."""
        match event:
            case Report():
                self._report(event)
            case Table():
                self._tabulate(event)
            case SlowLimits():
                if event.slow_id not in self._slow:
                    self._slow[event.slow_id] = event
                    self._durations.age()
                    _bound(self._slow, _TABLES_MAX)

    def _report(self, event: Report) -> None:
        # A producer's own repeat of a record; a worker that starts anew has another name.
        if self._numbers.get(event.worker, -1) >= event.number:
            return
        self._numbers[event.worker] = event.number
        if len(self._numbers) > _WORKERS_MAX:
            del self._numbers[next(iter(self._numbers))]
        self._budgets |= event.budgets
        self._durations.add(event.durations)
        for policy, buckets in event.demands.items():
            known = self._demands.setdefault(policy, OrderedDict())
            for bucket, demand in buckets.items():
                known[bucket] = known[bucket] + demand if bucket in known else demand
            while len(known) > _BUCKETS_MAX:
                del known[min(known)]

    def _tabulate(self, event: Table) -> None:
        if event.bucket not in self._tables:
            limits = self._slow.get(event.slow_id)
            slow_s = {} if limits is None else limits.slow_s
            self._tables[event.bucket] = msgspec.structs.replace(event, slow_s=slow_s)
            _bound(self._tables, _TABLES_MAX)

    def table(self, bucket: int) -> Table | None:
        """What holds for a bucket; None where nobody has proposed anything yet."""
        return self._tables.get(bucket)

    @property
    def latest(self) -> Table:
        """The table that was written last: what to go by where the log does not answer."""
        return next(reversed(self._tables.values()), NO_TABLE)

    def propose(self, bucket: int, budgets: Mapping[str, float], author: str) -> list[FleetEvent]:
        """What to write into the log so that a bucket has a table. `budgets`: bytes/s by policy."""
        events: list[FleetEvent] = []
        slow_id = bucket // SLOW_BUCKETS
        if slow_id not in self._slow:
            events.append(SlowLimits(slow_id, self._durations.limits_s(), author))
        targets = {
            policy: self._target(policy, budget, bucket) for policy, budget in budgets.items()
        }
        events.append(Table(bucket, targets, slow_id, author=author))
        return events

    def _target(self, policy: str, budget_bytes_s: float, bucket: int) -> float:
        """Up to how many bytes to store traces whole, so that the budget is met."""
        known: Mapping[int, Demand] = self._demands.get(policy, {})
        # The bucket before is not reported by all yet.
        window = [known.get(one) for one in range(bucket - WINDOW - 1, bucket - 1)]
        seen = [demand for demand in window if demand is not None]
        if not seen:
            return self._target_before(policy, bucket)
        allowed = budget_bytes_s * BUCKET_MS / 1000
        error = _error(known, allowed, bucket - 2)
        room = max(_ROOM_MIN * allowed, allowed - error / _CORRECT_BUCKETS)
        return solve(_sum(seen), room * len(seen))

    def _target_before(self, policy: str, bucket: int) -> float:
        """Where nothing is known of late: as before."""
        before = self._tables.get(bucket - 1) or self.latest
        return before.targets.get(policy, _FIRST_TARGET)


def _error(known: Mapping[int, Demand], allowed: float, newest: int) -> float:
    """By how many bytes the buckets up to the newest went above what they were allowed, in sum.

    The older ones count less. Where there was not enough to store, what is left is no credit for later,
    but for a little.
    """
    error = 0.0
    for bucket in range(newest - _MEMORY, newest + 1):
        error *= _FORGET
        demand = known.get(bucket)
        if demand is not None:
            error += demand.stored - min(allowed, demand.offered_bytes)
            error = max(-_CREDIT_BUCKETS * allowed, min(_DEBT_BUCKETS * allowed, error))
    return error


def _sum(demands: Iterable[Demand]) -> Demand:
    total = Demand()
    for demand in demands:
        total = total + demand
    return total


def _bound(held: "OrderedDict[int, Table] | OrderedDict[int, SlowLimits]", count_max: int) -> None:
    while len(held) > count_max:
        held.popitem(last=False)
