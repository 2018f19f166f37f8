"""Processes that end without the interpreter's exit: multiprocessing's children, and celery's.

Both end by os._exit once their work is done, so that atexit never runs; each has a place of its own
for last things. Neither is imported here: a process that is such a child has it loaded already.
"""

import sys
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final

__all__ = ["arrange"]

_UTILS: Final = ("multiprocessing.util", "billiard.util")
_PROCESSES: Final = ("multiprocessing.process", "billiard.process")
_UID: Final = "spanferry"
_LAST: Final = -1_000_000
"""Among what runs at the end of such a process; what the app has arranged may still trace."""

_arranged: set[str] = set()
"""What has been told to arrange it in all children; a child inherits that."""

_leave: Callable[[], object] | None = None


def arrange(leave: Callable[[], object]) -> None:
    """Have `leave` called, which must be bounded, where this process ends so, and its children.

    Called when spanferry is switched on, and in every forked child before its work begins.
    """
    global _leave  # noqa: PLW0603  the process has one
    _leave = leave
    for util, process in zip(_UTILS, _PROCESSES, strict=True):
        loaded = sys.modules.get(util)
        if loaded is not None and util not in _arranged:
            _arranged.add(util)
            loaded.register_after_fork(loaded, _at_the_end)
            if _is_child(sys.modules.get(process)):  # it has begun: too late for the line above
                _at_the_end(loaded)
    signals = sys.modules.get("celery.signals")
    if signals is not None:
        signals.worker_process_shutdown.connect(_on_shutdown, weak=False, dispatch_uid=_UID)


def _is_child(process: ModuleType | None) -> bool:
    current: Any = process.current_process() if process is not None else None
    return type(current).__name__ not in {"NoneType", "_MainProcess"}


def _at_the_end(util: ModuleType) -> None:
    """In the child: these are called by priority once its work is done."""
    util.Finalize(None, _after_the_threads, exitpriority=_LAST)


def _after_the_threads() -> None:
    """Leave, but not before the threads that the process itself will wait for."""
    if _others():
        threading.Thread(target=_wait_and_leave, name="spanferry-leave").start()
    else:
        _on_shutdown()


def _wait_and_leave() -> None:
    threading.main_thread().join()  # from then on pools of threads come to their end too
    while others := _others():
        for thread in others:
            thread.join()
    _on_shutdown()


def _others() -> list[threading.Thread]:
    known = {threading.main_thread(), threading.current_thread()}
    return [one for one in threading.enumerate() if not one.daemon and one not in known]


def _on_shutdown(**_: object) -> None:
    if _leave is not None:
        _leave()
