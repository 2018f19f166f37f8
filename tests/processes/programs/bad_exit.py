"""An app that traces and then ends. `python -m tests.processes.programs.bad_exit COUNT ENDING`

ENDING: exit, raise, thread (the main thread first), os._exit, flushed (os._exit after a flush), wait.
RESOLVER=hangs in the environment: no name server answers. DISK=hangs: no write comes back.
Says at the end how long spanferry's part of it took.
"""

import atexit
import os
import socket
import sys
import threading
import time

import spanferry
from tests.processes.programs import timing


def hang(*_: object, **__: object) -> None:
    """As a resolver does whose servers are away, and a disk that is none any more."""
    time.sleep(60)


def main(count: int, ending: str) -> None:
    """One program's life."""
    if os.environ.get("RESOLVER") == "hangs":
        socket.getaddrinfo = hang
    if os.environ.get("DISK") == "hangs":
        os.writev = os.fdatasync = hang
    spanferry.enable()
    timing.measure()
    atexit.register(print, "leaving", flush=True)  # called before spanferry's own
    for number in range(count):
        with spanferry.start_span(f"trace-{number}"), spanferry.start_span("inside"):
            pass
    print("traced", flush=True)
    if ending == "raise":
        raise RuntimeError("on purpose")
    if ending == "thread":
        threading.Thread(target=after_the_main_thread, args=(count,)).start()
    if ending == "flushed":
        print("flushed", spanferry.flush(20), flush=True)
    if ending in {"os._exit", "flushed"}:
        os._exit(3)
    if ending == "wait":
        sys.stdin.readline()


def after_the_main_thread(count: int) -> None:
    """One more trace, when the main thread has come to its end."""
    threading.main_thread().join()
    with spanferry.start_span(f"trace-{count}"):
        pass


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
