"""A world of one broker, one store, the dead letters, apps, and workers that come, die and stand still."""

import asyncio
import random
from collections.abc import Mapping, Sequence
from random import Random

from spanferry_schemas import Assessment, RecordKind, assessment_key
from spanferry_worker.ports import DeadLetter, Partition
from spanferry_worker.runtime.parts import Parts
from spanferry_worker.runtime.pipeline import Pipeline
from spanferry_worker.services.metrics import Metrics
from spanferry_worker.stages.trace import AssembledTrace, Position
from spanferry_worker.testing import (
    GroupLog,
    MemoryBroker,
    MemoryGroup,
    MemorySink,
    SimulatedLoop,
    SimulatedProcess,
    StepsExhaustedError,
)
from tests.simulation.audit import Audit
from tests.simulation.history import History
from tests.simulation.plan import Incident, Plan
from tests.simulation.ports import (
    LettersPort,
    SimulatedClock,
    SimulatedWire,
    SinkPort,
    WatchedSampler,
    Weather,
)
from tests.simulation.workload import App, Facts, Sending, Workload

__all__ = ["World"]

_METRICS = Metrics()
"""One for all: nothing in the worker reads them, and making them takes longer than a small run."""
_END_S = 40.0
"""So long after the last fault everything must be over."""


class Worker:
    """One worker process."""

    def __init__(self, name: str, process: SimulatedProcess) -> None:
        self.name = name
        self.process = process
        self.log: GroupLog
        self.pipeline: Pipeline
        self.task: asyncio.Task[None]
        self.stopping = False


class Broker(MemoryBroker):
    """A broker that shows every commit before it counts."""

    def __init__(self, world: "World", partitions: int) -> None:
        super().__init__(SimulatedClock(world.loop, 0.0), topic="traces", partitions=partitions)
        self.committed = _Committed(world)


class _Committed(dict[Partition, int]):
    def __init__(self, world: "World") -> None:
        super().__init__()
        self._world = world

    def update(self, offsets: Mapping[Partition, int]) -> None:  # type: ignore[override]
        for partition, offset in sorted(offsets.items()):
            self._world.tell("broker", f"{partition.partition}: committed {offset}")
            self._world.audit.commit(partition, self.get(partition, 0), offset)
        super().update(offsets)


class World:
    """One run of one seed. `run` once; afterwards `audit.problems` says what was wrong."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.history = History()
        self.loop = SimulatedLoop(Random(f"order {plan.seed}"), steps_max=400_000)
        self.weather = Weather(Random(f"weather {plan.seed}"))
        self.work = Workload(plan)
        self.decisions: dict[object, object] = {}
        self.workers: list[Worker] = []
        self._started = 0
        self._chance = Random(f"world {plan.seed}")
        self._healing = False

    def run(self) -> None:
        """All of it."""
        try:
            self.loop.run_until_complete(self._run())
        except StepsExhaustedError as error:
            self.audit.problem(str(error))
        for worker in self.workers:
            self.loop.kill(worker.process)
        self.loop.run_until_complete(asyncio.sleep(0))
        for error in self.loop.errors:
            self.audit.problem(f"an exception nobody took: {error}")

    def tell(self, who: str, what: str) -> None:
        """Note what has happened."""
        self.history.add(round(self.loop.time(), 6), who, what)

    async def _run(self) -> None:
        plan = self.plan
        self.broker = Broker(self, plan.partitions)
        kafka = plan.settings.kafka
        self.group = MemoryGroup(
            self.broker,
            session_s=kafka.session_timeout_s,
            rebalance_s=kafka.rebalance_timeout_s,
        )
        self.store = MemorySink()
        self.audit = Audit(self.broker, self.store, self.tell)
        self.apps = [App(n, plan.partitions, self.broker.produce) for n in range(10)]
        if plan.jumps:
            for app in self.apps:
                app.clock_s = self._chance.choice((0.0, -3_600.0, 3_600.0, -0.5))
        self.weather.failing = plan.failing
        self.weather.lost_answers = plan.lost_answers
        self.weather.broken_off = plan.broken_off
        self.weather.deaths = dict(plan.deaths)
        self.weather.pauses = dict(plan.pauses)
        for _ in range(plan.workers):
            self.start_worker()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._apps())
            group.create_task(self._junk())
            group.create_task(self._faults())
            group.create_task(self._memory())
        await self._to_the_end()

    # --- apps

    async def _until(self, at_s: float) -> None:
        await asyncio.sleep(max(0.0, at_s - self.loop.time()))

    async def _apps(self) -> None:
        pieces: list[tuple[float, int, Sending, bytes]] = []
        for order, sending in enumerate(self.work.sendings):
            made = self.work.pieces(sending)
            for index, value in made:
                at_s = sending.at_s + index * sending.spread_s
                pieces.append((at_s, order, sending, value))
            sending.facts.may_die |= len(made) > 1
        pieces.sort(key=lambda each: each[:2])
        for at_s, order, sending, value in pieces:
            await self._until(at_s)
            self._send(sending, value, order)

    def _send(self, sending: Sending, value: bytes, order: int) -> None:
        app, event = self.apps[sending.app], sending.event
        if self.plan.jumps and self._chance.random() < 0.1:
            app.clock_s += self._chance.choice((-60.0, 60.0, -0.3))
        key = event.trace_id
        if isinstance(event, Assessment) and key is None:
            key = assessment_key(event.client_request_id or "")
        assert key is not None
        kind = RecordKind.ASSESSMENT if isinstance(event, Assessment) else RecordKind.FRAGMENT
        times = 1 + sending.again
        for place in app.send(value, key, kind, self.loop.time(), times=times):
            self.audit.produced(place, sending.facts, order)
            self.tell(f"app-{sending.app}", f"{_at(place)}: {_words(event)}, {len(value)} bytes")

    async def _junk(self) -> None:
        for at_s, value in sorted(self.work.junk, key=lambda each: each[0]):
            await self._until(at_s)
            place = self.broker.produce(value, key=self._chance.randbytes(16))
            self.audit.produced(place, Facts(None, must_die=True))
            self.tell("app", f"{_at(place)}: junk")

    # --- workers

    def start_worker(self) -> Worker:
        """One more process."""
        self._started += 1
        name = f"worker-{self._started}"
        worker = Worker(name, self.loop.process(name))
        weather, settings = self.weather, self.plan.settings
        wire = SimulatedWire(
            worker.process,
            weather,
            die=lambda what: self.crash(worker, what),
            pause=lambda what: self._pause(worker, 1.5, what),
        )
        sink = MemorySink(concurrency=self.plan.concurrency, particular=True, beside=self.store)
        sink.poison = lambda trace: trace.trace_id in self.work.refused
        wrong_s = self._chance.choice((0.0, -3_600.0, 0.7)) if self.plan.jumps else 0.0
        worker.log = GroupLog(self.group, heartbeat_s=settings.kafka.heartbeat_s, wire=wire)
        parts = Parts(
            log=worker.log,
            sink=SinkPort(wire, weather, sink, lambda w, b: self.tell("store", f"{w}: {_all(b)}")),
            letters=LettersPort(wire, weather, lambda letters: self._letters(name, letters)),
            clock=SimulatedClock(self.loop, wrong_s),
            metrics=_METRICS,
            chance=random.Random(self._started),
        )
        worker.pipeline = self.make_pipeline(parts)
        intake = worker.pipeline.intake
        intake._sampler = WatchedSampler(
            intake._sampler, self.decisions, self.audit.sampled, self.audit.problem
        )
        self.workers.append(worker)
        self.tell(name, "started")
        worker.task = worker.process.run(self._life(worker))
        return worker

    def make_pipeline(self, parts: Parts) -> Pipeline:
        """The real one; a test of the simulation itself breaks it here."""
        return Pipeline(parts, self.plan.settings)

    async def _life(self, worker: Worker) -> None:
        try:
            await worker.pipeline.run()
        except Exception as error:
            self.audit.problem(f"{worker.name} ended: {error!r}")
        self.tell(worker.name, "ended")
        if worker in self.workers:
            self.workers.remove(worker)

    def _letters(self, name: str, letters: Sequence[DeadLetter]) -> None:
        for letter in letters:
            self.audit.letter(letter)
            record = letter.record
            self.tell(name, f"dead letter of {record.partition}/{record.offset}: {letter.reason}")

    def crash(self, worker: Worker, why: str) -> None:
        """As kill -9, and a new process after a while."""
        if not worker.process.alive:
            return
        self.tell(worker.name, f"killed ({why})")
        self.workers.remove(worker)
        self.loop.kill(worker.process)
        self._later(self._chance.uniform(0.0, 0.6), self.start_worker)

    def _later(self, delay_s: float, act: object) -> None:
        self.loop.call_later(delay_s, act, context=self._context())  # type: ignore[arg-type]

    def _context(self) -> object:
        return self.loop.world._context.copy()

    # --- faults

    async def _faults(self) -> None:
        for incident in self.plan.incidents:
            await self._until(incident.at_s)
            # Between any two steps, not only where time passes.
            for _ in range(self._chance.choice((0, 0, 1, 3, 9))):
                await asyncio.sleep(0)
            self._strike(incident)
        await self._until(self.plan.faults_s)

    def _strike(self, incident: Incident) -> None:
        kind, whom = incident.kind, incident.whom
        place, _, trouble = kind.partition("_")
        if trouble in {"away", "slow"}:
            self.tell("world", f"{kind} for {incident.lasts_s:.2f} s")
            self._trouble(place, trouble, incident.lasts_s)
        elif kind == "rebalance":
            self.tell("world", kind)
            self.group.rebalance()
        elif kind == "join":
            self.start_worker()
        elif self.workers:
            worker = self.workers[whom % len(self.workers)]
            self._hit(worker, kind, incident.lasts_s)

    def _trouble(self, place: str, trouble: str, lasts_s: float) -> None:
        weather = self.weather
        if trouble == "slow":
            weather.slow_s = lasts_s
            self._later(lasts_s, lambda: setattr(weather, "slow_s", 0.0))
        else:
            weather.away.add(place)
            self._later(lasts_s, lambda: weather.away.discard(place))

    def _hit(self, worker: Worker, kind: str, lasts_s: float) -> None:
        if kind == "crash":
            self.crash(worker, "by the plan")
        elif kind == "expel":
            self.tell(worker.name, "expelled from the group")
            self.group.expel(worker.log._member_id)
        elif kind == "stop":
            self.tell(worker.name, "told to stop")
            worker.stopping = True
            worker.pipeline.stop()
            self._later(self._chance.uniform(0.0, 0.6), self.start_worker)
        else:
            self._pause(worker, lasts_s if kind == "freeze" else lasts_s + 1.0, "by the plan")

    def _pause(self, worker: Worker, lasts_s: float, why: str) -> None:
        """As SIGSTOP, and SIGCONT after a while."""
        self.tell(worker.name, f"stands still for {lasts_s:.2f} s ({why})")
        worker.process.frozen = True
        self._later(lasts_s, lambda: setattr(worker.process, "frozen", False))

    # --- the end

    async def _to_the_end(self) -> None:
        """All is well now: everything must be decided, and nothing held."""
        self.tell("world", "all is well")
        self.weather.clear()
        for worker in self.workers:
            worker.process.frozen = False
        if not any(not worker.stopping for worker in self.workers):
            self.start_worker()
        end_s = self.loop.time() + _END_S
        while not self.audit.all_committed():
            await asyncio.sleep(0.1)
            if self.loop.time() > end_s:
                self.audit.problem(f"no end: {self.audit.uncommitted()}")
                break
        self.tell("world", "the end")
        self.audit.at_the_end(self.work.refused)
        await self._let_go(end_s)
        await self._stop_all()

    async def _let_go(self, end_s: float) -> None:
        """A write whose partition went elsewhere may still be under way; then nobody holds anything."""
        for worker in [each for each in self.workers if not each.stopping]:
            while held := worker.pipeline.intake.held_bytes:
                if self.loop.time() > end_s:
                    self.audit.problem(f"{worker.name} holds {held} bytes of nothing")
                    break
                await asyncio.sleep(0.1)

    async def _stop_all(self) -> None:
        rest = list(self.workers)
        for worker in rest:
            worker.pipeline.stop()
        if rest:
            await asyncio.wait([worker.task for worker in rest], timeout=_END_S)
        for worker in rest:
            if not worker.task.done():
                self.audit.problem(f"{worker.name} does not stop")
            self.loop.kill(worker.process)

    async def _memory(self) -> None:
        """Looked at often while records come."""
        while self.loop.time() < self.plan.faults_s:
            for worker in self.workers:
                self.audit.memory(worker.name, worker.pipeline, worker.log.polled_bytes_max)
            await asyncio.sleep(0.05)


def _at(place: Position) -> str:
    return f"{place.partition}/{place.offset}"


def _words(event: object) -> str:
    fields = [f"{name}={getattr(event, name)!r}" for name in ("end",) if getattr(event, name, None)]
    trace_id = getattr(event, "trace_id", None)
    spans = [span.name for span in getattr(event, "spans", ())]
    named = "by request" if trace_id is None else f"trace {int.from_bytes(trace_id)}"
    return " ".join([type(event).__name__.lower(), named, *spans, *fields])


def _all(batch: Sequence[AssembledTrace]) -> str:
    return ", ".join(
        f"{'by request' if t.trace_id is None else int.from_bytes(t.trace_id)} ({t.reason}, "
        f"{' '.join(span.name for span in t.spans)})"
        for t in batch
    )
