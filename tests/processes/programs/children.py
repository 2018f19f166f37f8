"""A parent and its children, each of which traces and then ends the way that its kind ends.

`python -m tests.processes.programs.children KIND [NUMBER]`
"""

import multiprocessing
import os
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import spanferry
from tests.processes.programs import timing

CHILDREN = 3
TRACES = 40

if __name__ == "__mp_main__":  # spawned: it imports this file anew, and calls no main()
    spanferry.enable()


def trace(label: str, count: int = TRACES, first: int = 0) -> None:
    """`<label>-0`, `<label>-1` …"""
    for number in range(first, first + count):
        with spanferry.start_span(f"{label}-{number}"), spanferry.start_span("inside"):
            pass


def run_children(method: str) -> None:
    """One after the other: each ends by os._exit right after its last trace."""
    context = multiprocessing.get_context(method)
    for number in range(CHILDREN):
        child = context.Process(target=trace, args=(f"child{number}",))
        child.start()
        child.join()


def in_threads(label: str) -> None:
    """Half of them in a thread and a pool that outlive the function."""
    pool = ThreadPoolExecutor(1)
    go_on = threading.Event()
    threading.Thread(target=lambda: (go_on.wait(), time.sleep(0.2), trace(label, 20))).start()
    pool.submit(lambda: (go_on.wait(), trace(label, 20, 20)))
    go_on.set()


def fork_plainly() -> None:
    """os.fork; the child leaves through the interpreter's exit."""
    for number in range(CHILDREN):
        if os.fork() == 0:
            trace(f"child{number}")
            sys.exit()
        os.wait()


def fork_while_threads_trace() -> None:
    """At any moment, ten times."""
    stop = threading.Event()
    counts = [0, 0, 0]

    def go_on(number: int) -> None:
        while not stop.is_set():
            trace(f"thread{number}", 1, counts[number])
            counts[number] += 1
            time.sleep(0.0005)

    threads = [threading.Thread(target=go_on, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for number in range(10):
        child = os.fork()
        if child == 0:
            trace(f"child{number}")
            os._exit(0 if spanferry.flush(100) else 1)
        assert os.waitpid(child, 0)[1] == 0
    stop.set()
    for thread in threads:
        thread.join()
    print("threads", *counts, flush=True)


def enable_again() -> None:
    """A child that drops what it has inherited; the parent's connection goes on."""
    trace("parent", 10)
    assert spanferry.flush(100)
    if os.fork() == 0:
        import gc

        spanferry.enable()
        trace("child0")
        spanferry.disable()
        gc.collect()
        sys.exit()
    os.wait()
    trace("parent", 10, 10)
    assert spanferry.flush(100), "the child has taken the parent's sockets with it"


def with_open_span() -> None:
    """A fork in the middle of a trace: the child's spans go into it, its end is the parent's."""
    with spanferry.start_span("parent-0"):
        if os.fork() == 0:
            trace("inside")
            sys.exit()
        os.wait()


def main(kind: str) -> None:
    """One program's life."""
    spanferry.enable()
    timing.measure()
    if kind in {"fork", "spawn", "forkserver"}:
        run_children(kind)
    elif kind == "traced-before":
        trace("parent", 10)
        run_children("fork")
        trace("parent", 10, 10)
    elif kind == "pool":
        with multiprocessing.get_context("fork").Pool(2, maxtasksperchild=1) as pool:
            pool.map(trace, [f"child{number}" for number in range(CHILDREN)], chunksize=1)
    elif kind == "executor":
        with ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as executor:
            list(executor.map(trace, [f"child{number}" for number in range(CHILDREN)]))
    elif kind == "threads":
        child = multiprocessing.get_context("fork").Process(target=in_threads, args=("child0",))
        child.start()
        child.join()
    else:
        {
            "plain": fork_plainly,
            "while-threads-trace": fork_while_threads_trace,
            "enable-again": enable_again,
            "open-span": with_open_span,
        }[kind]()


if __name__ == "__main__":
    main(sys.argv[1])
