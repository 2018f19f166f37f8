"""`with start_span(...)`: the span is its own context manager, so a request makes one object of it."""
# pyright: reportPrivateUsage=false

from collections.abc import Callable, Mapping, Sequence
from time import perf_counter_ns
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from spanferry.context import CurrentToken, current
from spanferry.dressing import TraceDestination, destination_of, dress, set_run
from spanferry.entities import LinkLike, SpanLogLevel, SpanType
from spanferry.opening import makes_plain_spans, not_started, open_span
from spanferry.process import PROCESS, new_span_id, random_bits
from spanferry.spans import NO_OP_SPAN, Span
from spanferry.trace_state import LiveTrace
from spanferry_schemas import StatusCode

__all__ = ["NOT_BEGUN", "SpanBlock", "StartSpan", "start_span", "starter"]

Block_co = TypeVar("Block_co", bound="SpanBlock", covariant=True)

_MORE: Final = (
    "attributes",
    "trace_destination",
    "log_level",
    "run_id",
    "links",
    "description",
)

_UNSET: Final = StatusCode.UNSET

NOT_BEGUN: Final = 0
"""The end of a span that has not begun: it takes nothing yet."""


class SpanBlock(Span):
    """The span of a `with` block, and the block's context manager.

    It starts where the block is entered and ends where it is left.
    """

    __slots__ = ("_more", "_other", "_token")

    if TYPE_CHECKING:

        def __init__(self) -> None: ...
    else:
        __init__ = object.__init__  # `start_span` sets what there is to set

    _more: Any
    """What else `start_span` was given, in the order of _MORE; None where that was nothing."""
    _other: Span | None
    """The span that stands in for this one."""
    _token: CurrentToken | None

    def __enter__(self) -> Span:
        # What `open_span`, `open_trace` and `begin` do in the two cases that most are, in one piece.
        process = PROCESS
        around = current.get()
        if self._more is not None or process.detours or self._end_ns != NOT_BEGUN:
            return self._enter(None)
        if around is None:
            plain = process.plain
            if plain is None:
                return self._enter(None)
            try:
                ids, clock_ns = process.trace_ids, process.clock_ns
                self._start_ns = now_ns = clock_ns + perf_counter_ns()
                trace = LiveTrace(
                    ids.pop() if ids else (random_bits(128) or 1).to_bytes(16, "big"),
                    plain,
                    None,
                    clock_ns,
                    plain.fragment_bytes,
                    now_ns + plain.fragment_age_ns,
                    False,
                    process.forks,
                    self._name,
                )
            except IndexError:  # another thread took the last id
                return self._enter(None)
            except Exception as error:  # noqa: BLE001  the app must not see our troubles
                return not_started(error)
            self._parent_id = None
            self._is_root = True
        elif type(around) is SpanBlock or type(around) is Span:
            trace = around.trace
            self._parent_id = around.span_id_bytes
            self._is_root = False
            self._start_ns = trace.clock_ns + perf_counter_ns()
        else:
            return self._enter(None)
        # As `begin`, without the call: see `_Process`.
        self.trace = trace
        self.trace_id_bytes = trace.trace_id
        ids = process.span_ids
        try:
            self.span_id_bytes = ids.pop() if ids else (random_bits(64) or 1).to_bytes(8, "big")
        except IndexError:
            self.span_id_bytes = new_span_id()
        self._end_ns = None
        self._status = _UNSET
        self._message = ""
        self._inputs = self._outputs = self._attributes = None
        self._events = ()
        self._links = ()
        self._forks = process.forks
        trace.spans += 1
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
            self._leave_other(kind, error, stack)
            return
        self._token = None
        try:  # noqa: SIM105  what `leave` does; suppress() would be another call
            current.reset(token)
        except (ValueError, RuntimeError):
            pass
        if error is not None or self._other is not None:
            self._end_other(error)
        elif self._end_ns is None:
            self.close(self.trace.clock_ns + perf_counter_ns())

    def _leave_other(self, *raised: Any) -> None:
        """Leave the block where `__enter__` has made nothing current here."""

    def _end_other(self, error: BaseException | None) -> None:
        """End the span that stands in for this one, or this one with an error."""
        span = self if self._other is None else self._other
        if isinstance(error, Exception):
            span.record_exception(error)
        if span.recording and span.end_time_ns is None:
            span.close(span.trace.clock_ns + perf_counter_ns())

    def _enter(self, ratio: float | None) -> Span:
        """Start the span and make it current; `ratio` is as `open_span` takes it. Never raises."""
        more = self._more
        destination = None if more is None or more[1] is None else destination_of(more[1])
        into = self if self._end_ns == NOT_BEGUN and self._is_of_its_kind() else None
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

    def _is_of_its_kind(self) -> bool:
        """Whether it may be the span itself; otherwise it stands for one."""
        return makes_plain_spans()

    def _given(self) -> dict[str, Any]:
        """What it was made with, by name; without what was left out, which not every MLflow knows."""
        more = zip(_MORE, self._more or (), strict=False)
        named = {key: value for key, value in more if value is not None}
        return {"name": self._name, "span_type": self._span_type, **named}


class StartSpan(Protocol[Block_co]):
    """What `starter` gives, with MLflow's signature."""

    def __call__(  # noqa: PLR0913, PLR0917
        self,
        name: str = ...,
        span_type: str | None = ...,
        attributes: Mapping[str, Any] | None = ...,
        trace_destination: TraceDestination | None = ...,
        log_level: SpanLogLevel | str | None = ...,
        run_id: str | None = ...,
        links: Sequence[LinkLike] | None = ...,
        description: str | None = ...,
    ) -> Block_co: ...


def starter(kind: Callable[[], Block_co]) -> StartSpan[Block_co]:
    """A `start_span` whose blocks are of that kind.

    A function, and a class without an `__init__`: Python calls those in a third of the time.
    """

    def start_span(  # noqa: PLR0913, PLR0917
        name: str = "span",
        span_type: str | None = SpanType.UNKNOWN,
        attributes: Mapping[str, Any] | None = None,
        trace_destination: TraceDestination | None = None,
        log_level: SpanLogLevel | str | None = None,
        run_id: str | None = None,
        links: Sequence[LinkLike] | None = None,
        description: str | None = None,
    ) -> Block_co:
        """Context manager: a new span under the current one, current itself until the end.

        It starts where the `with` block is entered and ends where it is left. An exception that leaves
        the block is recorded and goes on. Without a current span it is the root of a new trace, to
        which alone `trace_destination` and `run_id` apply.
        """
        block = kind()
        block._name = name
        block._span_type = span_type  # type: ignore[assignment]
        block._end_ns = NOT_BEGUN
        block._token = block._other = block._more = None
        if (
            attributes is not None
            or trace_destination is not None
            or log_level is not None
            or run_id is not None
            or links is not None
            or description is not None
        ):
            block._more = (attributes, trace_destination, log_level, run_id, links, description)
        return block

    return start_span


start_span: Final = starter(SpanBlock)
