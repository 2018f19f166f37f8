"""Errors of MLflow, SQLAlchemy and HTTP, sorted by what to do next."""

import logging
import re
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import requests
import sqlalchemy.exc
from mlflow.exceptions import MlflowException, RestException

from spanferry_worker.errors import PoisonError, TransientError, WorkerError
from spanferry_worker.services import mlflow_mysql as mysql
from spanferry_worker.telemetry import LogEvent

__all__ = [
    "RefusedError",
    "SuspectedError",
    "causes",
    "elsewhere",
    "error_code",
    "first_lines",
    "is_access",
    "is_forbidden",
    "is_missing",
    "mapped",
    "refused_of",
    "to_worker_error",
]

_logger = logging.getLogger(__name__)

_TRANSIENT_CODES: Final = frozenset(
    {"TEMPORARILY_UNAVAILABLE", "RESOURCE_EXHAUSTED", "REQUEST_LIMIT_EXCEEDED", "CANCELLED", "ABORTED",
     "DEADLINE_EXCEEDED", "RESOURCE_CONFLICT"}
)  # fmt: skip
_VERDICT: Final = "INVALID_PARAMETER_VALUE"
"""MLflow's own judgement, also where it came to look because its database had found a row there."""
_ELSEWHERE: Final = re.compile(r"Trace with ID '([^']+)' already exists in another experiment")
"""From MLflow 3.18 on, which no longer moves traces."""
_ACCESS_CODES: Final = frozenset(
    {"PERMISSION_DENIED", "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED", "UNAUTHORIZED"}
)
_TRANSIENT_STATUS: Final = frozenset({401, 403, 407, 408, 425, 429, 500, 502, 503, 504})
_SIGNED: Final = re.compile(r"(https?://[^\s?'\"]+)\?[^\s'\"]+")
# The database refuses us, not the data: an operator can mend that, and nothing may be lost meanwhile.
_ACCESS_SQLSTATES: Final = frozenset(
    {"42501", "42P01", "42703", "25006", "3F000", "28000", "28P01"}
)
_FORBIDDEN_SQLSTATE: Final = "42501"
_TRANSIENT_SQLSTATE_CLASSES: Final = frozenset({"08", "40", "53", "55", "57", "58"})
_TRANSIENT_SQL: Final = (
    sqlalchemy.exc.OperationalError,
    sqlalchemy.exc.InterfaceError,
    sqlalchemy.exc.TimeoutError,
    sqlalchemy.exc.IntegrityError,  # two writers met: the loser repeats and finds the trace there
    sqlalchemy.exc.PendingRollbackError,
)


class RefusedError(PoisonError):
    """Of new traces some are refused, and all others are stored. `refused`: errors by trace id."""

    def __init__(self, refused: Mapping[str, PoisonError]) -> None:
        super().__init__("; ".join(map(str, list(refused.values())[:3])))
        self.refused = dict(refused)


class SuspectedError(TransientError):
    """Some traces are left for another try, though the store takes others: they may be to blame."""


def refused_of(
    trace_ids: Iterable[str], errors: Iterable[PoisonError | TransientError | None]
) -> dict[str, PoisonError]:
    """Of traces that were written at once those that are refused, and why.

    Raises TransientError where one of them could not be written now: of several the one that asks for
    the longest wait.
    """
    told = dict(zip(trace_ids, errors, strict=True))
    away = [error for error in told.values() if isinstance(error, TransientError)]
    if away:
        raise max(away, key=lambda error: error.retry_after_s or 0.0)
    return {key: error for key, error in told.items() if isinstance(error, PoisonError)}


def error_code(error: BaseException) -> str:
    """MLflow's error code as text, or an empty one."""
    code = getattr(error, "error_code", "")
    return code if isinstance(code, str) else ""


def is_access(error: BaseException) -> bool:
    """Whether MLflow refuses the worker's credentials."""
    return error_code(error) in _ACCESS_CODES


def is_forbidden(error: BaseException) -> bool:
    """Whether MLflow or its database knows the worker, and does not let it do what it has asked for."""
    if error_code(error) == "PERMISSION_DENIED":
        return True
    originals = [
        cause.orig for cause in causes(error) if isinstance(cause, sqlalchemy.exc.DBAPIError)
    ]
    return any(
        getattr(one, "sqlstate", None) == _FORBIDDEN_SQLSTATE or mysql.is_forbidden(one)
        for one in originals
    )


def is_missing(error: BaseException) -> bool:
    """Whether MLflow says that what was asked for is not there."""
    return error_code(error) in {"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"}


def elsewhere(error: PoisonError) -> list[str]:
    """Ids of traces that MLflow refuses to write to because they are in another experiment than is said."""
    errors = error.refused.values() if isinstance(error, RefusedError) else [error]
    return [trace_id for one in errors for trace_id in _ELSEWHERE.findall(str(one))]


def to_worker_error(error: Exception, doing: str) -> WorkerError:
    """`error` as one of ours. `doing` begins the message: what was being done."""
    if isinstance(error, WorkerError):
        return error
    if isinstance(
        error.__cause__, WorkerError
    ):  # raised within a session of MLflow's, which wraps all
        return error.__cause__
    message = f"{doing}: {first_lines(error)}"
    if is_access(error):
        message = (
            f"MLflow refuses the worker's credentials, traces wait until it does not: {message}"
        )
        _logger.error("%s", message, extra=LogEvent.STORE_REFUSED())
    return TransientError(message) if _is_transient(error) else PoisonError(message)


@contextmanager
def mapped(doing: str) -> Generator[None]:
    """Raise whatever goes wrong inside as TransientError or PoisonError."""
    try:
        yield
    except WorkerError:
        raise
    except Exception as error:
        raise to_worker_error(error, doing) from error


def _is_transient(error: Exception) -> bool:
    if isinstance(error, MlflowException) and error_code(error) == _VERDICT:
        return False
    for cause in causes(error):
        if isinstance(cause, sqlalchemy.exc.SQLAlchemyError):
            return _is_transient_sql(cause)
        if isinstance(cause, (requests.exceptions.RequestException, OSError)):
            return True
    if isinstance(error, RestException):
        code = error_code(error)
        # A refusal by the server's own code is told apart from its illness by the HTTP sink.
        return code in _TRANSIENT_CODES | _ACCESS_CODES | {"INTERNAL_ERROR"} or (
            not code and error.get_http_status_code() in _TRANSIENT_STATUS
        )
    if isinstance(error, MlflowException):
        return error_code(error) in _TRANSIENT_CODES | _ACCESS_CODES
    return False


def _is_transient_sql(error: sqlalchemy.exc.SQLAlchemyError) -> bool:
    if isinstance(error, sqlalchemy.exc.DBAPIError):
        if mysql.is_poison(error.orig):
            return False
        sqlstate = getattr(error.orig, "sqlstate", None) or ""
        if error.connection_invalidated or sqlstate in _ACCESS_SQLSTATES:
            return True
        if sqlstate[:2] in _TRANSIENT_SQLSTATE_CLASSES or mysql.is_transient(error.orig):
            return True
    return isinstance(error, _TRANSIENT_SQL)


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came from, the latest first."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def first_lines(error: BaseException) -> str:
    """The message without the statement and parameters that SQLAlchemy appends, and without what lets
    in whoever has an address."""
    text = str(error).split("\n[SQL:", maxsplit=1)[0].strip()
    text = _SIGNED.sub(r"\1?…", text)
    return f"{type(error).__name__}: {text[:1000]}"
