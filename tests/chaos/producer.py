"""A producer: `python -m tests.chaos.producer JSON` traces until SIGTERM, and keeps a journal.

Its spool is on (`spool_mode="always"`). What that promises is that nothing is lost which the sender has
looked at: of each trace it notes when that has become true. What a kill -9 may take is the rest.
"""

import signal
import sys
import time
from pathlib import Path

import msgspec
from msgspec import Struct

import spanferry
from spanferry import client
from tests.chaos.journal import Journal
from tests.chaos.traces import Expected, expected, payload

__all__ = ["Order"]

LOOK_S = 0.01
FLUSH_S = 120.0


class Order(Struct, kw_only=True):
    """What it is to do."""

    bootstrap_servers: str
    topic: str
    experiment: str
    first: int
    """The number of its first trace; the others follow."""
    per_s: float
    spool: str
    journal: str
    """Where it writes, both."""


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
        self._journal.ended(msgspec.to_builtins(spanferry.stats()) | {"flushed": flushed})

    def _rest_until(self, due: float) -> None:
        while True:
            self._journal.safe(safe_parcels())
            left = due - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, LOOK_S))

    def _trace(self, one: Expected) -> None:
        dropped_before = handed_over()[1]
        with spanferry.start_span(one.spans[0], span_type="AGENT") as root:
            self._journal.made(one.number, root.trace_id)
            spanferry.update_current_trace(
                tags={"number": str(one.number)}, client_request_id=f"chaos-{one.number}"
            )
            root.set_inputs(payload(one.number, 0, one.sizes[0]))
            for index, name in enumerate(one.spans[1:], 1):
                with spanferry.start_span(name, span_type="TOOL") as step:
                    step.set_inputs(payload(one.number, index, one.sizes[index]))
        if one.feedback is not None:
            by_request = one.feedback.by_request
            spanferry.log_feedback(
                trace_id=None if by_request else root.trace_id,
                client_request_id=f"chaos-{one.number}" if by_request else None,
                name="grade",
                value=one.feedback.value,
            )
        parcels, dropped = handed_over()
        if dropped > dropped_before:
            self._journal.dropped(one.number)
        self._journal.handed(one.number, parcels)


def handed_over() -> tuple[int, int]:
    """Parcels that the buffer has taken, and those that it has not."""
    current = client._client
    assert current is not None
    counts = current._buffer.counts
    dropped = counts.dropped_full + counts.dropped_oversize
    return counts.parcels - dropped, dropped


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


def main(text: str) -> None:
    """One life, until SIGTERM or something worse."""
    order = msgspec.json.decode(text, type=Order)
    producer = Producer(order)
    signal.signal(signal.SIGTERM, producer.stop)
    spanferry.enable(
        bootstrap_servers=order.bootstrap_servers,
        topic=order.topic,
        experiment=order.experiment,
        spool_dir=order.spool,
        spool_mode="always",
        exit_timeout_s=30.0,
        budget_ms=0.0,
        mlflow=False,
        collect_environment=False,
    )
    producer.run()


if __name__ == "__main__":
    main(sys.argv[1])
