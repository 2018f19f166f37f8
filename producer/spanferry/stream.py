"""The span of a generator: what it yields, one event for each item and all of them as outputs."""

from collections import deque
from collections.abc import Callable
from typing import Any

from spanferry import values
from spanferry.entities import SpanEvent, SpanStatusCode
from spanferry.log import say_once
from spanferry.span_recorder import EVENTS_MAX
from spanferry.spans import Span
from spanferry.stopping import let_through
from spanferry_schemas import SpanEvent as WireEvent
from spanferry_schemas import mlflow_keys

__all__ = ["Stream"]


class Stream:
    """One run of a traced generator. No method raises.

    Items are encoded as they come; the items themselves are kept only for a reducer. Events are made
    at the end and of the last items only, because a span keeps no more: a token costs about 1 us.
    """

    __slots__ = ("_encoded", "_items", "_last", "_reducer", "_span")

    def __init__(self, span: Span, reducer: Callable[[list[Any]], Any] | None) -> None:
        self._span = span
        self._reducer = reducer
        self._items: list[Any] = []
        self._encoded: list[bytes] = []
        self._last: deque[tuple[int, bytes]] = deque(maxlen=EVENTS_MAX)

    def item(self, value: Any) -> None:
        """The generator has yielded `value`."""
        span = self._span
        if not span.recording:
            return
        encoded = values.encode(value)
        self._last.append((span.trace.now_ns(), encoded))
        if self._reducer is not None:
            self._items.append(value)
        else:
            self._encoded.append(encoded)

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

    def _add_events(self) -> None:
        first = max(len(self._items), len(self._encoded)) - len(self._last)
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
            outputs = b"[" + b",".join(self._encoded) + b"]"
            self._span.set_encoded(mlflow_keys.SPAN_OUTPUTS, outputs)
            return
        try:
            reduced = self._reducer(self._items)
        except BaseException as error:  # noqa: BLE001  the app's reducer, but its result is only ours
            let_through(error)
            say_once("reducer", "output_reducer failed: %s", values.text(error))
            reduced = self._items
        if reduced is not None:
            self._span.set_outputs(reduced)
