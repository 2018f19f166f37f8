"""Real implementations of the ports in memory, for tests: the same contracts as the real services."""

from spanferry_worker.testing.broker import MemoryBroker, MemoryDeadLetters, MemoryLog, MemoryRecord
from spanferry_worker.testing.clock import ManualClock
from spanferry_worker.testing.dropped import MemoryDropped
from spanferry_worker.testing.fleet import MemoryFleet, MemoryFleetTopic
from spanferry_worker.testing.group import GroupLog, MemoryGroup, Wire
from spanferry_worker.testing.ledger import MemoryLedger
from spanferry_worker.testing.loop import SimulatedLoop, SimulatedProcess, StepsExhaustedError
from spanferry_worker.testing.sink import MemorySink, StoredTrace

__all__ = [
    "GroupLog",
    "ManualClock",
    "MemoryBroker",
    "MemoryDeadLetters",
    "MemoryDropped",
    "MemoryFleet",
    "MemoryFleetTopic",
    "MemoryGroup",
    "MemoryLedger",
    "MemoryLog",
    "MemoryRecord",
    "MemorySink",
    "SimulatedLoop",
    "SimulatedProcess",
    "StepsExhaustedError",
    "StoredTrace",
    "Wire",
]
