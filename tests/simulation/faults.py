"""The faults of a run, as its plan has them."""

import asyncio

from tests.simulation.plan import Incident
from tests.simulation.scene import Scene
from tests.simulation.workers import Worker, Workforce

__all__ = ["Faults"]


class Faults:
    """One task: every incident at its time."""

    def __init__(self, scene: Scene, force: Workforce) -> None:
        self._scene = scene
        self._force = force

    async def run(self) -> None:
        for incident in self._scene.plan.incidents:
            await self._scene.until(incident.at_s)
            # Between any two steps, not only where time passes.
            for _ in range(self._scene.chance.choice((0, 0, 1, 3, 9))):
                await asyncio.sleep(0)
            self._strike(incident)
        await self._scene.until(self._scene.plan.faults_s)

    def _strike(self, incident: Incident) -> None:
        kind, whom = incident.kind, incident.whom
        place, _, trouble = kind.partition("_")
        if trouble in {"away", "slow"}:
            self._scene.tell("world", f"{kind} for {incident.lasts_s:.2f} s")
            self._trouble(place, trouble, incident.lasts_s)
        elif kind == "rebalance":
            self._scene.tell("world", kind)
            self._scene.group.rebalance()
        elif kind == "join":
            self._force.start()
        elif self._force.workers:
            worker = self._force.workers[whom % len(self._force.workers)]
            self._hit(worker, kind, incident.lasts_s)

    def _trouble(self, place: str, trouble: str, lasts_s: float) -> None:
        weather = self._scene.weather
        if trouble == "slow":
            weather.slow_s = lasts_s
            self._scene.later(lasts_s, lambda: setattr(weather, "slow_s", 0.0))
        else:
            weather.away.add(place)
            self._scene.later(lasts_s, lambda: weather.away.discard(place))

    def _hit(self, worker: Worker, kind: str, lasts_s: float) -> None:
        if kind == "crash":
            self._force.crash(worker, "by the plan")
        elif kind == "expel":
            self._scene.tell(worker.name, "expelled from the group")
            self._scene.group.expel(worker.log._member_id)
        elif kind == "stop":
            self._force.stop(worker)
        else:
            self._force.pause(worker, lasts_s if kind == "freeze" else lasts_s + 1.0, "by the plan")
