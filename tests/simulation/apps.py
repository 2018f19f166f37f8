"""The apps of a run: they send what the workload says, when it says so."""

from collections.abc import Iterator

from msgspec import Struct

from spanferry_schemas import Assessment, RecordKind, assessment_key, encode
from spanferry_worker.stages.trace import Position
from tests.simulation.scene import Scene
from tests.simulation.shapes import Facts, Sending
from tests.simulation.workload import App, Numbered, Workload

__all__ = ["Apps"]

_APPS = 10
_REPORTS = 0.05
"""After so many of its records an app says how many it has sent, and at the end."""


class _Piece(Struct):
    """The value of one record."""

    sending: Sending
    order: int
    value: bytes
    record: Numbered | None = None


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
        for at_s, _, piece, arrives in sorted(self._agenda(), key=lambda each: each[:2]):
            await self._scene.until(at_s)
            if piece.record is None:
                piece.record = self._numbered(piece)
            if arrives:
                self._deliver(piece, piece.record)
            if self._scene.chance.random() < _REPORTS:
                self._report(self._apps[piece.sending.app])
        for app in self._apps:
            if app.produced:
                self._report(app)

    def _agenda(self) -> Iterator[tuple[float, int, _Piece, bool]]:
        """What is done when: a piece gets its number first, and arrives then, or later, or twice."""
        for order, sending in enumerate(self._work.sendings):
            made = self._work.pieces(sending)
            sending.facts.may_die |= len(made) > 1
            for index, value in made:
                piece = _Piece(sending, order, value)
                at_s = sending.at_s + index * sending.spread_s
                yield at_s, order, piece, not sending.late_s
                if sending.late_s:
                    yield at_s + sending.late_s, order, piece, True
                if sending.again_s is not None:
                    yield at_s + sending.late_s + sending.again_s, order, piece, True

    def _report(self, app: App) -> None:
        """It has no number, and goes where its key leads it."""
        report = app.report(self._scene.loop.time())
        place = self._scene.broker.produce(encode(report), key=app.producer_id)
        self._scene.audit.produced(place, Facts(report))
        self._scene.tell("app", f"{_at(place)}: report {report.acknowledged}")

    def _numbered(self, piece: _Piece) -> Numbered:
        app, event = self._apps[piece.sending.app], piece.sending.event
        if self._scene.plan.jumps and self._scene.chance.random() < 0.1:
            jump_s = self._scene.chance.choice((-60.0, 60.0, -0.3))
            app.clock_s += jump_s
            self._scene.tell(f"app-{piece.sending.app}", f"its clock jumps by {jump_s:+} s")
        key = event.trace_id
        if isinstance(event, Assessment) and key is None:
            key = assessment_key(event.client_request_id or "")
        assert key is not None
        kind = RecordKind.ASSESSMENT if isinstance(event, Assessment) else RecordKind.FRAGMENT
        return app.number(piece.value, key, kind, self._scene.loop.time())

    def _deliver(self, piece: _Piece, record: Numbered) -> None:
        sending = piece.sending
        place, word = self._apps[sending.app].deliver(record)
        self._scene.audit.produced(place, sending.facts, piece.order)
        what = f"{_words(sending.event)}, {len(piece.value)} bytes{word}{sending.note}"
        self._scene.tell(f"app-{sending.app}", f"{_at(place)}: {what}")

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
