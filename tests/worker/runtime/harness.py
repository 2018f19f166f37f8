"""A pipeline on doubles: real code everywhere, Kafka and MLflow in memory."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

from spanferry_worker.runtime.parts import Parts
from spanferry_worker.runtime.pipeline import Pipeline
from spanferry_worker.services.clock import SystemClock
from spanferry_worker.services.metrics import Metrics
from spanferry_worker.settings import Settings, load_settings
from spanferry_worker.testing import (
    MemoryBroker,
    MemoryDeadLetters,
    MemoryLedger,
    MemoryLog,
    MemorySink,
)

FAST: dict[str, object] = {
    "assemble.idle_s": 0.3,
    "sample.target_bytes": 0,
    "assemble.late_grace_s": 0.1,
    "assemble.feedback_grace_s": 0.2,
    "write.linger_s": 0.02,
    "write.batch_traces_max": 20,
    "write.absent_retry_s": 0.02,
    "dead_letters.hold_s": 0.05,
    "retry.retry_initial_s": 0.01,
    "retry.retry_max_s": 0.05,
    "commit.interval_s": 0.02,
    "process.stop_s": 5.0,
}


def fast_settings(**changes: object) -> Settings:
    """Short times; `assemble__idle_s=1` changes one."""
    given = {name.replace("__", "."): value for name, value in changes.items()}
    return load_settings(FAST | given, {})


class Harness:
    """The broker, the store and the dead letters, and as many workers as a test starts."""

    def __init__(self, partitions: int = 2, **changes: object) -> None:
        self.settings = fast_settings(**changes)
        self.clock = SystemClock()
        self.broker = MemoryBroker(self.clock, partitions=partitions)
        self.sink = MemorySink()
        self.letters = MemoryDeadLetters()
        self.ledger = MemoryLedger(self.broker)

    def pipeline(self, **changes: Any) -> Pipeline:
        """A worker, not yet running; its parts may be replaced."""
        parts = {
            "log": MemoryLog(self.broker),
            "sink": self.sink,
            "letters": self.letters,
            "clock": self.clock,
            "metrics": Metrics(),
            "chance": random.Random(7),
            "ledger": self.ledger,
        }
        return Pipeline(Parts(**(parts | changes)), self.settings)

    @contextlib.asynccontextmanager
    async def running(self, pipeline: Pipeline | None = None) -> AsyncIterator[Pipeline]:
        """Run a worker; stop it gracefully at the end, unless the test has ended it."""
        worker = pipeline or self.pipeline()
        task = asyncio.ensure_future(worker.run())
        try:
            yield worker
            worker.stop()
            await asyncio.wait_for(task, 10)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def all_committed(self) -> bool:
        """Every record that lies in the broker is behind the committed offsets."""
        return all(
            self.broker.committed.get(partition, 0) == len(self.broker.records[partition.partition])
            for partition in self.broker.partitions
        )


async def until(condition: Callable[[], object], *, timeout_s: float = 60.0) -> None:
    """Wait until something is so; fails with its source where it never is."""
    try:
        async with asyncio.timeout(timeout_s):
            while not condition():  # noqa: ASYNC110 - no event for it
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError("this did not come about in time") from None


def sample(pipeline: Pipeline, name: str, **labels: str) -> float:
    """A metric's value."""
    return pipeline._parts.metrics.registry.get_sample_value(f"spanferry_{name}", labels) or 0.0
