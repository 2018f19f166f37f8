"""Traces of every kind that simulated apps send, as events with their times."""

import uuid
from collections.abc import Iterator
from random import Random

from msgspec import Struct

from spanferry_schemas import (
    Attachment,
    End,
    Event,
    Fragment,
    Span,
    StatusCode,
    TracePart,
    encode,
    split_value,
)
from tests.worker.events import T0_MS, feedback, number

__all__ = ["TURN", "Facts", "Sending", "Shapes", "cut"]

TURN = "turn"
"""A tag that every part of a trace sets anew."""
_LARGE = 500
"""Bytes of a payload that needs chunks where records are small."""


class Facts(Struct):
    """What a record says, so that one can look whether it has arrived."""

    event: Event | None = None
    must_die: bool = False
    """Only the dead letters can take it."""
    may_die: bool = False
    """... may take it as well: its trace is refused or never comes, or its pieces came too slowly."""


class Sending(Struct):
    """An event on its way: when, by which app, and what it carries."""

    at_s: float
    app: int
    event: Event
    facts: Facts
    late_s: float = 0.0
    """From its number to its place in Kafka, as where it waits on disk: others overtake it."""
    again_s: float | None = None
    """It comes once more under the same number so much later, as after a lost answer."""
    note: str = ""
    lost_piece: int | None = None
    spread_s: float = 0.0
    """By how much the pieces of a value that is cut lie apart."""


def cut(event: Event, group_id: bytes, record_bytes_max: int) -> list[bytes]:
    """The record values of an event."""
    return list(
        split_value(
            encode(event),
            trace_id=event.trace_id or b"k" * 16,
            group_id=group_id,
            record_bytes_max=record_bytes_max,
        )
    )


class Shapes:
    """Draws them from `chance`. `refused`: traces that the store never takes."""

    def __init__(self, chance: Random, record_bytes_max: int) -> None:
        self._chance = chance
        self._record_bytes_max = record_bytes_max
        self._names = 0
        self.refused: set[bytes] = set()
        self._all = (
            self._whole, self._whole, self._in_parts, self._of_services, self._large, self._large,
            self._unfinished, self._judged, self._refused, self._giant, self._tagged,
        )  # fmt: skip

    def draw(self, trace_id: bytes, at_s: float) -> Iterator[Sending]:
        """A trace of one of these kinds, from about that time on."""
        return self._chance.choice(self._all)(trace_id, at_s)

    def _gap(self) -> float:
        """Between two parts of a trace: nothing, a moment, or longer than anybody waits."""
        return self._chance.choice((0.0, 0.01, 0.1, 0.1, 0.6))

    def _span(self, *, root: bool = False, payload: int = 8, ended: bool = True) -> Span:
        self._names += 1
        return Span(
            number(self._names, 8),
            None if root else number(1, 8),
            f"span-{self._names}",
            "CHAIN",
            T0_MS * 10**6,
            T0_MS * 10**6 + self._names if ended else 0,
            StatusCode.OK,
            "",
            {"mlflow.spanInputs": b'"%d %s"' % (self._names, b"x" * payload)},
        )

    def _part(self, **fields: object) -> TracePart:
        self._names += 1
        return TracePart(tags={f"tag-{self._names}": str(self._names)}, **fields)

    def _sending(self, at_s: float, event: Event, *, app: int = 0, **facts: bool) -> Sending:
        return Sending(at_s, app, event, Facts(event, **facts))

    def _whole(self, trace_id: bytes, at_s: float) -> Iterator[Sending]:
        spans = [self._span(root=not i) for i in range(self._chance.randint(1, 3))]
        image = [Attachment(str(uuid.UUID(int=self._names)), "image/png", b"p" * 20)]
        fields = image if self._chance.random() < 0.2 else []
        yield self._sending(at_s, Fragment(trace_id, spans, self._part(), End(len(spans)), fields))

    def _in_parts(self, trace_id: bytes, at_s: float) -> Iterator[Sending]:
        """Children first, as they end; sometimes in another order, sometimes an open span first."""
        parts = self._chance.randint(2, 4)
        spans = [self._span(root=i == parts - 1) for i in range(parts)]
        times = [at_s]
        for _ in range(parts - 1):
            times.append(times[-1] + self._gap())
        if self._chance.random() < 0.3:
            self._chance.shuffle(times)
        for i, span in enumerate(spans):
            last = i == parts - 1
            end = End(parts) if last else None
            part = self._part()
            part.tags[TURN] = str(self._names)
            sending = self._sending(times[i], Fragment(trace_id, [span], part, end))
            if last and times[i] < max(times):
                sending.note = ", root before a child"
            yield sending

    def _of_services(self, trace_id: bytes, at_s: float) -> Iterator[Sending]:
        """Two apps share a trace; either may be first, one may never come."""
        here, there = self._span(root=True), self._span()
        yield self._sending(at_s, Fragment(trace_id, [here], self._part(), End(1, 1)))
        if self._chance.random() < 0.8:
            moved = at_s + self._chance.choice((-0.1, 0.0, 0.05, 0.6, 1.0))
            remote = Fragment(trace_id, [there], None, End(1, 0, remote_parent=True))
            yield self._sending(max(0.0, moved), remote, app=1)

    def _large(self, trace_id: bytes, at_s: float) -> Iterator[Sending]:
        """A value that is cut where records are small; sometimes its app dies in between."""
        span = self._span(root=True, payload=self._chance.choice((_LARGE, 3 * _LARGE)))
        event = Fragment(trace_id, [span], self._part(), End(1))
        sending = self._sending(at_s, event, may_die=True)
        sending.spread_s = self._chance.choice((0.0, 0.01, 0.2))
        pieces = len(cut(event, b"g" * 8, self._record_bytes_max))
        if pieces > 1 and self._chance.random() < 0.2:
            # Never the first: apps send in order, and a worker takes a missing head for decided.
            sending.lost_piece = self._chance.randrange(1, pieces)
            sending.facts = Facts(None, must_die=True)
        yield sending

    def _unfinished(self, trace_id: bytes, at_s: float) -> Iterator[Sending]:
        """Its end never comes; a span that was sent open ends later."""
        open_span = self._span(root=True, ended=False)
        yield self._sending(at_s, Fragment(trace_id, [open_span], self._part()))
        if self._chance.random() < 0.5:
            ended = Span(*(getattr(open_span, name) for name in Span.__struct_fields__[:5]), 7)
            yield self._sending(at_s + 0.01 + self._gap(), Fragment(trace_id, [ended]))

    def _judged(self, trace_id: bytes, at_s: float) -> Iterator[Sending]:
        """With feedback, by trace or by request, before it or after, sometimes on nothing at all."""
        self._names += 1
        request = f"request-{self._names}"
        by_request = self._chance.random() < 0.5
        event = feedback(self._names, None, request)
        if not by_request:
            event = feedback(self._names, int.from_bytes(trace_id))
        moved = at_s + self._chance.choice((-0.3, -0.05, 0.0, 0.05, 0.5))
        yield self._sending(max(0.0, moved), event, may_die=True)
        if self._chance.random() < 0.8:
            part = self._part(client_request_id=request)
            yield self._sending(at_s, Fragment(trace_id, [self._span(root=True)], part, End(1)))

    def _refused(self, trace_id: bytes, at_s: float) -> Iterator[Sending]:
        self.refused.add(trace_id)
        spans = [self._span(root=True), self._span()]
        for i, span in enumerate(spans):
            end = End(2) if i else None
            event = Fragment(trace_id, [span], None, end)
            yield self._sending(at_s + i * self._gap(), event, may_die=True)

    def _giant(self, trace_id: bytes, at_s: float) -> Iterator[Sending]:
        """More bytes than may be open at once."""
        parts = self._chance.randint(3, 6)
        for i in range(parts):
            end = End(parts) if i == parts - 1 else None
            event = Fragment(trace_id, [self._span(root=not i, payload=_LARGE)], None, end)
            yield self._sending(at_s + i * 0.02, event)

    def _tagged(self, trace_id: bytes, at_s: float) -> Iterator[Sending]:
        """Tags by themselves, before the trace or long after it."""
        moved = at_s + self._chance.choice((-0.1, 0.02, 0.8))
        event = Fragment(trace_id, [], self._part())
        yield self._sending(max(0.0, moved), event, may_die=True)
        whole = Fragment(trace_id, [self._span(root=True)], self._part(), End(1))
        yield self._sending(at_s, whole)
