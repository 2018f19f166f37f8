"""What a pipeline is made of; the composition root or a test supplies it."""

import random
from collections.abc import Callable

from msgspec import Struct

from spanferry_worker.ports import (
    Clock,
    DeadLetterLog,
    DroppedLog,
    FleetLog,
    LedgerLog,
    RecordLog,
    Sink,
)
from spanferry_worker.services.metrics import Metrics

__all__ = ["Parts"]


class Parts(Struct, frozen=True, kw_only=True):
    """The outside of a pipeline: services, time and chance."""

    log: RecordLog
    sink: Sink
    letters: DeadLetterLog
    clock: Clock
    metrics: Metrics
    chance: random.Random
    resident_bytes: Callable[[], int] = int
    """What the process takes in memory; by default as if it took none."""
    settled: Callable[[], object] = bool
    """Called when the store is open, with all that it has loaded."""
    ledger: LedgerLog | None = None
    """None: the accounts are forgotten when the worker ends."""
    fleet: FleetLog | None = None
    """None: budgets and what is slow are unknown, and decisions go on without."""
    dropped: DroppedLog | None = None
    """None: what was dropped is forgotten when the worker ends, or loses the partition."""
