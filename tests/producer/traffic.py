"""Parcels as the tracing API makes them, for tests of what comes after it; also run as a program.

`python -m tests.producer.traffic BOOTSTRAP TOPIC MODE` plays an app that does what MODE says and
prints its stats as one line of JSON.
"""

import os
import sys
import time

import msgspec

from spanferry import outlet
from spanferry.client import disable, enable, flush, stats
from spanferry.parcel import PARCEL_OVERHEAD_BYTES, Parcel
from spanferry_schemas import End, Span, StatusCode, TracePart, encode_span

__all__ = ["a_trace", "send"]


def a_trace(size: int = 1000, *, spans: int = 2) -> Parcel:
    """A finished trace whose payload is about `size` bytes in all."""
    payload = b'"' + os.urandom(size // spans // 2).hex().encode() + b'"'
    root = os.urandom(8)
    encoded = [
        encode_span(
            Span(
                root if number == 0 else os.urandom(8),
                None if number == 0 else root,
                f"span {number}",
                "CHAIN",
                1,
                2,
                StatusCode.OK,
                attributes={"mlflow.spanInputs": payload},
            )
        )
        for number in range(spans)
    ]
    return Parcel(
        trace_id=os.urandom(16),
        size=sum(map(len, encoded)) + PARCEL_OVERHEAD_BYTES,
        spans=encoded,
        trace=TracePart(tags={"pid": str(os.getpid())}),
        end=End(spans),
    )


def send(count: int, size: int = 1000) -> None:
    """Hand over so many traces."""
    current = outlet.current()
    assert current is not None
    for _ in range(count):
        current.put(a_trace(size))


def main(bootstrap_servers: str, topic: str, mode: str) -> None:
    """One app's life."""
    enable(bootstrap_servers=bootstrap_servers, topic=topic, exit_timeout_s=5.0)
    if mode == "exit":
        send(100)
    elif mode == "disable":
        send(100)
        disable()
    elif mode in {"fork", "fork_fresh"}:
        _fork(traced_before=mode == "fork")
    elif mode == "slow":
        for _ in range(200):
            send(1)
            time.sleep(0.005)
        flush(10)
    if mode != "exit":
        print(msgspec.json.encode(stats()).decode(), flush=True)


def _fork(*, traced_before: bool) -> None:
    """Two children as gunicorn --preload makes them; they leave by os._exit after a flush."""
    if traced_before:
        send(10)
        flush(10)
        send(10)  # these may still wait while the children start: they are the parent's
    children = []
    for _ in range(2):
        child = os.fork()
        if child == 0:
            send(50)
            os._exit(0 if flush(100) else 1)
        children.append(child)
    for child in children:
        _, status = os.waitpid(child, 0)
        assert status == 0, "a child's flush failed"


if __name__ == "__main__":
    main(*sys.argv[1:])
