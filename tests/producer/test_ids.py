"""Ids lie ready where a sender runs; nobody waits for them, and none is given twice."""

import os
import threading
from collections.abc import Iterator

import pytest

import spanferry
from spanferry.process import PROCESS, supply_ids
from spanferry.testing import capture


@pytest.fixture(autouse=True)
def none_left() -> Iterator[None]:
    yield
    PROCESS.trace_ids.clear()
    PROCESS.span_ids.clear()


def test_ids_that_lie_ready_are_used_and_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for other in ("models", "scopes", "detours"):  # tests before this one
        monkeypatch.setattr(PROCESS, other, False)
    supply_ids()
    trace_ids, span_ids = set(PROCESS.trace_ids), set(PROCESS.span_ids)
    with capture():
        for number in range(400):  # more traces than there are ids
            with spanferry.start_span("root") as root, spanferry.start_span("child") as child:
                ready = (root.trace_id_bytes in trace_ids, child.span_id_bytes in span_ids)
            if number == 1:  # from the second on traces start the short way
                assert ready == (True, True)
        assert ready == (False, False)
    assert not PROCESS.trace_ids
    assert not PROCESS.span_ids
    supply_ids()
    assert len(PROCESS.trace_ids) == len(trace_ids)
    assert len(PROCESS.span_ids) == len(span_ids)
    assert not trace_ids & set(PROCESS.trace_ids)


def test_threads_never_share_an_id_and_never_go_without() -> None:
    seen: list[list[tuple[bytes, bytes]]] = []

    def work() -> None:
        made: list[tuple[bytes, bytes]] = []
        for _ in range(2_000):
            with spanferry.start_span("root") as root:
                made.append((root.trace_id_bytes, root.span_id_bytes))
        seen.append(made)

    with capture():
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            supply_ids()
    ids = [pair for made in seen for pair in made]
    assert len(ids) == 8_000
    for which in (0, 1):
        assert len({pair[which] for pair in ids}) == 8_000
    assert all(any(trace_id) and any(span_id) for trace_id, span_id in ids)


class Robbed(list[bytes]):
    """Another thread takes the last id between the look and the grasp."""

    def __bool__(self) -> bool:
        return True


def test_who_comes_too_late_for_the_last_id_makes_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with capture() as captured:
        with spanferry.start_span("learns"):
            pass
        monkeypatch.setattr(PROCESS, "trace_ids", Robbed())
        monkeypatch.setattr(PROCESS, "span_ids", Robbed())
        with spanferry.start_span("root"), spanferry.start_span("child"):
            spanferry.start_span_no_context("other").end()
    assert [len(trace.spans) for trace in captured.traces] == [1, 3]


def test_a_forked_process_has_none_of_its_parents() -> None:
    supply_ids()
    child = os.fork()
    if child == 0:
        os._exit(len(PROCESS.trace_ids) + len(PROCESS.span_ids) > 0)
    assert os.waitpid(child, 0)[1] == 0
    assert PROCESS.trace_ids
