"""Fills a topic by spanferry's own API: `python -m benchmarks.worker_fill SERVERS TOPIC TRACES`."""

import sys
import time

import spanferry
from benchmarks.payloads import make_payload
from benchmarks.recorders import spans


def main(servers: str, topic: str, traces: int) -> None:
    """Make them, never more than the buffer takes, and wait until Kafka has them all."""
    spanferry.enable(bootstrap_servers=servers, topic=topic, experiment="bench")
    record = spans(spanferry.start_span)["with"]
    payloads = [make_payload("chat", 10_000, seed) for seed in range(64)]
    for number in range(traces):
        record(payloads[number % len(payloads)])
        while spanferry.stats().buffered_bytes > 20_000_000:
            time.sleep(0.01)
    if not spanferry.flush(timeout_s=120):
        sys.exit("not all traces reached Kafka")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
