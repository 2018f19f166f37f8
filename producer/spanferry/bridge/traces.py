"""The traces of this process as MLflow's own code may look them up while they are open."""
# pyright: reportPrivateUsage=false

from typing import Any, Final

from mlflow.entities import TraceInfo
from mlflow.entities.trace_location import TraceLocation
from mlflow.entities.trace_state import TraceState
from mlflow.tracing.fluent import (
    _set_last_active_trace_id,
)
from mlflow.tracing.trace_manager import _Trace
from msgspec.structs import replace

from spanferry import values
from spanferry.bridge import assessing
from spanferry.bridge.ended import remember
from spanferry.log import say_once
from spanferry.parcel import SentSpan
from spanferry.span_recorder import SpanRecorder
from spanferry.texts import texts_of
from spanferry.trace_state import LiveTrace, OpenedSpan
from spanferry_schemas import TracePart
from spanferry_schemas import TraceState as WireState

__all__ = ["OPEN", "SPANS_MAX", "BridgedTrace", "OpenTraces"]

TRACES_MAX: Final = 100_000
"""Traces that are open at once; of more the oldest can no more be looked up by its id."""

SPANS_MAX: Final = 1_000
"""Spans of one open trace that can be looked up by their ids after they have ended."""

_STATES: Final = {
    WireState.OK: TraceState.OK,
    WireState.ERROR: TraceState.ERROR,
    WireState.UNSPECIFIED: TraceState.STATE_UNSPECIFIED,
}
_WIRE_STATES: Final = {state: wire for wire, state in _STATES.items()}


class OpenTraces:
    """By MLflow's trace id. What a dict does in one step needs no lock that a fork could hold."""

    def __init__(self) -> None:
        self.traces: dict[str, BridgedTrace] = {}

    def __len__(self) -> int:
        return len(self.traces)

    def get(self, trace_id: str) -> "BridgedTrace | None":
        """The open trace, or None."""
        return self.traces.get(trace_id)

    def all(self) -> "list[BridgedTrace]":
        """Every open trace, the oldest first."""
        return list(self.traces.values())

    def add(self, trace: "BridgedTrace") -> None:
        """A trace has been opened."""
        if len(self.traces) >= TRACES_MAX:
            self.evict()
        self.traces[trace.mlflow_id] = trace

    def evict(self) -> None:
        """Forget the oldest: there are too many."""
        try:
            self.traces.pop(next(iter(self.traces)), None)
        except (StopIteration, RuntimeError):  # another thread changed it meanwhile
            return
        say_once(
            "open-traces",
            "more than %d traces are open: the oldest can no more be found by their ids. "
            "Are spans started that nobody ends?",
            TRACES_MAX,
        )


OPEN: Final = OpenTraces()


class BridgedTrace(LiveTrace, eq=False):
    """A trace whose spans, tags and metadata MLflow's own code can find and change."""

    keeps_spans: bool = True
    mlflow_id: str = ""
    opened_ns: int = 0
    """When it was opened, by perf_counter_ns."""
    span_dict: dict[str, Any] = {}
    """Spans by their ids in hexadecimal digits, until the trace has ended."""
    look_at: int = SPANS_MAX
    made_view: Any = None

    def __post_init__(self) -> None:
        self.mlflow_id = trace_id = f"tr-{self.trace_id.hex()}"  # as `trace_id_text` says it
        self.opened_ns = self.due_ns - self.defaults.fragment_age_ns - self.clock_ns
        traces = OPEN.traces
        known = traces.setdefault(trace_id, self)
        if known is not self:  # another part of the same trace, in the same process
            self.span_dict = known.span_dict
        elif len(traces) > TRACES_MAX:
            OPEN.evict()

    def opened(self, span: OpenedSpan) -> None:
        """A span has been started."""
        self.spans += 1
        if self.root is not None:
            OPEN.add(self)
        self.span_dict[span.span_id_bytes.hex()] = span

    @property
    def view(self) -> _Trace:
        """The trace as MLflow's trace manager gives it out; made when somebody asks."""
        if self.made_view is None:
            made = _Trace(LiveInfo(self), self.span_dict, [], is_remote_trace=self.remote)
            if self.made_view is None:  # no other thread was faster: nothing is called in between
                self.made_view = made
        view: _Trace = self.made_view
        return view

    def finish(self, root: SentSpan, size: int, *, error: bool, duration_ns: int) -> None:
        """Hand over all there is, and forget it as soon as its last span has ended."""
        view = self.made_view
        if view is not None:
            self.own_facts = self._part() or self.own_facts
        # All of its spans are in both as long as none has been let go.
        all_ended = self.look_at == SPANS_MAX and len(self.pending) + 1 == len(self.span_dict)
        super().finish(root, size, error=error, duration_ns=duration_ns)
        if view is not None:
            for assessment in view.info.assessments:
                assessing.send(self.mlflow_id, assessment)
        _set_last_active_trace_id(self.mlflow_id)
        remember(self.mlflow_id)
        if all_ended:
            self._forget()
        else:
            self._release()

    def look(self) -> None:
        """A span has ended: do what is due."""
        super().look()
        if self.root is not None or self.spans > self.look_at:
            self._release()

    def _hand_over_from_fork(self, span: SentSpan, size: int, *, error: bool) -> None:
        super()._hand_over_from_fork(span, size, error=error)
        if self.root is not None or self.spans > self.look_at:
            self._release()

    def _release(self) -> None:
        """Keep those spans only that may still be ended by their ids.

        No circle of references is left of a trace that is done, and one that goes on for hours
        does not hold what it has handed over.
        """
        spans = self.span_dict.copy()
        for key, span in list(spans.items()):
            ours = issubclass(type(span), SpanRecorder)
            if (span._end_ns if ours else span.end_time_ns) is not None:
                del spans[key]
        if self.ended and not spans:
            self._forget()
            return
        self.span_dict = spans
        self.look_at = self.spans + max(SPANS_MAX, len(spans))  # many that are open cost no more
        if self.made_view is not None:
            self.made_view.span_dict = spans

    def _forget(self) -> None:
        self.span_dict = {}
        self.made_view = None
        if OPEN.traces.get(self.mlflow_id) is self:
            OPEN.traces.pop(self.mlflow_id, None)

    def _part(self) -> TracePart | None:
        part = super()._part()
        if part is None or self.made_view is None:
            return part
        return replace(  # what MLflow's code has put there need not be text
            part,
            tags=texts_of(part.tags),
            metadata=texts_of(part.metadata),
            prompts=tuple(
                (values.text(one.name), values.text(one.version)) for one in self.made_view.prompts
            ),
        )


def _fact(name: str, doc: str) -> Any:
    """A property that lies in the trace's own part."""

    def read(info: "LiveInfo") -> Any:
        return getattr(info.trace.facts, name)

    def write(info: "LiveInfo", value: Any) -> None:
        if name in {"tags", "metadata"}:
            value = texts_of(value or {})
        elif value is not None:
            value = values.text(value)
        setattr(info.trace.facts, name, value)
        info.trace.changed = True

    return property(read, write, doc=doc)


class LiveInfo(TraceInfo):
    """MLflow's TraceInfo over what spanferry keeps of an open trace: there is no second copy."""

    def __init__(self, trace: BridgedTrace) -> None:
        self.trace = trace
        self.trace_id = trace.mlflow_id
        self.request_time = trace.now_ns() // 1_000_000
        self.execution_duration = None
        self.assessments = []

    tags = _fact("tags", "The trace's tags; the dict may be changed.")
    trace_metadata = _fact("metadata", "The trace's metadata; the dict may be changed.")
    client_request_id = _fact("client_request_id", "The client's id of the request.")
    request_preview = _fact("request_preview", "What lists show of the request.")
    response_preview = _fact("response_preview", "What lists show of the response.")

    def _read_state(self) -> TraceState:
        state = self.trace.facts.state
        return TraceState.IN_PROGRESS if state is None else _STATES[state]

    def _write_state(self, state: TraceState | str) -> None:
        self.trace.facts.state = _WIRE_STATES.get(TraceState(state))
        self.trace.changed = True

    state: Any = property(_read_state, _write_state, doc="As set by hand, else IN_PROGRESS.")

    def _read_location(self) -> TraceLocation:
        return TraceLocation.from_experiment_id(self.trace.facts.experiment_id or "")

    def _write_location(self, location: TraceLocation) -> None:
        experiment = getattr(location, "mlflow_experiment", None)
        if experiment is not None:
            self.trace.facts.experiment_id = values.text(experiment.experiment_id)

    trace_location: Any = property(_read_location, _write_location, doc="The trace's experiment.")
