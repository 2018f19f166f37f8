"""spanferry's span as MLflow's LiveSpan: one object that both APIs start, change and end."""
# pyright: reportPrivateUsage=false
# MLflow's enums and entities are not spanferry's, though they have the same members.
# pyright: reportIncompatibleMethodOverride=false

from typing import Any, Final, NoReturn, cast

from mlflow.entities import Link, LiveSpan, SpanEvent, SpanLogLevel, SpanStatus
from mlflow.entities import NoOpSpan as MlflowNoOpSpan
from mlflow.entities import Span as MlflowSpan
from mlflow.entities.span_status import SpanStatusCode
from mlflow.tracing.config import get_config

from spanferry import values
from spanferry.bridge.otel_view import OtelView, no_op_otel_span, readable
from spanferry.log import say_once
from spanferry.span_recorder import SpanRecorder
from spanferry.spans import NoOpSpan, Span
from spanferry.starting import SpanBlock
from spanferry.stopping import let_through
from spanferry.trace_state import LiveTrace
from spanferry_schemas import mlflow_keys, trace_id_text

__all__ = ["LightNoOpSpan", "LightSpan", "LightSpanBlock", "LiveWords", "before_end"]

_NOT_WHILE_OPEN: Final = (
    "'LiveSpan' cannot be {} while active. Call `span.to_immutable_span()` to {}."
)
_Event: Final[Any] = SpanEvent  # their base declares an abstract method that is never used
_Link: Final[Any] = Link


def before_end(span: Span) -> None:
    """Show a span to the processors of `mlflow.tracing.configure`. Never raises."""
    processors = get_config().span_processors
    if not processors:
        return
    span.settle()
    for processor in processors:
        try:
            answer = processor(cast("LiveSpan", span))
        except BaseException as error:  # noqa: BLE001  the app's processor, but its own result is untouched
            let_through(error)
            _complain(
                processor, f"failed ({values.text(error)}): spans are stored as it leaves them"
            )
        else:
            if answer is not None:
                _complain(processor, "returned a value, which is ignored")


def _complain(processor: object, what: str) -> None:
    name = values.text(getattr(processor, "__name__", processor))
    say_once(
        f"processor-{name}",
        "span processor %s %s. Mend it, or take it out of mlflow.tracing.configure(span_processors=...)",
        name,
        what,
    )


class LiveWords(SpanRecorder):
    """What spanferry's spans do not have of MLflow's, or have in other classes.

    For isinstance it is a LiveSpan, as test doubles are what they stand for. It does not inherit
    from LiveSpan because that has a `__getattr__`, with which every attribute access costs double.
    """

    __slots__ = ()

    trace: LiveTrace

    __class__: Any = property(lambda _: LiveSpan)  # pyright: ignore[reportIncompatibleMethodOverride]

    __iter__ = None
    __getitem__: Any = getattr(LiveSpan, "__getitem__", None)  # MLflow has it since 3.17

    def __reduce__(self) -> NoReturn:
        raise TypeError(_NOT_WHILE_OPEN.format("pickled", "serialize finished span data"))

    def __deepcopy__(self, memo: object) -> NoReturn:
        raise TypeError(_NOT_WHILE_OPEN.format("deepcopied", "copy finished span data"))

    @property
    def _attachments(self) -> dict[str, Any]:
        """They are handed over as soon as they are set."""
        return {}

    def _is_recording(self) -> bool:
        return self._end_ns is None

    @property
    def _span(self) -> OtelView:
        return OtelView(self)

    @property
    def _trace_id(self) -> str:
        return self.trace_id_bytes.hex()

    @property
    def _original_name(self) -> str:
        return self.name

    @_original_name.setter
    def _original_name(self, name: str) -> None:
        """MLflow keeps it to tell spans of one name apart, which it no longer does."""

    @property
    def status(self) -> SpanStatus:  # type: ignore[override]
        """How it went."""
        return SpanStatus(SpanStatusCode(self._status.name), self._message)

    @property
    def log_level(self) -> SpanLogLevel | None:  # type: ignore[override]
        """How much the span matters; None while that is left to its type."""
        level = self.get_attribute(mlflow_keys.SPAN_LOG_LEVEL)
        return None if level is None else SpanLogLevel(level)

    @property
    def events(self) -> list[SpanEvent]:  # type: ignore[override]
        """In the order in which they were added."""
        return [_Event(e.name, e.time_ns, values.decode(e.attributes)) for e in self._events]

    @property
    def links(self) -> list[Link]:  # type: ignore[override]
        """In the order in which they were added."""
        return [
            _Link(
                trace_id=trace_id_text(link.trace_id),
                span_id=link.span_id.hex(),
                attributes=values.decode(link.attributes) or None,
            )
            for link in self._links
        ]

    def to_immutable_span(self) -> MlflowSpan:
        """A copy that does not change any more."""
        copy = MlflowSpan(readable(self._span))
        copy._links = self.links
        return copy

    def to_dict(self) -> dict[str, Any]:
        """As MLflow's spans have it."""
        return self.to_immutable_span().to_dict()

    def to_otel_proto(self) -> Any:
        """As MLflow's spans have it."""
        return self.to_immutable_span().to_otel_proto()


class LightSpan(LiveWords, Span):
    """A span that something else has made current, or nothing at all."""

    __slots__ = ("__dict__",)


class LightSpanBlock(LiveWords, SpanBlock):
    """The span of a `with` block, and the block's context manager."""

    __slots__ = ("__dict__",)

    def _is_of_its_kind(self) -> bool:
        return True


class LightNoOpSpan(MlflowNoOpSpan, NoOpSpan):  # type: ignore[misc]  # MLflow's answers go first
    """Stands in where nothing is recorded, for both APIs."""

    def __init__(self, trace_id: bytes = bytes(16), span_id: bytes = bytes(8)) -> None:
        NoOpSpan.__init__(self, trace_id, span_id)
        self._attributes: Any = {}  # where its words are MLflow's own

    @property
    def _span(self) -> Any:  # type: ignore[override]
        return no_op_otel_span(self.trace_id_bytes, self.span_id_bytes)


# What apps and their logs see of the classes' names is as it was.
LightSpan.__name__ = LightSpanBlock.__name__ = LiveSpan.__name__
LightNoOpSpan.__name__ = MlflowNoOpSpan.__name__
