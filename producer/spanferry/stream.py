"""The span of a generator: what it yields, one event for each item and all of them as outputs."""

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from spanferry import values
from spanferry.entities import SpanEvent, SpanStatusCode
from spanferry.finishing import payload_limit
from spanferry.log import say_once
from spanferry.span_recorder import EVENTS_MAX
from spanferry.spans import Span
from spanferry.stopping import let_through
from spanferry_schemas import SpanEvent as WireEvent
from spanferry_schemas import mlflow_keys
from spanferry_schemas.cutting import CUT_ATTRIBUTE, CUT_ITEMS_ATTRIBUTE

__all__ = ["Stream"]

_SMALL_BYTES: Final = 65_536
"""Items up to this size may all be events; so many of them as a span keeps are 8 MB."""


class Stream:
    """One run of a traced generator. No method raises.

    Items are encoded as they come, and kept until their texts are above the limit at which the outputs
    are cut; the items themselves are kept only for a reducer, all of them. Events are made at the end
    and of the last items only, because a span keeps no more: a token costs about 1 us.
    """

    __slots__ = (
        "_bytes_max",
        "_count",
        "_items",
        "_kept",
        "_large_bytes",
        "_last",
        "_left_out_bytes",
        "_reducer",
        "_span",
    )

    def __init__(self, span: Span, reducer: Callable[[list[Any]], Any] | None) -> None:
        self._span = span
        self._reducer = reducer
        self._bytes_max = _limit_of(span)
        self._large_bytes = max(self._bytes_max // EVENTS_MAX, _SMALL_BYTES)
        self._count = 0
        self._items: list[Any] = []
        self._kept = bytearray(b"[")
        """The JSON text of all items, each with a comma, as far as it is kept."""
        self._left_out_bytes = 0
        self._last: deque[tuple[int, bytes]] = deque(maxlen=EVENTS_MAX)

    def item(self, value: Any) -> None:
        """The generator has yielded `value`."""
        span = self._span
        if not span.recording:
            return
        encoded = values.encode(value)
        self._count += 1
        self._last.append((span.trace.now_ns(), encoded))
        if len(encoded) > self._large_bytes:
            self._forget_the_oldest()
        kept = self._kept
        if self._reducer is not None:
            self._items.append(value)
        elif len(kept) > self._bytes_max:
            self._left_out_bytes += len(encoded) + 1
        else:
            kept += encoded
            kept += b","

    def finish(self) -> None:
        """The generator has come to its end, or nobody wants the rest."""
        if self._span.recording:
            self._add_events()
            self._set_outputs()
        self._span.end()

    def fail(self, error: BaseException) -> None:
        """`error` has left the generator; one that is no Exception ends it without being its fault."""
        if not isinstance(error, Exception):
            self.finish()
            return
        if self._span.recording:
            self._add_events()
            self._span.add_event(SpanEvent.from_exception(error))
        self._span.end(status=SpanStatusCode.ERROR)

    def _forget_the_oldest(self) -> None:
        """Of large items fewer become events: together they take no more than the outputs may."""
        last = self._last
        size = sum(len(encoded) for _, encoded in last)
        while size > self._bytes_max and len(last) > 1:
            size -= len(last.popleft()[1])

    def _add_events(self) -> None:
        first = self._count - len(self._last)
        self._span.add_encoded_events(
            WireEvent(
                mlflow_keys.STREAM_CHUNK_EVENT.format(index=index),
                time_ns,
                values.encode({mlflow_keys.STREAM_CHUNK_VALUE: values.chunk_text(encoded)}),
            )
            for index, (time_ns, encoded) in enumerate(self._last, first)
        )

    def _set_outputs(self) -> None:
        if self._reducer is None:
            self._set_kept()
            return
        try:
            reduced = self._reducer(self._items)
        except BaseException as error:  # noqa: BLE001  the app's reducer, but its result is only ours
            let_through(error)
            say_once("reducer", "output_reducer failed: %s", values.text(error))
            reduced = self._items
        if reduced is not None:
            self._span.set_outputs(reduced)

    def _set_kept(self) -> None:
        """What was kept is a list; the finisher cuts it, for it is above the limit where that is not all."""
        kept = self._kept
        if self._count:
            kept.pop()
        kept += b"]"
        span = self._span
        if len(kept) > self._bytes_max:
            whole = len(kept) + self._left_out_bytes
            span.set_encoded(CUT_ATTRIBUTE, values.encode({mlflow_keys.SPAN_OUTPUTS: whole}))
            span.set_encoded(CUT_ITEMS_ATTRIBUTE, values.encode(self._count))
        span.set_encoded(mlflow_keys.SPAN_OUTPUTS, bytes(kept))


def _limit_of(span: Span) -> int:
    """Bytes of a payload above which it is cut, or a span not taken by the buffer at all."""
    if not span.recording:
        return 0
    settings = span.trace.defaults.outlet.settings
    return payload_limit(settings) or settings.buffer_bytes
