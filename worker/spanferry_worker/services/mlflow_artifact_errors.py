"""Errors of MLflow's artifact stores, sorted by what to do next."""

import errno
from typing import Any, Final

from spanferry_worker.errors import PoisonError, TransientError, WorkerError
from spanferry_worker.services.mlflow_errors import causes, is_missing, to_worker_error

__all__ = ["is_gone", "sorted_error"]

_NO_PLACE: Final = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG}
)
_TRANSIENT_STATUS: Final = frozenset({401, 403, 407, 408, 425, 429})
_PASSING_WORDS: Final = ("timeout", "timed out", "connect", "throttl", "slowdown", "unavailable")
"""How the clients of object stores, whose errors have no common base, name what may pass."""
_GONE_STATUS: Final = 404


def sorted_error(error: Exception, doing: str, advice: str) -> WorkerError:
    """Transient where trying again may help. Artifact stores raise whatever their clients raise.

    `doing` begins the message, `advice` ends that of what no repetition changes.
    """
    ours = to_worker_error(error, doing)
    if _may_pass(error, ours):
        return TransientError(str(ours))
    return PoisonError(f"{ours}; {advice}")


def is_gone(error: Exception) -> bool:
    """Whether the store answers, and has no such file."""
    return any(
        isinstance(cause, FileNotFoundError) or is_missing(cause) or _status(cause) == _GONE_STATUS
        for cause in causes(error)
    )


def _may_pass(error: Exception, ours: WorkerError) -> bool:
    for cause in causes(error):
        if isinstance(cause, OSError) and cause.errno in _NO_PLACE:
            return False
        if (status := _status(cause)) is not None:
            return status >= 500 or status in _TRANSIENT_STATUS
    if isinstance(ours, TransientError):
        return True
    name = f"{type(error).__name__}: {error}".lower()
    return not isinstance(error, ImportError) and any(word in name for word in _PASSING_WORDS)


def _status(error: BaseException) -> int | None:
    """The HTTP status behind an error of requests, boto, Google's or Azure's client."""
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):
        response_metadata: Any = response.get("ResponseMetadata", {})
        status: Any = response_metadata.get("HTTPStatusCode")
    elif response is not None:
        status = getattr(response, "status_code", None)
    else:
        status = getattr(error, "status_code", None) or getattr(error, "code", None)
    return status if isinstance(status, int) and 100 <= status < 600 else None
