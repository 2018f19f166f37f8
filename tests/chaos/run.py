"""A run: the scene under faults until all traces are made and settled; then the account."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

from benchmarks.machine import conditions
from tests.chaos.account import LedgerTotals, count_kafka, ledger_totals, take_stock
from tests.chaos.actions import act
from tests.chaos.faults import Fault, Plan, Subject, schedule
from tests.chaos.journal import Life
from tests.chaos.junk import Junk
from tests.chaos.report import Happened, Report
from tests.chaos.scene import Scene
from tests.services.process import ServiceError

__all__ = ["run"]

LOOK_S = 0.5
POOL = 16
SETTLE_S = 600.0
SPARE = 0.01
"""More than asked for, because kill -9 takes some of the last ones."""
SUMMED = (
    "traces",
    "traces_sent",
    "traces_spooled",
    "traces_dropped",
    "records_sent",
    "spool_refused",
)

Say = Callable[[str], None]


def run(plan: Plan, say: Say) -> Report:
    """All of it; `say` gets a line for each thing that happens. Raises what stops a run."""
    with Scene(plan) as scene:
        try:
            return _run(scene, say)
        except BaseException:
            say(scene.log_tails())
            raise


def _run(scene: Scene, say: Say) -> Report:
    plan = scene.plan
    where = conditions("mlflow", "aiokafka")
    begun = time.monotonic()
    junk = Junk(scene.kafka.bootstrap_servers, scene.topic, plan)
    with _Faults(scene, say) as faults, junk:
        faults.begin(schedule(plan))
        wanted = int(plan.traces * (1 + SPARE))
        while sum(producer.made for producer in scene.producers) < wanted:
            time.sleep(LOOK_S)
        faults.wait({Subject.PRODUCER, Subject.DISK})
        lives = _end_of_load(scene)
        ended = time.monotonic()
        say(f"{ended - begun:6.1f}s  the load is over")
        happened = faults.wait(set(Subject))
    ledger = _settled(scene)
    settled = time.monotonic()
    say(f"{settled - begun:6.1f}s  nothing is in flight")
    account = take_stock(scene, lives)
    say(f"{time.monotonic() - begun:6.1f}s  looked up through MLflow's API")
    return Report(
        conditions=where,
        plan=plan,
        partitions=scene.partitions,
        load_s=round(ended - begun, 1),
        settled_s=round(settled - ended, 1),
        faults=happened,
        account=account,
        letters=_letters(scene),
        ledger=ledger,
        kafka=count_kafka(scene),
        producers=_summed(lives),
    )


class _Faults:
    """Does one after another. Of a subject the next one waits until the one before is healed."""

    def __init__(self, scene: Scene, say: Say) -> None:
        self._scene = scene
        self._say = say
        self._begun = time.monotonic()
        self._busy: dict[tuple[Subject, int], threading.Lock] = {}
        self._happened: list[Happened] = []
        self._pool = ThreadPoolExecutor(POOL)
        self._under_way: list[tuple[Fault, Future[None]]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def begin(self, faults: list[Fault]) -> None:
        """Until the last one has begun. Raises what did not heal until then."""
        for fault in faults:
            time.sleep(max(0.0, self._begun + fault.at_s - time.monotonic()))
            locks = self._locks(fault)
            for lock in locks:
                lock.acquire()
            for _, done in self._under_way:
                if done.done():
                    done.result()
            self._under_way.append((fault, self._pool.submit(self._one, fault, locks)))

    def wait(self, subjects: set[Subject]) -> list[Happened]:
        """Until those of these subjects are healed: what has happened so far. Raises what did not heal."""
        for fault, done in self._under_way:
            if fault.subject in subjects:
                done.result()
        return sorted(self._happened, key=lambda one: one.number)

    def _one(self, fault: Fault, locks: list[threading.Lock]) -> None:
        at = time.monotonic()
        try:
            what = act(self._scene, fault)
        except Exception as error:
            self._say(f"{at - self._begun:6.1f}s  {fault.kind.value} did not heal: {error}")
            raise
        finally:
            for lock in locks:
                lock.release()
        healed_s = time.monotonic() - at
        self._say(f"{at - self._begun:6.1f}s  {fault.kind.value}: {what}; {healed_s:.1f} s")
        self._happened.append(
            Happened(
                number=fault.number,
                kind=fault.kind,
                what=what,
                at_s=round(at - self._begun, 1),
                hold_s=fault.hold_s,
                healed_s=round(healed_s, 1),
            )
        )

    def _locks(self, fault: Fault) -> list[threading.Lock]:
        workers = [(Subject.WORKER, number) for number in range(self._scene.plan.workers)]
        match fault.subject:
            case Subject.WORKER:
                busy = [workers[fault.target]]
            case Subject.WORKERS:
                busy = workers
            case Subject.PRODUCER:
                busy = [(Subject.PRODUCER, fault.target)]
            case one:
                busy = [(one, 0)]
        return [self._busy.setdefault(one, threading.Lock()) for one in busy]


def _end_of_load(scene: Scene) -> list[Life]:
    """Stop the producers, and send what is still in their spools."""
    with ThreadPoolExecutor(len(scene.producers)) as pool:
        for _ in pool.map(lambda producer: producer.finish(), scene.producers):
            pass
    lives = [life for producer in scene.producers for life in producer.lives()]
    for producer in scene.producers:
        last = producer.lives()[-1]
        if last.account is None or not last.account["flushed"]:
            raise ServiceError(f"a producer did not flush in the end\n{producer.log_tail()}")
        if producer.spool.exists():
            scene.spanferry("spool", "replay", "--dir", str(producer.spool))
    return lives


def _settled(scene: Scene) -> LedgerTotals:
    """What the ledger says once nothing is in flight, and twice the same."""
    deadline = time.monotonic() + SETTLE_S
    before: LedgerTotals | None = None
    while True:
        ledger = ledger_totals(scene)
        if (ledger == before and not ledger.in_flight) or time.monotonic() > deadline:
            return ledger
        before = ledger
        time.sleep(LOOK_S)


def _letters(scene: Scene) -> dict[str, int]:
    said = scene.spanferry("dlq", "list", "--json", codes=(0, 1)).splitlines()
    letters = map(json.loads, said)
    reasons = {
        (one["origin"]["partition"], one["origin"]["offset"]): one["reason"] for one in letters
    }
    return dict(Counter(reasons.values()))


def _summed(lives: list[Life]) -> dict[str, int]:
    accounts = [life.account for life in lives if life.account is not None]
    summed = {name: sum(account[name] for account in accounts) for name in SUMMED}
    full = sum(account["dropped"]["buffer_full"] for account in accounts)
    return {**summed, "dropped_full": full}
