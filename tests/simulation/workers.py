"""The workers of a run: the real pipeline in simulated processes that come, die and stand still."""

import asyncio  # noqa: TC003
import random
from collections.abc import Sequence

from spanferry_worker.ports import DeadLetter
from spanferry_worker.runtime.parts import Parts
from spanferry_worker.runtime.pipeline import Pipeline
from spanferry_worker.services.metrics import Metrics
from spanferry_worker.stages.giants import OVERLOAD_KEY
from spanferry_worker.stages.trace import AssembledTrace
from spanferry_worker.testing import GroupLog, MemorySink, SimulatedProcess
from tests.simulation.ports import (
    DroppedPort,
    LedgerPort,
    LettersPort,
    SimulatedClock,
    SimulatedWire,
    SinkPort,
    WatchedSampler,
)
from tests.simulation.scene import Scene

__all__ = ["Worker", "Workforce"]

_METRICS = Metrics()
"""One for all: nothing in the worker reads them, and making them takes longer than a small run."""


class Worker:
    """One worker process."""

    def __init__(self, name: str, process: SimulatedProcess) -> None:
        self.name = name
        self.process = process
        self.log: GroupLog
        self.pipeline: Pipeline
        self.task: asyncio.Task[None] | None = None
        self.stopping = False


class Workforce:
    """Starts them, and does to them what the faults want. `refused`: traces that the store never takes."""

    def __init__(self, scene: Scene, refused: set[bytes]) -> None:
        self._scene = scene
        self._refused = refused
        self._decisions: dict[object, object] = {}
        self._started = 0
        self.workers: list[Worker] = []
        """Who is alive."""

    def start(self) -> Worker:
        """One more process."""
        self._started += 1
        name = f"worker-{self._started}"
        worker = Worker(name, self._scene.loop.process(name))
        weather, settings = self._scene.weather, self._scene.plan.settings
        wire = SimulatedWire(
            worker.process,
            weather,
            die=lambda what: self.crash(worker, what),
            pause=lambda what: self.pause(worker, 1.5, what),
            unheard=lambda what: self._scene.tell(name, f"no answer ({what})"),
        )
        sink = MemorySink(
            concurrency=self._scene.plan.concurrency, particular=True, beside=self._scene.store
        )
        sink.poison = lambda trace: trace.trace_id in self._refused
        wrong_s = self._scene.chance.choice((0.0, -3_600.0, 0.7)) if self._scene.plan.jumps else 0.0
        worker.log = GroupLog(self._scene.group, heartbeat_s=settings.kafka.heartbeat_s, wire=wire)
        parts = Parts(
            log=worker.log,
            sink=SinkPort(
                wire, weather, sink, lambda w, b: self._scene.tell("store", f"{w}: {_all(b)}")
            ),
            letters=LettersPort(wire, weather, lambda letters: self._letters(name, letters)),
            ledger=LedgerPort(wire, weather, self._scene.ledger),
            clock=SimulatedClock(self._scene.loop, wrong_s),
            metrics=_METRICS,
            chance=random.Random(self._started),
            dropped=DroppedPort(wire, self._scene.dropped, lambda w: self._scene.tell(name, w)),
        )
        worker.pipeline = self.make_pipeline(parts)
        decider = worker.pipeline.intake.decider
        decider._live = WatchedSampler(
            decider._live, self._decisions, self._scene.audit.sampled, self._scene.audit.problem
        )
        self.workers.append(worker)
        self._scene.tell(name, f"started, its clock {wrong_s:+} s wrong" if wrong_s else "started")
        worker.task = worker.process.run(self._life(worker))
        return worker

    def make_pipeline(self, parts: Parts) -> Pipeline:
        """The real one; a test of the simulation itself breaks it here."""
        return Pipeline(parts, self._scene.plan.settings)

    async def _life(self, worker: Worker) -> None:
        try:
            await worker.pipeline.run()
        except Exception as error:
            self._scene.audit.problem(f"{worker.name} ended: {error!r}")
        self._scene.tell(worker.name, "ended")
        if worker in self.workers:
            self.workers.remove(worker)

    def _letters(self, name: str, letters: Sequence[DeadLetter]) -> None:
        for letter in letters:
            self._scene.audit.letter(letter)
            record = letter.record
            self._scene.tell(
                name, f"dead letter of {record.partition}/{record.offset}: {letter.reason}"
            )

    def crash(self, worker: Worker, why: str) -> None:
        """As kill -9, and a new process after a while."""
        if not worker.process.alive:
            return
        self._scene.tell(worker.name, f"killed ({why})")
        self.workers.remove(worker)
        self._scene.loop.kill(worker.process)
        self._scene.later(self._scene.chance.uniform(0.0, 0.6), self.start)

    def pause(self, worker: Worker, lasts_s: float, why: str) -> None:
        """As SIGSTOP, and SIGCONT after a while."""
        self._scene.tell(worker.name, f"stands still for {lasts_s:.2f} s ({why})")
        worker.process.frozen = True
        self._scene.later(lasts_s, lambda: setattr(worker.process, "frozen", False))

    def stop(self, worker: Worker) -> None:
        """As SIGTERM, and a new process after a while."""
        self._scene.tell(worker.name, "told to stop")
        worker.stopping = True
        worker.pipeline.stop()
        self._scene.later(self._scene.chance.uniform(0.0, 0.6), self.start)


def _all(batch: Sequence[AssembledTrace]) -> str:
    return ", ".join(
        f"{'by request' if t.trace_id is None else int.from_bytes(t.trace_id)} ({t.reason}{_marks(t)}, "
        f"{' '.join(span.name for span in t.spans)})"
        for t in batch
    )


def _marks(trace: AssembledTrace) -> str:
    metadata = trace.trace.metadata
    cut = " cut" if OVERLOAD_KEY in metadata else ""
    return cut + (" restored" if metadata.get("spanferry.sampling.reason") == "restored" else "")
