"""An app with a spool, and what it does on bad days.

`python -m tests.spool.program BOOTSTRAP TOPIC FOLDER MODE COUNT` prints its stats as lines of JSON.
Traces have the numbers 0, 1, 2 … as their ids, in a forked process FORK_STRIDE * its number more.
"""

import os
import sys
import time

import msgspec

from spanferry import outlet
from spanferry.client import disable, enable, flush, stats
from tests.processes.programs import timing
from tests.producer.traffic import a_trace

FORK_STRIDE = 1_000_000
PROCESSES = 4


def send(first: int, count: int, *, per_s: float, size: int = 2000) -> None:
    """Hand over so many traces, evenly."""
    current = outlet.current()
    assert current is not None
    begun = time.monotonic()
    for number in range(count):
        trace = a_trace(size)
        current.put(msgspec.structs.replace(trace, trace_id=(first + number).to_bytes(16, "big")))
        ahead_s = number / per_s - (time.monotonic() - begun)
        if ahead_s > 0:
            time.sleep(ahead_s)


def say() -> None:
    """The account, in one write: several processes share the pipe."""
    os.write(1, msgspec.json.encode(stats()) + b"\n")


def on_disk() -> int:
    """Traces that the sender has written, beside memory or instead."""
    from spanferry import client

    current = client._client
    assert current is not None
    kept = current._sender.dispatcher.ledger.traces_kept
    return stats().traces_spooled + kept


def fork(count: int) -> None:
    """As gunicorn --preload: the parent has traced, its children go on."""
    send(0, 10, per_s=1000)
    flush(10)
    children = []
    for number in range(1, PROCESSES + 1):
        child = os.fork()
        if child == 0:
            send(number * FORK_STRIDE, count, per_s=100)
            disable_and_say()
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    disable_and_say()


def disable_and_say() -> None:
    """Flush or spool what is left; then the account."""
    from spanferry import client

    current = client._client
    disable()
    assert current is not None
    os.write(1, msgspec.json.encode(current.stats()) + b"\n")


def main(bootstrap_servers: str, topic: str, folder: str, mode: str, count: str) -> None:
    """One app's life."""
    enable(
        bootstrap_servers=bootstrap_servers,
        topic=topic,
        spool_dir=folder,
        spool_mode="always" if mode.endswith("always") else "overflow",
        exit_timeout_s=3.0,
        mlflow=False,
    )
    if mode.startswith("fork"):
        fork(int(count))
    elif mode.startswith("exit"):
        timing.measure()
        send(0, int(count), per_s=1e6)
    elif mode.startswith("die"):
        send(0, int(count), per_s=1e6)
        while on_disk() < int(count):
            time.sleep(0.05)
        say()
        os.kill(os.getpid(), 9)


if __name__ == "__main__":
    main(*sys.argv[1:])
