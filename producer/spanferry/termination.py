"""SIGTERM, where the app has left it at its default action: flush first, then end by it as before.

The default action ends the process at once and without atexit, so what waits for Kafka would be
lost. Whoever handles the signal (gunicorn, the app) is left alone, before and afterwards.

uvicorn handles it while it serves, shuts down gracefully, puts back what was in force before, and
ends by the signal all the same. An app that it imports then finds uvicorn's handler in force and the
default action behind it: there the flush is the last step of the graceful shutdown.
"""

import contextlib
import inspect
import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

from spanferry.log import say_once
from spanferry.native import original

__all__ = ["flush_first", "look_for_a_server", "restore"]

_STANDSTILL_S: Final = 0.5
"""For so long the main thread waits for its end. Then it goes on, because the flush may wait for a
lock that it holds; the process ends all the same once the flush is over."""

_UVICORN: Final = "uvicorn.server.Server"

_flush: Callable[[], object] | None = None


def flush_first(flush: Callable[[], object]) -> None:
    """Have SIGTERM call `flush`, which must be bounded, before it ends the process.

    Called by the main thread while the default action is in force; else nothing changes. A handler
    that is set afterwards takes our place; one that calls the handler before it gets the flush, and
    decides itself what comes then. Forked processes inherit it.
    """
    global _flush  # noqa: PLW0603  the process has one
    _flush = flush
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        with contextlib.suppress(ValueError):  # only the main thread may
            signal.signal(signal.SIGTERM, _on_sigterm)
    look_for_a_server()


def look_for_a_server() -> None:
    """Have a uvicorn whose handler is in force flush when it has shut down. In any thread."""
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    if any(f"{kind.__module__}.{kind.__name__}" == _UVICORN for kind in type(server).__mro__):
        shutdown: Any = getattr(server, "shutdown", None)
        if inspect.iscoroutinefunction(shutdown):  # and not one of ours
            server.shutdown = _Shutdown(shutdown)  # type: ignore[union-attr]


class _Shutdown:
    """A server's coroutine function, and the flush after it."""

    __slots__ = ("_before",)

    def __init__(self, before: Callable[..., Any]) -> None:
        self._before = before

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        import asyncio  # noqa: PLC0415  uvicorn has loaded it; other apps need not

        try:
            return await self._before(*args, **kwargs)
        finally:
            try:
                await asyncio.get_running_loop().run_in_executor(None, _flush_quietly)
            except RuntimeError:  # no more threads: nobody is served any more, so it may block
                _flush_quietly()


def restore() -> None:
    """Leave SIGTERM to its default action again, unless somebody else handles it by now."""
    global _flush  # noqa: PLW0603  the process has one
    _flush = None
    if signal.getsignal(signal.SIGTERM) is _on_sigterm:
        with contextlib.suppress(ValueError):  # without a flush it does what the default does
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _on_sigterm(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  the protocol's
    if signal.getsignal(number) is not _on_sigterm:  # the handler in force calls the one before it
        _flush_quietly()
        return
    signal.signal(number, signal.SIG_DFL)  # a second one does not wait
    try:
        # Not threading.Thread: its start takes locks that the main thread may hold right now. And no
        # greenlet: this may be gevent's hub, which cannot wait for one.
        original("_thread", "start_new_thread")(_end, (number,))
    except RuntimeError:  # no more threads
        _end(number)
    original("time", "sleep")(_STANDSTILL_S)


def _end(number: int) -> None:
    _flush_quietly()
    os.kill(os.getpid(), number)


def _flush_quietly() -> None:
    flush = _flush
    if flush is None:
        return
    try:
        flush()
    except Exception as error:  # noqa: BLE001  the signal must not be lost for our troubles
        with contextlib.suppress(Exception):  # a log may be in the middle of a line
            say_once("termination", "no flush at SIGTERM: %r", error)
