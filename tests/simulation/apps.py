"""The apps of a run: they send what the workload says, when it says so."""

from spanferry_schemas import Assessment, RecordKind, assessment_key, encode
from spanferry_worker.stages.trace import Position
from tests.simulation.scene import Scene
from tests.simulation.shapes import Facts, Sending
from tests.simulation.workload import App, Workload

__all__ = ["Apps"]

_APPS = 10
_REPORTS = 0.05
"""After so many of its records an app says how many it has sent, and at the end."""


class Apps:
    """All of them; two tasks, `run` and `junk`."""

    def __init__(self, scene: Scene, work: Workload) -> None:
        self._scene = scene
        self._work = work
        self._apps = [App(n, scene.plan.partitions, scene.broker.produce) for n in range(_APPS)]
        if scene.plan.jumps:
            for app in self._apps:
                app.clock_s = scene.chance.choice((0.0, -3_600.0, 3_600.0, -0.5))

    def produced(self) -> dict[bytes, int]:
        """How many numbers each app that has sent anything has given to its records."""
        return {app.producer_id: app.produced for app in self._apps if app.produced}

    async def run(self) -> None:
        pieces: list[tuple[float, int, Sending, bytes]] = []
        for order, sending in enumerate(self._work.sendings):
            made = self._work.pieces(sending)
            for index, value in made:
                at_s = sending.at_s + index * sending.spread_s
                pieces.append((at_s, order, sending, value))
            sending.facts.may_die |= len(made) > 1
        pieces.sort(key=lambda each: each[:2])
        for at_s, order, sending, value in pieces:
            await self._scene.until(at_s)
            self._send(sending, value, order)
            if self._scene.chance.random() < _REPORTS:
                self._report(self._apps[sending.app])
        for app in self._apps:
            if app.produced:
                self._report(app)

    def _report(self, app: App) -> None:
        """It has no number, and goes where its key leads it."""
        report = app.report(self._scene.loop.time())
        place = self._scene.broker.produce(encode(report), key=app.producer_id)
        self._scene.audit.produced(place, Facts(report))
        self._scene.tell("app", f"{_at(place)}: report {report.acknowledged}")

    def _send(self, sending: Sending, value: bytes, order: int) -> None:
        app, event = self._apps[sending.app], sending.event
        if self._scene.plan.jumps and self._scene.chance.random() < 0.1:
            app.clock_s += self._scene.chance.choice((-60.0, 60.0, -0.3))
        key = event.trace_id
        if isinstance(event, Assessment) and key is None:
            key = assessment_key(event.client_request_id or "")
        assert key is not None
        kind = RecordKind.ASSESSMENT if isinstance(event, Assessment) else RecordKind.FRAGMENT
        times = 1 + sending.again
        for place in app.send(value, key, kind, self._scene.loop.time(), times=times):
            self._scene.audit.produced(place, sending.facts, order)
            self._scene.tell(
                f"app-{sending.app}", f"{_at(place)}: {_words(event)}, {len(value)} bytes"
            )

    async def junk(self) -> None:
        for at_s, value in sorted(self._work.junk, key=lambda each: each[0]):
            await self._scene.until(at_s)
            place = self._scene.broker.produce(value, key=self._scene.chance.randbytes(16))
            self._scene.audit.produced(place, Facts(None, must_die=True))
            self._scene.tell("app", f"{_at(place)}: junk")


def _at(place: Position) -> str:
    return f"{place.partition}/{place.offset}"


def _words(event: object) -> str:
    fields = [f"{name}={getattr(event, name)!r}" for name in ("end",) if getattr(event, name, None)]
    trace_id = getattr(event, "trace_id", None)
    spans = [span.name for span in getattr(event, "spans", ())]
    named = "by request" if trace_id is None else f"trace {int.from_bytes(trace_id)}"
    return " ".join([type(event).__name__.lower(), named, *spans, *fields])
