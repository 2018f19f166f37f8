"""A fork finds the sender at rest, whatever it does when the fork is asked for."""

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from spanferry import loop
from spanferry.loop import Rest

LOAD_S = 1.5
"""Longer than a fork waits for a sender that does not load anything."""


@pytest.fixture
def slow_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"slow_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(f"import time\ntime.sleep({LOAD_S})\nloaded = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    return name


def _sender(rest: Rest, work: Callable[[], None]) -> threading.Thread:
    """Awake when this returns."""
    awake = threading.Event()

    def run() -> None:
        rest.end()
        awake.set()
        try:
            work()
        finally:
            rest.begin()

    thread = threading.Thread(target=run)
    thread.start()
    assert awake.wait(10)
    return thread


def test_who_waits_already_goes_before_what_takes_long(
    slow_module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rest = Rest()

    monkeypatch.setattr(loop, "_GIVE_WAYS", 20_000)

    def work() -> None:
        while not rest._asked_for:
            time.sleep(0.001)
        rest.load(slow_module)

    sender = _sender(rest, work)
    assert rest.hold()
    assert slow_module not in sys.modules
    rest.begin()
    sender.join(20)
    assert slow_module in sys.modules


def test_a_fork_waits_for_an_import_that_began_after_it_was_asked_for(
    slow_module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the machine has so much to do that who waits does not wake up in time."""
    rest = Rest()
    monkeypatch.setattr(rest, "give_way", lambda: None)
    monkeypatch.setattr(rest, "begin", lambda: None)

    def work() -> None:
        while not rest._asked_for:
            time.sleep(0.001)
        monkeypatch.setattr(rest, "end", lambda: None)
        rest.load(slow_module)
        monkeypatch.undo()

    sender = _sender(rest, work)
    assert rest.hold()
    assert hasattr(sys.modules.get(slow_module), "loaded")
    rest.begin()
    sender.join(20)


def test_a_sender_that_hangs_lets_a_fork_go_on() -> None:
    rest, done = Rest(), threading.Event()
    sender = _sender(rest, lambda: bool(done.wait(20)) or None)
    began_s = time.monotonic()
    assert not rest.hold()
    assert time.monotonic() - began_s >= 1.0
    done.set()
    sender.join(20)


def test_a_sender_that_works_on_gives_way() -> None:
    """Many short rests in a row: the lock goes to who waits, however late he wakes up."""
    rest, stop = Rest(), threading.Event()

    def work() -> None:
        while not stop.is_set():
            rest.begin()
            rest.give_way()
            rest.end()

    sender = _sender(rest, work)
    for _ in range(20):
        assert rest.hold()
        rest.begin()
    stop.set()
    sender.join(20)
