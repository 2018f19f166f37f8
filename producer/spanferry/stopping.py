"""What stops a thread, told from what a value of the app's raises.

A value may raise anything; what Rust panics with under Python, for one, is no Exception. But an exit,
a cancelled task and a timeout are not the value's, and go on.
"""

import sys
from typing import Final

__all__ = ["let_through"]

_ALWAYS: Final = (KeyboardInterrupt, SystemExit, GeneratorExit)

_WHERE_LOADED: Final = (
    ("asyncio.exceptions", "CancelledError"),
    ("trio", "Cancelled"),
    ("greenlet", "GreenletExit"),
    ("gevent.timeout", "Timeout"),
    ("eventlet.timeout", "Timeout"),
    ("_pytest.outcomes", "OutcomeException"),
)
"""Looked up and never imported: where a module is not loaded, nothing of it is raised."""


def let_through(error: BaseException) -> None:
    """Raise `error` again where it stops the thread; do nothing where the app's value may have raised it.

    To be called first where everything is caught that a value may raise.
    """
    kind = type(error)
    if issubclass(kind, Exception):
        return
    if issubclass(kind, _ALWAYS):
        raise error
    for module, name in _WHERE_LOADED:
        stop = getattr(sys.modules.get(module), name, None)
        if isinstance(stop, type) and issubclass(kind, stop):
            raise error
