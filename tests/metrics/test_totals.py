"""Counters only grow, whatever the app switches off and on; a forked process begins at zero."""

import os
import threading
from collections.abc import Callable

import msgspec

import spanferry
from spanferry.metrics import totals
from spanferry.metrics.rows import ROWS
from tests.producer.traffic import send

READS = {row.prometheus_name: row for row in ROWS}


def numbers(name: str) -> dict[str, float]:
    return totals.look(spanferry.stats()).read(READS[f"spanferry_app_{name}"])


def test_zero_before_anything_is_enabled() -> None:
    assert numbers("traces_total") == {"": 0}
    assert numbers("enabled") == {"": 0}
    assert numbers("parcels_dropped_total")["buffer_full"] == 0


def test_the_account_of_one_client_is_what_stats_says(enable: Callable[..., None]) -> None:
    enable()
    send(2000, 1000)
    stats = spanferry.stats()
    assert stats.traces_dropped > 0
    assert numbers("traces_total") == {"": stats.traces} == {"": 2000}
    assert numbers("traces_settled_total")["dropped"] == stats.traces_dropped
    assert numbers("parcels_dropped_total")["buffer_full"] == stats.dropped["buffer_full"]
    assert numbers("buffered_bytes")[""] == stats.buffered_bytes > 0
    assert numbers("buffer_limit_bytes") == {"": 1_000_000}
    assert numbers("enabled") == {"": 1}


def test_off_and_on_again(enable: Callable[..., None]) -> None:
    for times in (1, 2, 3):
        enable()
        send(2000, 1000)
        spanferry.disable()
        assert spanferry.stats().traces == 0
        assert numbers("traces_total") == {"": 2000 * times}
        assert numbers("enabled") == numbers("buffered_bytes") == {"": 0}
    enable()
    send(1)
    enable()  # without a word
    send(1)
    assert numbers("traces_total") == {"": 6002}


def test_what_redaction_has_counted_stays(enable: Callable[..., None]) -> None:
    for times in (1, 2):
        enable(redact="field:ssn")
        with spanferry.start_span("one") as span:
            span.set_inputs({"ssn": "123-45-6789"})
        assert numbers("values_redacted_total") == {"": times}


def test_counters_do_not_go_back_while_a_client_closes(enable: Callable[..., None]) -> None:
    enable(exit_timeout_s=0.5)
    send(2000, 1000)
    found: list[float] = []
    closing = threading.Thread(target=spanferry.disable)
    closing.start()
    while closing.is_alive():
        found.append(numbers("traces_total")[""])
    assert len(found) > 10
    assert set(found) == {2000}


def test_a_client_that_has_ended_is_let_go_of(enable: Callable[..., None]) -> None:
    enable()
    spanferry.disable()
    assert totals._state[1] is None


def test_a_forked_process_counts_its_own(enable: Callable[..., None]) -> None:
    enable()
    send(5)
    spanferry.disable()
    enable()
    send(7)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        send(2)
        os.write(writing, msgspec.json.encode(numbers("traces_total")))
        os._exit(0)
    os.waitpid(child, 0)
    assert msgspec.json.decode(os.read(reading, 100)) == {"": 2}
    assert numbers("traces_total") == {"": 12}
    os.close(reading)
    os.close(writing)


def test_a_listener_that_fails_stops_nobody(caplog) -> None:
    told: list[bool] = []

    def fails(last: bool) -> None:
        raise OSError("no space left")

    totals.listeners.extend([fails, told.append])
    totals.tell()
    totals.tell(last=True)
    assert told == [False, True]
    assert caplog.text.count("no space left") == 1
