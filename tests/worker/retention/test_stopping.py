"""Asked to stop: at first in order, then at once."""

import os
import signal
import threading

import pytest

from spanferry_worker.retention.stopping import Stop


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks_the_second_breaks_off(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    stop = Stop()
    with stop.listening():
        assert not stop.wait(0)
        signal.raise_signal(number)
        assert stop.asked
        assert stop.wait(60), "no time passes any more"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_a_signal_ends_a_pause() -> None:
    stop = Stop()
    with stop.listening():
        timer = threading.Timer(0.05, os.kill, [os.getpid(), signal.SIGTERM])
        timer.start()
        assert stop.wait(60)
        timer.join()


def test_in_another_thread_it_hears_nothing_and_changes_nothing() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[object] = []

    def listen() -> None:
        with Stop().listening():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert seen == [before]
