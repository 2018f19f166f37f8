"""The worker's runtime with a store that takes everything and keeps nothing:
`python -m benchmarks.stages_worker SERVERS TOPIC GROUP CORE`.

Says which partitions it has got, begins to read at the first line of its input, and then says ten times
a second when, how many traces were stored, and its CPU seconds.
"""

import asyncio
import os
import random
import sys
import time
from collections.abc import Mapping, Sequence

import uvloop

from spanferry_schemas import Assessment
from spanferry_worker.ports import Partition
from spanferry_worker.runtime.parts import Parts
from spanferry_worker.runtime.pipeline import Pipeline
from spanferry_worker.services.clock import SystemClock
from spanferry_worker.services.kafka import KafkaLog
from spanferry_worker.services.kafka_dead_letters import KafkaDeadLetters
from spanferry_worker.services.metrics import Metrics
from spanferry_worker.settings import KafkaSettings, Settings
from spanferry_worker.stages.consume import Record
from spanferry_worker.stages.trace import AssembledTrace

__all__ = ["main"]

_TELL_S = 0.1


class NullSink:
    """Counts."""

    concurrency = 4

    def __init__(self) -> None:
        self.traces = 0

    async def open(self) -> None:
        """Nothing to connect to."""

    async def write(self, batch: Sequence[AssembledTrace]) -> None:
        self.traces += len(batch)

    async def marks(self, trace_ids: Sequence[bytes]) -> Mapping[bytes, Mapping[str, str]]:
        return {}

    async def marks_of_request(self, assessment: Assessment) -> None:
        """Nobody asks."""

    async def close(self) -> None:
        """Nothing to release."""


class HeldLog(KafkaLog):
    """Gives no records before it is let go, so that all processes begin at once, as one group."""

    def __init__(self, settings: KafkaSettings) -> None:
        super().__init__(settings)
        self.go = asyncio.Event()

    async def poll(
        self, *, timeout_s: float, records_max: int
    ) -> Mapping[Partition, Sequence[Record]]:
        if not self.go.is_set():
            await asyncio.sleep(timeout_s)
            return {}
        return await super().poll(timeout_s=timeout_s, records_max=records_max)


async def _run(servers: str, topic: str, group: str) -> None:
    kafka = KafkaSettings(bootstrap_servers=servers, topic=topic, group=group)
    settings = Settings(kafka=kafka)
    log, sink = HeldLog(kafka), NullSink()
    parts = Parts(
        log=log,
        sink=sink,
        letters=KafkaDeadLetters(settings),
        clock=SystemClock(),
        metrics=Metrics(),
        chance=random.Random(1),
    )
    pipeline = Pipeline(parts, settings)
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), log.go.set)

    async def tell() -> None:
        while True:
            if log.go.is_set():
                print(time.monotonic(), sink.traces, time.process_time(), flush=True)
            else:
                print("partitions", len(pipeline.lanes.partitions), flush=True)
            await asyncio.sleep(_TELL_S)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(tell())
        tasks.create_task(pipeline.run())


def main(servers: str, topic: str, group: str, core: int) -> None:
    """Run until killed."""
    os.sched_setaffinity(0, {core})
    uvloop.run(_run(servers, topic, group))


if __name__ == "__main__":
    main(*sys.argv[1:4], int(sys.argv[4]))
