"""Greenlets in the place of threads: each makes one trace, with a child of its own in another one."""

import gevent.monkey

gevent.monkey.patch_all()

import asyncio  # noqa: E402
import contextvars  # noqa: E402
import sys  # noqa: E402
import threading  # noqa: E402
import time  # noqa: E402

import gevent  # noqa: E402

import spanferry  # noqa: E402

GREENLETS = 100


def inside() -> None:
    """In a greenlet of its own."""
    time.sleep(0.001)
    with spanferry.start_span("inside"):
        time.sleep(0.001)


def one(number: int) -> None:
    """One trace, during which others run. A thread begins without a context, as a plain spawn does."""
    with spanferry.start_span(f"green-{number}"):
        gevent.spawn(contextvars.copy_context().run, inside).join()
        thread = threading.Thread(target=inside)
        thread.start()
        thread.join()


async def nothing() -> None:
    """asyncio.run in the main greenlet: the sender's loop is not this thread's."""


def main(ending: str) -> None:
    """All at once, then two flushes at once, then more, then the end."""
    ticks = 0

    def tick() -> None:
        nonlocal ticks
        while True:
            time.sleep(0.001)
            ticks += 1

    spanferry.enable()
    ticker = gevent.spawn(tick)
    gevent.joinall([gevent.spawn(one, number) for number in range(GREENLETS // 2)])
    asyncio.run(nothing())
    before = ticks
    flushes = [gevent.spawn(spanferry.flush, 20) for _ in range(2)]
    gevent.joinall(flushes)
    assert [flush.value for flush in flushes] == [True, True]
    assert ticks > before, "a flush has held up the other greenlets"
    ticker.kill()
    gevent.joinall([gevent.spawn(one, number) for number in range(GREENLETS // 2, GREENLETS)])
    print("traced", flush=True)
    if ending == "wait":
        time.sleep(60)


if __name__ == "__main__":
    main(sys.argv[1])
