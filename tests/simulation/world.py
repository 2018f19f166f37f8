"""One run of one seed, from the first record to the audit."""

import asyncio
from collections.abc import Mapping
from random import Random

from spanferry_worker.testing import SimulatedLoop, StepsExhaustedError
from tests.simulation.apps import Apps
from tests.simulation.books import differences, is_told, is_undisturbed, statement
from tests.simulation.faults import Faults
from tests.simulation.plan import Plan, is_orderly
from tests.simulation.scene import Scene
from tests.simulation.workers import Workforce
from tests.simulation.workload import Workload

__all__ = ["World"]

_STEPS_MAX = 400_000
_END_S = 40.0
"""So long after the last fault everything must be over."""
_BOOKS_S = 36.0
"""After so long a worker has tried again to read or write the ledger."""
_LOOK_S = 0.05
"""How often memory is looked at."""


class World:
    """`run` once; afterwards `problems` says what was wrong, `history` what has happened."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._loop = SimulatedLoop(Random(f"order {plan.seed}"), steps_max=_STEPS_MAX)
        self._work = Workload(plan)
        self._scene = Scene(plan, self._loop)
        self._force = Workforce(self._scene, self._work.refused)
        self._audit = self._scene.audit
        self.history = self._scene.history

    @property
    def problems(self) -> list[str]:
        """Empty where all was well."""
        return self._audit.problems

    def run(self) -> None:
        """All of it."""
        try:
            self._loop.run_until_complete(self._run())
        except StepsExhaustedError as error:
            self._audit.problem(str(error))
        for worker in self._force.workers:
            self._loop.kill(worker.process)
        self._loop.run_until_complete(asyncio.sleep(0))
        for error in self._loop.errors:
            self._audit.problem(f"an exception nobody took: {error}")

    async def _run(self) -> None:
        plan, weather = self.plan, self._scene.weather
        weather.failing = plan.failing
        weather.lost_answers = plan.lost_answers
        weather.broken_off = plan.broken_off
        weather.deaths = dict(plan.deaths)
        weather.pauses = dict(plan.pauses)
        for _ in range(plan.workers):
            self._force.start()
        apps = Apps(self._scene, self._work)
        async with asyncio.TaskGroup() as group:
            group.create_task(apps.run())
            group.create_task(apps.junk())
            group.create_task(Faults(self._scene, self._force).run())
            group.create_task(self._memory())
        await self._to_the_end(apps)

    async def _memory(self) -> None:
        """Looked at often while records come."""
        while self._loop.time() < self.plan.faults_s:
            for worker in self._force.workers:
                self._audit.memory(worker.name, worker.pipeline, worker.log.polled_bytes_max)
            await asyncio.sleep(_LOOK_S)

    async def _to_the_end(self, apps: Apps) -> None:
        """All is well now: everything must be decided, and nothing held."""
        self._scene.tell("world", "all is well")
        self._scene.weather.clear()
        for worker in self._force.workers:
            worker.process.frozen = False
        if not any(not worker.stopping for worker in self._force.workers):
            self._force.start()
        end_s = self._loop.time() + _END_S
        while self._audit.uncommitted():
            await asyncio.sleep(0.1)
            if self._loop.time() > end_s:
                self._audit.problem(f"no end: {self._audit.uncommitted()}")
                break
        self._scene.tell("world", "the end")
        self._audit.at_the_end(self._work.refused)
        await self._books(apps.produced())
        if is_orderly(self.plan):
            self._audit.in_order()
        await self._let_go(end_s)
        await self._stop_all()

    async def _books(self, produced: Mapping[bytes, int]) -> None:
        """What the ledger could not be told when it was to be is told in the end."""
        end_s = self._loop.time() + _BOOKS_S
        while True:
            told = statement(self._scene)
            # Who writes it when another one has the partition already takes back what that one wrote.
            known = is_told(self.plan)
            wrong = list(differences(told, produced)) if known else []
            if not wrong or self._loop.time() > end_s:
                break
            await asyncio.sleep(1.0)
        self._audit.books(
            told, undisturbed=is_undisturbed(self.plan), right_clocks=not self.plan.jumps
        )
        for one in wrong:
            self._audit.problem(one)

    async def _let_go(self, end_s: float) -> None:
        """A write whose partition went elsewhere may still be under way; then nobody holds anything."""
        for worker in [each for each in self._force.workers if not each.stopping]:
            while held := worker.pipeline.intake.held_bytes:
                if self._loop.time() > end_s:
                    self._audit.problem(f"{worker.name} holds {held} bytes of nothing")
                    break
                await asyncio.sleep(0.1)

    async def _stop_all(self) -> None:
        rest = list(self._force.workers)
        for worker in rest:
            worker.pipeline.stop()
        if rest:
            tasks = [worker.task for worker in rest if worker.task is not None]
            await asyncio.wait(tasks, timeout=_END_S)
        for worker in rest:
            if worker.task is None or not worker.task.done():
                self._audit.problem(f"{worker.name} does not stop")
            self._loop.kill(worker.process)
