"""The short way that most traces take records what the long way does."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import spanferry
from spanferry import active_model, opening
from spanferry.parcel import Parcel, Waiting
from spanferry.process import PROCESS
from spanferry.settings import Settings
from spanferry.testing import capture
from spanferry.trace_state import LiveTrace


def nested() -> None:
    with spanferry.start_span("root", span_type="AGENT") as root:
        root.set_inputs({"question": "why?"})
        with spanferry.start_span("child", span_type="TOOL") as child:
            child.set_attribute("key", [1, 2])
            child.set_outputs(3)
        with spanferry.start_span("other") as other:
            other.add_event(spanferry.SpanEvent("moment", 5))
        root.set_outputs("because")


def an_error_inside() -> None:
    with (
        pytest.raises(ValueError, match="no"),
        spanferry.start_span("root"),
        spanferry.start_span("child", span_type="LLM"),
    ):
        raise ValueError("no")


def spoken_of() -> None:
    with spanferry.start_span("r\u00f6\ud800t") as root:
        spanferry.update_current_trace(
            tags={"a": "b"}, session_id="s", user="u", client_request_id="c", state="ERROR"
        )
        root.set_status("OK")


def by_hand() -> None:
    root = spanferry.start_span_no_context("root", inputs=1)
    child = spanferry.start_span_no_context("child", parent_span=root)
    root.end(outputs=2)
    child.end()


def ended_inside() -> None:
    with spanferry.start_span("root") as root:
        with spanferry.start_span("child") as child:
            child.end(outputs="early")
        root.end()


def decorated() -> None:
    @spanferry.trace(span_type="CHAIN")
    def answer(question: str) -> str:
        with spanferry.start_span("inside"):
            return question + "!"

    answer("why?")


def in_threads() -> None:
    with spanferry.start_span("root") as root:

        def work() -> None:
            spanferry.start_span_no_context("thread", parent_span=root).end()

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()


def much() -> None:
    """More than one parcel."""
    with spanferry.start_span("root"):
        for _ in range(5):
            with spanferry.start_span("large") as span:
                span.set_outputs("x" * 900)


def another_name() -> None:
    with spanferry.start_span(None) as root:  # type: ignore[arg-type]
        root.set_span_type(["odd"])  # type: ignore[arg-type]


PROGRAMS: list[Callable[[], None]] = [
    nested, an_error_inside, spoken_of, by_hand, ended_inside, decorated, in_threads, much,
    another_name,
]  # fmt: skip


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in a process of its own, where no model and no scope has ever been set."""
    monkeypatch.setattr(active_model, "_anywhere", None)
    before = PROCESS.models, PROCESS.scopes
    assert opening.makes_plain_spans()
    PROCESS.models = PROCESS.scopes = False
    yield
    PROCESS.models, PROCESS.scopes = PROCESS.models or before[0], PROCESS.scopes or before[1]
    PROCESS.plain = False


def small() -> capture:
    settings = Settings(
        bootstrap_servers="x:1", mlflow=False, fragment_bytes=2_000, experiment="experiment"
    )
    return capture(settings)


def shape_of(parcels: list[Parcel], captured: capture) -> list[Any]:
    """All but ids and times."""
    shown: list[Any] = [
        (len(one.spans), one.size, one.error, one.session, one.trace, one.end, bool(one.remote))
        for one in parcels
    ]
    for trace in captured.traces:
        numbers = {span.span_id: number for number, span in enumerate(trace.spans)}
        for span in trace.spans:
            parent = None if span.parent_id is None else numbers[span.parent_id]
            events = [
                (event.name, event.attributes.get("exception.message")) for event in span.events
            ]
            attributes = span.attributes
            attributes.pop("mlflow.traceRequestId")
            assert span.end_time_ns is not None
            assert 0 <= span.end_time_ns - span.start_time_ns < 60e9
            shown.append((span.name, parent, attributes, str(span.status), events))
    return shown


@pytest.mark.parametrize("program", PROGRAMS)
def test_both_ways_are_one(program: Callable[[], None], plain: None) -> None:
    with small() as short:
        nested()
        assert PROCESS.plain
        short.clear()
        program()
        assert PROCESS.plain
    PROCESS.scopes = True
    with small() as long:
        program()
        assert not PROCESS.plain
    assert shape_of(short.parcels, short) == shape_of(long.parcels, long)
    assert short.parcels


@pytest.mark.parametrize(
    "change",
    [
        lambda: spanferry.set_active_model(name="model"),
        lambda: spanferry.context(enabled=False),
        small,
        lambda: contextlib.nullcontext(opening.install_kinds(opening.Kinds())),
    ],
)
def test_what_changes_new_traces_ends_it(
    change: Callable[[], contextlib.AbstractContextManager[Any]], plain: None
) -> None:
    with small():
        nested()
        assert PROCESS.plain
        with change():
            assert not PROCESS.plain


class Held(capture):
    """A sender that has not looked yet."""

    def __init__(self) -> None:
        super().__init__(Settings(bootstrap_servers="x:1", mlflow=False))
        self.held: list[Waiting] = []

    def put(self, waiting: Waiting) -> None:
        self.held.append(waiting)

    def look(self) -> None:
        while self.held:
            self.parcels.append(self.held.pop(0).parcel())


@pytest.mark.parametrize("looks", [True, False])
def test_what_ends_after_the_root_is_sent_once(looks: bool, plain: None) -> None:
    """Whether the sender has taken the trace by then, or not."""
    with Held() as captured:
        with spanferry.start_span("root") as root:
            late = spanferry.start_span_no_context("late", parent_span=root)
        if looks:
            captured.look()
        late.end()
        captured.look()
    names = [span for parcel in captured.parcels for span in parcel.spans]
    (trace,) = captured.traces
    assert len(names) == len(trace.spans) == 2
    assert [parcel.end.spans for parcel in captured.parcels if parcel.end is not None] == [2]


def test_a_trace_that_waits_does_not_change(plain: None) -> None:
    with Held() as captured:
        with spanferry.start_span("root") as root:
            pass
        sizes = [one.size for one in captured.held]
        root.set_outputs("late")
        spanferry.update_current_trace(tags={"late": "x"})
        with spanferry.start_span("another"):
            pass
        assert isinstance(captured.held[0], LiveTrace)
        assert [one.size for one in captured.held[:1]] == sizes
        captured.look()
    first = captured.traces[0]
    assert first.root.outputs is None
    assert "late" not in first.tags
