"""A producer: `python -m tests.chaos.producer JSON` traces until SIGTERM, and keeps a journal.

Its spool is on (`spool_mode="always"`). What that promises is that nothing is lost which the sender has
looked at: of each trace it notes when that has become true. What a kill -9 may take is the rest. One
without a spool has a small buffer: it promises what Kafka has, and counts what it drops.
"""

import signal
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

import spanferry
from spanferry import client
from tests.chaos.journal import Journal
from tests.chaos.traces import SAMPLED_TAG, Expected, expected, payload

__all__ = ["Order"]

LOOK_S = 0.01
FLUSH_S = 120.0
REPORT_S = 60.0
RECORD_BYTES_MAX = 100_000


class Order(Struct, kw_only=True):
    """What it is to do."""

    bootstrap_servers: str
    topic: str
    experiment: str
    first: int
    """The number of its first trace; the others follow."""
    per_s: float
    spool: str
    """Empty: it has none."""
    journal: str
    """Where it writes, both."""
    buffer_bytes: int | None = None
    """Of one without a spool, which is to be full now and then."""


class Producer:
    """One life."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._journal = Journal(Path(order.journal))
        self._stopping = False

    def stop(self, *_: object) -> None:
        """Finish the trace at hand, flush, say how it went."""
        self._stopping = True

    def run(self) -> None:
        """Until stopped."""
        due = time.monotonic()
        number = self._order.first
        while not self._stopping:
            self._trace(expected(number))
            number += 1
            # After a pause what was missed is made up for, as requests that waited are.
            due = max(due + 1 / self._order.per_s, time.monotonic() - 10)
            self._rest_until(due)
        flushed = spanferry.flush(FLUSH_S)
        self._journal.safe(safe_parcels())
        self._journal.dropped_late(dropped_late())
        _wait_for_report()
        self._journal.ended(msgspec.to_builtins(spanferry.stats()) | {"flushed": flushed})

    def _rest_until(self, due: float) -> None:
        while True:
            self._journal.safe(safe_parcels())
            self._journal.dropped_late(dropped_late())
            left = due - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, LOOK_S))

    def _trace(self, one: Expected) -> None:
        dropped_before = handed_over()[1]
        with spanferry.start_span(one.spans[0], span_type="AGENT") as root:
            self._journal.made(one.number, root.trace_id)
            tags = {"number": str(one.number)}
            if one.sampled:
                tags[SAMPLED_TAG] = "yes"
            spanferry.update_current_trace(tags=tags, client_request_id=f"chaos-{one.number}")
            root.set_inputs(payload(one.number, 0, one.sizes[0]))
            for index, name in enumerate(one.spans[1:], 1):
                with spanferry.start_span(name, span_type="TOOL") as step:
                    step.set_inputs(payload(one.number, index, one.sizes[index]))
        # Nobody judges what was dropped: the judgement would wait for its trace, and then be dead.
        if one.feedback is not None and handed_over()[1] == dropped_before:
            by_request = one.feedback.by_request
            spanferry.log_feedback(
                trace_id=None if by_request else root.trace_id,
                client_request_id=f"chaos-{one.number}" if by_request else None,
                name="grade",
                value=one.feedback.value,
            )
        parcels, dropped = handed_over()
        if dropped > dropped_before:
            self._journal.dropped(one.number, dropped - dropped_before)
        self._journal.handed(one.number, parcels)


def _room(order: Order) -> dict[str, Any]:
    """Where what Kafka does not take at once may wait."""
    if order.spool:
        return {"spool_dir": order.spool, "spool_mode": "always"}
    return {
        "buffer_bytes": order.buffer_bytes,
        "record_bytes_max": RECORD_BYTES_MAX,
        "payload_bytes_max": 0,  # dropped whole, not cut
    }


def handed_over() -> tuple[int, int]:
    """Parcels that the buffer has taken, and those that it has not."""
    current = client._client
    assert current is not None
    counts = current._buffer.counts
    dropped = counts.dropped_full + counts.dropped_oversize + counts.dropped_broken
    return counts.parcels - dropped, dropped


def dropped_late() -> int:
    """Parcels that the sender has given up: those of a trace of which the buffer had dropped another."""
    current = client._client
    assert current is not None
    return sum(current._sender.dispatcher.stager.drops.parcels.values())


def safe_parcels() -> int:
    """How many of those, the oldest, are acknowledged by Kafka or on disk."""
    current = client._client
    assert current is not None
    ledger = current._sender.dispatcher.ledger
    taken = ledger.taken  # before the look: what is taken meanwhile does not count
    for receipt in list(ledger._open.values()):
        if receipt.ticket is None:
            return min(taken, receipt.serial - 1)
    return taken


def _wait_for_report() -> None:
    """Until Kafka has heard of all that was dropped. At its end an app says so once, and waits for no
    answer: that must not fail a run whose brokers are being killed."""
    current = client._client
    assert current is not None
    reporter = current._sender.dispatcher.reporter
    dropped = handed_over()[1] + dropped_late()
    deadline = time.monotonic() + REPORT_S
    while sum(reporter._said.dropped.values()) < dropped and time.monotonic() < deadline:
        time.sleep(LOOK_S)


def main(text: str) -> None:
    """One life, until SIGTERM or something worse."""
    order = msgspec.json.decode(text, type=Order)
    producer = Producer(order)
    signal.signal(signal.SIGTERM, producer.stop)
    spanferry.enable(
        bootstrap_servers=order.bootstrap_servers,
        topic=order.topic,
        experiment=order.experiment,
        exit_timeout_s=30.0,
        budget_ms=0.0,
        mlflow=False,
        collect_environment=False,
        **_room(order),
    )
    producer.run()


if __name__ == "__main__":
    main(sys.argv[1])
