"""Switching on in ways that nobody has meant: at once, without threads, past the end."""

import subprocess
import sys
import threading
import time
from typing import Any

import pytest

import spanferry
from spanferry import sender
from spanferry.client import disable, enable, stats
from tests.services.process import free_port


@pytest.fixture(autouse=True)
def switched_off():
    yield
    disable()


def on(**options: Any) -> None:
    enable(
        bootstrap_servers=f"127.0.0.1:{free_port()}",
        exit_timeout_s=0.1,
        collect_environment=False,
        mlflow=False,
        **options,
    )


def senders() -> int:
    return sum(one.name == "spanferry-sender" for one in threading.enumerate())


def test_who_enables_at_once_with_others_leaves_one_sender():
    """The one that loses would try to reach Kafka for ever."""
    threads = [threading.Thread(target=on) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    with spanferry.start_span("a"):
        pass
    assert stats().traces == 1
    assert senders() == 1
    disable()
    assert senders() == 0


def test_where_there_are_no_more_threads_the_next_trace_asks_again(monkeypatch):
    real = sender.new_thread

    def none_left(*_: Any) -> Any:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(sender, "new_thread", none_left)
    on()
    with spanferry.start_span("waits"):
        pass
    assert not spanferry.flush(30), "it has waited for nobody"
    assert senders() == 0
    monkeypatch.setattr(sender, "new_thread", real)
    with spanferry.start_span("starts it"):
        pass
    assert senders() == 1
    assert stats().traces_buffered == 2


def test_where_nothing_waits_nobody_waits():
    """A server's first process has traced nothing, and Kafka is away: its end is no later for that."""
    on()
    begun_s = time.monotonic()
    assert spanferry.flush(100)
    assert time.monotonic() - begun_s < 10


def test_what_the_spool_has_taken_is_not_waited_for(tmp_path):
    on(spool_dir=str(tmp_path))
    with spanferry.start_span("a"):
        pass
    assert spanferry.flush(100), "it is on disk as soon as Kafka is known to be away"
    assert stats().traces_spooled == 1


TRACES_ON = """
import threading, time
import spanferry
spanferry.enable(bootstrap_servers="127.0.0.1:1", exit_timeout_s=0.3, mlflow=False)

def traces():
    while True:
        with spanferry.start_span("beside"):
            time.sleep(0.001)

for _ in range(4):
    threading.Thread(target=traces, daemon=True).start()
time.sleep(0.2)
"""


def test_threads_that_trace_past_the_end_are_no_reason_to_say_more_than_one_line():
    done = subprocess.run(
        [sys.executable, "-c", TRACES_ON], capture_output=True, text=True, check=True, timeout=120
    )
    lines = [line for line in done.stderr.splitlines() if not line.startswith("traces wait")]
    assert len(lines) == 1, done.stderr
    assert "are lost" in lines[0]
