"""The short way that most traces take records what the long way does."""

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import spanferry
from spanferry import opening, process
from spanferry.parcel import Parcel, Waiting
from spanferry.process import PROCESS
from spanferry.settings import Settings
from spanferry.testing import capture
from spanferry.trace_state import LiveTrace
from tests.services.process import free_port


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
def plain() -> Iterator[None]:
    """As in a process of its own, where no model and no scope has ever been set."""
    before = PROCESS.models, PROCESS.scopes
    assert opening.makes_plain_spans()
    PROCESS.models = PROCESS.scopes = PROCESS.detours = False
    yield
    PROCESS.models, PROCESS.scopes = PROCESS.models or before[0], PROCESS.scopes or before[1]
    PROCESS.detours, PROCESS.plain = PROCESS.scopes, None


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
    PROCESS.scopes = PROCESS.detours = True
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


def test_new_traces_follow_the_wall_clock_and_open_ones_go_on_evenly(
    plain: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small() as captured:
        nested()
        assert PROCESS.plain
        captured.clear()
        with spanferry.start_span("before") as before:
            now_ns = time.time_ns()
            with monkeypatch.context() as patch:
                patch.setattr(process, "time_ns", lambda: time.time_ns() + 3_600 * 10**9)
                process.read_clock()
            with spanferry.start_span("child"):
                pass
        with spanferry.start_span("after") as after:
            pass
        process.read_clock()
    assert before.end_time_ns is not None
    assert before.end_time_ns - before.start_time_ns < 60e9
    assert 3_500e9 < after.start_time_ns - now_ns < 3_700e9
    assert {trace.name for trace in captured.traces} == {"before", "after"}


def test_a_look_at_the_clocks_that_took_long_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    process.read_clock()
    known_ns = PROCESS.clock_ns
    looks = iter([0, 10**9])
    with monkeypatch.context() as patch:
        patch.setattr(process, "perf_counter_ns", lambda: next(looks))
        process.read_clock()
    assert PROCESS.clock_ns == known_ns


def test_the_sender_looks_at_the_clocks() -> None:
    spanferry.enable(bootstrap_servers=f"127.0.0.1:{free_port()}", mlflow=False)
    try:
        PROCESS.clock_ns = 1
        deadline = time.monotonic() + 150
        while PROCESS.clock_ns == 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert abs(PROCESS.clock_ns + time.perf_counter_ns() - time.time_ns()) < 1e9
    finally:
        spanferry.disable()


def test_a_model_from_the_environment_is_every_traces(
    plain: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ACTIVE_MODEL_ID", "m-1")
    with small() as captured:
        nested()
        nested()
    assert [trace.metadata.get("mlflow.modelId") for trace in captured.traces] == ["m-1", "m-1"]


def test_a_span_that_two_threads_end_is_sent_once(plain: None) -> None:
    with small() as captured:
        root = spanferry.start_span_no_context("root")
        now_ns = root.start_time_ns + 1
        root.close(now_ns)  # the other one has looked at the end before this
        root.close(now_ns)
    assert len(captured.parcels) == 1


def test_what_is_due_is_so_by_the_clock(plain: None) -> None:
    settings = Settings(bootstrap_servers="x:1", mlflow=False, fragment_age_s=0.001)
    with capture(settings) as captured, spanferry.start_span("root") as root:
        child = spanferry.start_span_no_context("child", parent_span=root, start_time_ns=1)
        time.sleep(0.01)
        child.end(end_time_ns=2)
        assert len(captured.parcels) == 1


FORKED = """
import os, time
import spanferry
from spanferry.process import PROCESS
from spanferry.testing import capture

with capture() as captured:
    for _ in range(2):
        with spanferry.start_span("before"):
            pass
    assert PROCESS.plain
    PROCESS.clock_ns -= 3_600 * 10**9  # as if the fork were an hour ago
    child = os.fork()
    if child == 0:
        with spanferry.start_span("after") as span:
            pass
        os._exit(abs(span.start_time_ns - time.time_ns()) > 60e9)
    os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_process_looks_at_the_clocks_first() -> None:
    subprocess.run([sys.executable, "-c", FORKED], check=True, timeout=120)
