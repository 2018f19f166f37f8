"""What everything in a run shares: the loop, the broker, the store, the audit, the history."""

import asyncio
from collections.abc import Callable, Mapping
from random import Random

from spanferry_worker.ports import Partition
from spanferry_worker.stages.note import read_note
from spanferry_worker.testing import (
    MemoryBroker,
    MemoryDropped,
    MemoryGroup,
    MemoryLedger,
    MemorySink,
    SimulatedLoop,
)
from tests.simulation.audit import Audit
from tests.simulation.history import History
from tests.simulation.plan import Plan, is_steady
from tests.simulation.ports import SimulatedClock, Weather

__all__ = ["Scene"]


class Scene:
    """Made outside of every process: broker, store and audit are none of the workers'."""

    def __init__(self, plan: Plan, loop: SimulatedLoop) -> None:
        self.plan = plan
        self.loop = loop
        self.chance = Random(f"world {plan.seed}")
        self.history = History()
        self.weather = Weather(Random(f"weather {plan.seed}"))
        self.broker = MemoryBroker(
            SimulatedClock(loop, 0.0), topic="traces", partitions=plan.partitions
        )
        kafka = plan.settings.kafka
        self.group = MemoryGroup(
            self.broker,
            session_s=kafka.session_timeout_s,
            rebalance_s=kafka.rebalance_timeout_s,
        )
        self.dropped = MemoryDropped(SimulatedClock(loop, 0.0))
        self.store = MemorySink()
        self.ledger = MemoryLedger(self.broker)
        policy = plan.settings.sample
        unsaid_bytes_max = (
            0 if is_steady(plan) or not policy.can_cut else policy.attribute_bytes_max
        )
        self.audit = Audit(
            self.broker, self.store, self.dropped, self.tell, unsaid_bytes_max=unsaid_bytes_max
        )
        self.broker.committed = _Committed(self)
        self.broker.notes = _Notes(self)

    def tell(self, who: str, what: str) -> None:
        """Note what has happened."""
        self.history.add(round(self.loop.time(), 6), who, what)

    async def until(self, at_s: float) -> None:
        """Wait for a moment of the run."""
        await asyncio.sleep(max(0.0, at_s - self.loop.time()))

    def later(self, delay_s: float, act: Callable[[], object]) -> None:
        """Do something after a while, whoever is alive then."""
        self.loop.call_later(delay_s, act, context=self.loop.world.context())


class _Committed(dict[Partition, int]):
    """Shows every commit before it counts."""

    def __init__(self, scene: Scene) -> None:
        super().__init__()
        self._scene = scene

    def update(self, offsets: Mapping[Partition, int]) -> None:  # type: ignore[override]
        for partition, offset in sorted(offsets.items()):
            self._scene.tell("broker", f"{partition.partition}: committed {offset}")
            self._scene.audit.commit(partition, self.get(partition, 0), offset)
        super().update(offsets)


class _Notes(dict[Partition, str]):
    """Shows what is noted beside commits before it counts."""

    def __init__(self, scene: Scene) -> None:
        super().__init__()
        self._scene = scene

    def update(self, notes: Mapping[Partition, str]) -> None:  # type: ignore[override]
        for partition, note in sorted(notes.items()):
            decided = read_note(self._scene.broker.committed[partition], note)
            if decided is not None:
                self._scene.audit.noted(partition, decided)
        super().update(notes)
