"""What stops a thread, told from what a value of the app's raises.

A value may raise anything, and what Rust panics with under Python is no Exception. But whatever else is
none, such as an exit, a cancelled task, or the time limit of a task queue, is not the value's, and goes on.
"""

from typing import Any, Final

__all__ = ["let_through"]

_PANIC: Final = "PanicException"
"""As pyo3 names it in every module that is made with it; each has a class of its own."""
_name_of: Final[Any] = type.__dict__["__name__"].__get__
"""Of a class, whatever its metaclass says."""


def let_through(error: BaseException) -> None:
    """Raise `error` again where it stops the thread; do nothing where the app's value may have raised it.

    To be called first where everything is caught that a value may raise.
    """
    kind = type(error)
    if not issubclass(kind, Exception) and _PANIC not in map(_name_of, kind.__mro__):
        raise error
