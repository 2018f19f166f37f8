"""`with start_span(...)`: the span is its own context manager, so a request makes one object of it."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final

from spanferry.context import CurrentToken, current
from spanferry.dressing import TraceDestination, destination_of, dress, set_run
from spanferry.entities import LinkLike, SpanLogLevel, SpanType
from spanferry.opening import makes_plain_spans, not_started, open_root, open_span
from spanferry.rare import RARE
from spanferry.spans import NO_OP_SPAN, Span

__all__ = ["start_span"]

_MORE: Final = (
    "attributes",
    "trace_destination",
    "log_level",
    "run_id",
    "links",
    "description",
)

_NOT_BEGUN: Final = 0
"""The end of a span that has not begun: it takes nothing yet."""


class start_span(Span):  # noqa: N801  MLflow's name
    """Context manager: a new span under the current one, current itself until the end.

    It starts where the `with` block is entered and ends where it is left. An exception that leaves
    the block is recorded and goes on. Without a current span it is the root of a new trace, to which
    alone `trace_destination` and `run_id` apply.
    """

    __slots__ = ("_more", "_other", "_token")

    def __init__(  # noqa: PLR0913, PLR0917  MLflow's signature
        self,
        name: str = "span",
        span_type: str | None = SpanType.UNKNOWN,
        attributes: Mapping[str, Any] | None = None,
        trace_destination: TraceDestination | None = None,
        log_level: SpanLogLevel | str | None = None,
        run_id: str | None = None,
        links: Sequence[LinkLike] | None = None,
        description: str | None = None,
    ) -> None:
        self._name = name
        self._span_type: Any = span_type
        self._end_ns = _NOT_BEGUN
        self._token: CurrentToken | None = None
        self._other: Span | None = None
        self._more: Any = None
        if (
            attributes is not None
            or trace_destination is not None
            or log_level is not None
            or run_id is not None
            or links is not None
            or description is not None
        ):
            self._more = (attributes, trace_destination, log_level, run_id, links, description)

    def __enter__(self) -> Span:
        if self._more is not None or RARE.scopes or self._end_ns != _NOT_BEGUN:
            return self._enter(None)
        # What `open_span` does in the two cases that most are.
        around = current.get()
        if around is None:
            try:
                span = open_root(self._name, self._span_type, None, into=self)
            except Exception as error:  # noqa: BLE001  the app must not see our troubles
                return not_started(error)
            if span is not self:
                return self._instead(span)
        elif type(around) is start_span or type(around) is Span:
            self.begin(around.trace, around.span_id_bytes, None, False)
        else:
            return self._enter(None)
        self._token = current.set(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        stack: TracebackType | None,
    ) -> None:
        token = self._token
        if token is None:
            return
        self._token = None
        try:  # noqa: SIM105  what `leave` does; suppress() would be another call
            current.reset(token)
        except (ValueError, RuntimeError):
            pass
        span = self if self._other is None else self._other
        if error is not None and isinstance(error, Exception):
            span.record_exception(error)
        if span.recording and span.end_time_ns is None:
            span.end_now()

    def _enter(self, ratio: float | None) -> Span:
        """Start the span and make it current; `ratio` is as `open_span` takes it. Never raises."""
        more = self._more
        destination = None if more is None or more[1] is None else destination_of(more[1])
        into = self if self._end_ns == _NOT_BEGUN and self._is_of_its_kind() else None
        span = open_span(self._name, self._span_type, None, None, destination, ratio, into)
        if span is not self:
            self._other = span
        if span is NO_OP_SPAN:
            return span
        if more is not None and span.recording:
            dress(span, more[0], more[5], more[2], more[4])
            if more[3] is not None:
                set_run(span, more[3])
        self._token = current.set(span)
        return span

    def _instead(self, span: Span) -> Span:
        """Make a span current that only stands in for a new trace's root."""
        self._other = span
        if span is not NO_OP_SPAN:
            self._token = current.set(span)
        return span

    @property
    def may_begin(self) -> bool:
        """Whether it has not begun, and was given nothing but its name and type."""
        return self._more is None and self._end_ns == _NOT_BEGUN

    def _is_of_its_kind(self) -> bool:
        """Whether it may be the span itself; otherwise it stands for one."""
        return makes_plain_spans()

    def _given(self) -> dict[str, Any]:
        """What it was made with, by name; without what was left out, which not every MLflow knows."""
        more = zip(_MORE, self._more or (), strict=False)
        named = {key: value for key, value in more if value is not None}
        return {"name": self._name, "span_type": self._span_type, **named}
