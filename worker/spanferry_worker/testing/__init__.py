"""Real implementations of the ports in memory, for tests: the same contracts as the real services."""

from spanferry_worker.testing.broker import MemoryBroker, MemoryDeadLetters, MemoryLog, MemoryRecord
from spanferry_worker.testing.clock import ManualClock
from spanferry_worker.testing.ledger import MemoryLedger
from spanferry_worker.testing.sink import MemorySink, StoredTrace

__all__ = [
    "ManualClock",
    "MemoryBroker",
    "MemoryDeadLetters",
    "MemoryLedger",
    "MemoryLog",
    "MemoryRecord",
    "MemorySink",
    "StoredTrace",
]
