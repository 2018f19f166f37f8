"""A store that is slow, and a group that never comes to rest: offsets move as fast as the store writes."""

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence

import pytest

from spanferry_schemas import End, encode
from spanferry_worker.runtime.parts import Parts
from spanferry_worker.runtime.pipeline import Pipeline
from spanferry_worker.services.metrics import Metrics
from spanferry_worker.settings import Settings, load_settings
from spanferry_worker.stages.trace import AssembledTrace
from spanferry_worker.testing import (
    GroupLog,
    MemoryBroker,
    MemoryDeadLetters,
    MemoryGroup,
    MemoryLedger,
    MemorySink,
    SimulatedLoop,
    SimulatedProcess,
)
from spanferry_worker.testing.group import Wire
from tests.simulation.ports import SimulatedClock
from tests.worker.events import fragment, number, span

WORKERS = 2
PARTITIONS = 4
TRACES = 4_000
STORED_PER_S = 20.0
"""All workers together."""
SECONDS = 180.0
BEGIN_S = 30.0
_APART = 20
"""So many traces begin between the begin and the end of one."""


class SlowSink(MemorySink):
    """Takes as long for every trace, and ten times as long for one that it has."""

    def __init__(self, beside: MemorySink) -> None:
        super().__init__(beside=beside)
        self.repeated = 0

    async def write(self, batch: Sequence[AssembledTrace]) -> None:
        known = sum(trace.trace_id in self.stored for trace in batch)
        self.repeated += known
        await asyncio.sleep((len(batch) + 9 * known) * WORKERS / STORED_PER_S)
        await super().write(batch)


class Line(Wire):
    """Cut when the process dies."""

    def __init__(self, process: SimulatedProcess) -> None:
        self._process = process

    def lives(self) -> bool:
        return self._process.alive

    async def trip(self, what: str) -> None:
        if not self._process.alive:
            await asyncio.get_running_loop().create_future()


class Group:
    """Two workers on a full topic."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self.loop = loop
        self.clock = SimulatedClock(loop, 0.0)
        self.settings: Settings = load_settings({"sample.target_bytes": 0}, {})
        self.broker = MemoryBroker(self.clock, topic="traces", partitions=PARTITIONS)
        kafka = self.settings.kafka
        self.group = MemoryGroup(
            self.broker, session_s=kafka.session_timeout_s, rebalance_s=kafka.rebalance_timeout_s
        )
        self.store = MemorySink()
        self.ledger = MemoryLedger(self.broker)
        self.sinks: list[SlowSink] = []
        self.processes: list[SimulatedProcess] = []
        """The dead too."""
        self.workers: list[tuple[SimulatedProcess, Pipeline]] = []
        self.metrics = Metrics()
        for trace_id in range(TRACES + _APART):
            if trace_id < TRACES:
                self._produce(trace_id, encode(fragment(trace_id, [span(2), span(3)])))
            if trace_id >= _APART:
                ended = trace_id - _APART
                self._produce(ended, encode(fragment(ended, [span(1)], end=End(3))))
        for _ in range(WORKERS):
            self.start()

    def _produce(self, trace_id: int, value: bytes) -> None:
        self.broker.produce(value, key=number(trace_id), partition=trace_id % PARTITIONS)

    def start(self) -> None:
        name = f"worker-{len(self.sinks)}"
        process = self.loop.process(name)
        sink = SlowSink(self.store)
        parts = Parts(
            log=GroupLog(
                self.group, heartbeat_s=self.settings.kafka.heartbeat_s, wire=Line(process)
            ),
            sink=sink,
            letters=MemoryDeadLetters(),
            ledger=self.ledger,
            clock=self.clock,
            metrics=self.metrics,
            chance=random.Random(len(self.sinks)),
        )
        pipeline = Pipeline(parts, self.settings)
        self.sinks.append(sink)
        self.processes.append(process)
        self.workers.append((process, pipeline))
        process.run(pipeline.run())

    def restart(self) -> None:
        """The oldest is told to stop, as in a rolling restart."""
        self.workers.pop(0)[1].stop()
        self.start()

    def kill(self) -> None:
        """The oldest dies, and another one takes its place."""
        self.loop.kill(self.workers.pop(0)[0])
        self.start()

    @property
    def committed(self) -> int:
        """Traces whose records lie below what is committed."""
        return sum(self.broker.committed.values()) // 2

    @property
    def repeated(self) -> int:
        """Traces that were written again."""
        return sum(sink.repeated for sink in self.sinks)


@pytest.fixture
def group() -> Iterator[Group]:
    loop = SimulatedLoop(random.Random(1), steps_max=20_000_000)
    made = Group(loop)
    yield made
    for process in made.processes:
        loop.kill(process)
    loop.run_until_complete(asyncio.sleep(0))


@pytest.mark.parametrize(
    ("disturb", "every_s", "share"),
    [
        (lambda group: group.group.rebalance(), 15.0, 0.6),
        (Group.restart, 15.0, 0.6),
        (Group.kill, 50.0, 0.3),
    ],
    ids=["rebalance", "restart", "kill -9"],
)
def test_offsets_move_as_fast_as_the_store_writes(
    group: Group, disturb: Callable[[Group], None], every_s: float, share: float
):
    async def run() -> tuple[int, int]:
        began = 0
        next_s = every_s
        while group.loop.time() < SECONDS:
            await asyncio.sleep(1.0)
            if group.loop.time() >= next_s:
                next_s += every_s
                disturb(group)
            if group.loop.time() < BEGIN_S:
                began = group.committed
        return began, group.committed

    began, ended = group.loop.run_until_complete(run())
    assert ended - began >= share * STORED_PER_S * (SECONDS - BEGIN_S)
    assert group.repeated <= 0.1 * ended
    assert len(group.store.stored) - ended < STORED_PER_S * every_s
