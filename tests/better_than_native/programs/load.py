"""So many traces of 5 spans and 10 KB a second, for so long; then a flush that is bounded."""

import random
import time
from typing import Any

import mlflow
import msgspec

from tests.better_than_native.programs.shipping import answer, begin, bounded, leave, trace

TEXTS = [random.Random(seed).randbytes(500).hex() for seed in range(64)]


def main() -> None:
    options = begin()
    rate, seconds = options["rate"], options["seconds"]
    trace_ids: list[str] = []
    started = time.monotonic()
    while len(trace_ids) < rate * seconds:
        ahead = started + len(trace_ids) / rate - time.monotonic()
        if ahead > 0:
            time.sleep(ahead)
        elif time.monotonic() - started > seconds:
            break  # as many as the app's thread could make
        number = len(trace_ids)
        trace_ids.append(trace(number, children=4, payload=TEXTS[number % len(TEXTS)]))
    made_s = time.monotonic() - started
    flushed, counted = flush(options)
    answer(trace_ids=trace_ids, made_s=made_s, flushed=flushed, counted=counted)
    leave()


def flush(options: dict[str, Any]) -> tuple[bool, dict[str, Any]]:
    """Whether all is sent, and spanferry's own account. Nobody waits for the store here."""
    if not options.get("topic"):
        return bounded(mlflow.flush_trace_async_logging, options["flush_s"]), {}
    import spanferry

    return spanferry.flush(options["flush_s"]), msgspec.to_builtins(spanferry.stats())


if __name__ == "__main__":
    main()
