"""Threads, locks and files as the interpreter makes them, also where gevent has put others there.

The sender is a thread of the operating system whatever the app's threads are: as a greenlet its event
loop would be the running one for every other greenlet, and its work would hold all of them up.

gevent's locks then wake greenlets from another thread, which they do not do any more in a child whose
parent has had a hub. So nothing here makes one before the first trace (gunicorn --preload forks until
then), and the sender's thread imports nothing, which takes many locks.
"""

import importlib
import sys
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["NativeThread", "greenlets", "new_thread", "original"]


def original(module: str, name: str) -> Any:
    """What that module has under that name where nobody has patched it."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None:
        return getattr(importlib.import_module(module), name)
    return monkey.get_original(module, name)


def greenlets() -> bool:
    """Whether the app's threads are greenlets of gevent."""
    start: object = threading._start_new_thread  # type: ignore[attr-defined]  # noqa: SLF001
    return start is not original("_thread", "start_new_thread")


class NativeThread:
    """What of threading.Thread the sender needs, on the interpreter's own threads, beside gevent."""

    def __init__(self, target: Callable[[], object]) -> None:
        self._target = target
        self._running = original("_thread", "allocate_lock")()

    def start(self) -> None:
        """Once. Raises RuntimeError where there are no more threads."""
        # Both threads need a hub of gevent's, and what it imports for its first one is under locks
        # that need a hub themselves: two threads that make one at once wait for each other for ever.
        sys.modules["gevent"].get_hub()
        self._running.acquire()
        try:
            original("_thread", "start_new_thread")(self._run, ())
        except RuntimeError:
            self._running.release()
            raise

    def join(self, timeout: float) -> None:
        """Wait for its end. Greenlets of the calling thread wait too."""
        if self._running.acquire(timeout=timeout):
            self._running.release()

    def _run(self) -> None:
        try:
            self._target()
        finally:
            self._running.release()


def new_thread(target: Callable[[], object], name: str) -> threading.Thread | NativeThread:
    """A daemon, not started yet."""
    if greenlets():
        return NativeThread(target)
    return threading.Thread(target=target, name=name, daemon=True)
