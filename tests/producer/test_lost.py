"""A trace that cannot be handed over is counted; one that is updated while it ends is not lost."""

import asyncio
import contextvars
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import spanferry
from spanferry import client as clients
from spanferry import outlet as outlets
from spanferry import spans, trace_state
from spanferry.metrics import totals
from spanferry.metrics.rows import ROWS
from spanferry.redaction import Redaction
from spanferry.settings import Settings
from spanferry.testing import capture
from spanferry.trace_state import INCOMPLETE

NOWHERE = "127.0.0.1:1"


@pytest.fixture
def client(unsaid: None) -> Iterator[clients.Client]:
    """An app whose sender never starts: what it counts is counted in the app's threads."""
    client = clients.Client(Settings(bootstrap_servers=NOWHERE))
    client._buffer.on_put = None
    before = outlets.install(client)
    yield client
    outlets.install(before)


def elsewhere(call: Callable[..., object], *args: Any, **kwargs: Any) -> None:
    """Call it in another thread, and wait for its end."""
    thread = threading.Thread(target=call, args=args, kwargs=kwargs)
    thread.start()
    thread.join()


def test_who_updates_a_trace_while_it_ends_loses_nothing(unsaid: None) -> None:
    """With redaction the end takes its time, in the app's own function too: others go on meanwhile."""
    inside: list[contextvars.Context] = []
    updates = 0

    def function(value: Any, place: str) -> Any:
        nonlocal updates
        if inside and place.startswith(("tag ", "metadata ")):
            updates += 1
            update = spanferry.update_current_trace
            name = f"late{updates}"
            elsewhere(inside[0].copy().run, update, tags={name: "x"}, metadata={name: "x"})
        return value

    redact = Redaction(function=function, identities=True)
    with capture(Settings(bootstrap_servers=NOWHERE, redact=redact)) as captured:
        for number in range(3):
            updates = 0
            with spanferry.start_span(f"root {number}"):
                spanferry.update_current_trace(tags={"a": "1", "b": "2"}, session_id="s")
                inside[:] = [contextvars.copy_context()]
            assert updates > 2
    assert [trace.name for trace in captured.traces] == ["root 0", "root 1", "root 2"]
    for trace in captured.traces:
        assert trace.complete
        assert (trace.tags["a"], trace.tags["b"]) == ("1", "2")
        assert trace.metadata["mlflow.trace.session"] == "s"


def test_a_trace_that_cannot_be_handed_over_is_counted_once(
    client: clients.Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with spanferry.start_span("fine"):
        pass
    with spanferry.start_span("root") as root:
        late = spanferry.start_span_no_context("late", parent_span=root)
        with spanferry.start_span("child"):
            pass
        monkeypatch.setattr(spans, "EndedSpan", fails)
    monkeypatch.undo()
    root.end()
    late.end()
    assert "a span could not be handed over: a fault of ours" in caplog.text
    stats = client.stats()
    assert (stats.traces, stats.traces_dropped, stats.traces_buffered) == (2, 1, 1)
    assert stats.traces_dropped_by_reason["broken"] == stats.dropped["broken"] == 1
    assert stats.buffered_bytes < 10_000
    [row] = [row for row in ROWS if row.name == "traces_dropped"]
    assert totals.Account(stats, {}, stats).read(row)["broken"] == 1


def test_with_a_lost_root_goes_all_that_waits_and_comes(
    client: clients.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with spanferry.start_span("root") as root:
        late = spanferry.start_span_no_context("late", parent_span=root)
        with spanferry.start_span("early"):
            pass
        root.trace.hand_over_what_has_ended()
        monkeypatch.setattr(spans, "EndedSpan", fails)
    monkeypatch.undo()
    late.end()
    stager = client._sender.dispatcher.stager
    assert asyncio.run(stager.take()) is None
    stats = client.stats()
    assert stats.traces == stats.traces_dropped == stats.traces_dropped_by_reason["broken"] == 1


def test_a_span_that_is_lost_leaves_its_trace_incomplete(
    captured: capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with spanferry.start_span("root"):
        with pytest.MonkeyPatch.context() as broken, spanferry.start_span("child"):
            broken.setattr(spans, "EndedSpan", fails)
        with spanferry.start_span("another"):
            pass
    [trace] = captured.traces
    assert [span.name for span in trace.spans] == ["root", "another"]
    assert trace.metadata[INCOMPLETE] == "dropped"


@pytest.mark.parametrize("stop", [KeyboardInterrupt, asyncio.CancelledError])
def test_what_stops_the_thread_while_a_trace_ends_goes_on_and_the_trace_is_counted(
    stop: type[BaseException], unsaid: None
) -> None:
    def function(value: Any, place: str) -> Any:
        raise stop

    client = clients.Client(
        Settings(bootstrap_servers=NOWHERE, redact=Redaction(function=function))
    )
    client._buffer.on_put = None
    before = outlets.install(client)
    try:
        with pytest.raises(stop), spanferry.start_span("root") as root:
            root.set_inputs("x")
    finally:
        outlets.install(before)
    assert client.stats().traces_dropped_by_reason["broken"] == 1


def test_what_stops_the_thread_while_a_trace_is_weighed_leaves_it_counted(
    client: clients.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_: object) -> int:
        raise SystemExit

    monkeypatch.setattr(trace_state, "part_size", stop)
    with pytest.raises(SystemExit), spanferry.start_span("root"):
        spanferry.update_current_trace(tags={"t": "x"})
    assert client.stats().traces_dropped_by_reason["broken"] == 1


def test_a_trace_that_was_put_is_not_counted_twice(
    client: clients.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fails:
        def __setattr__(self, name: str, value: object) -> None:
            raise RuntimeError("after the end")

    monkeypatch.setattr(spans, "_LAST_TRACE", Fails())
    with spanferry.start_span("root"):
        pass
    stats = client.stats()
    assert (stats.traces, stats.traces_dropped, stats.traces_buffered) == (1, 0, 1)


def test_counting_that_fails_is_said(
    captured: capture, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(spans, "EndedSpan", fails)
    monkeypatch.setattr(trace_state, "Whole", fails)
    with spanferry.start_span("root"):
        pass
    assert "a trace was lost, and not counted" in caplog.text


def fails(*_: Any, **__: Any) -> Any:
    raise RuntimeError("a fault of ours")
