"""Foreign errors, sorted by what to do next."""

from collections.abc import Callable

import psycopg.errors
import pymysql
import pytest
import requests
import sqlalchemy.exc
from mlflow.exceptions import MlflowException, RestException
from mlflow.protos import databricks_pb2
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from spanferry_worker.errors import FatalError, PoisonError, TransientError
from spanferry_worker.services import http_client
from spanferry_worker.services.mlflow_errors import (
    RefusedError,
    elsewhere,
    mapped,
    to_worker_error,
)
from spanferry_worker.services.mlflow_server import IllAnswerError, Server, TooLargeError

pytestmark = pytest.mark.mlflow


def caused(error: Exception, by: Exception) -> Exception:
    error.__cause__ = by
    return error


def sql(kind: type[sqlalchemy.exc.DBAPIError], original: Exception) -> sqlalchemy.exc.DBAPIError:
    return kind("SELECT secret", {"password": "secret"}, original)


BAD_REQUEST = databricks_pb2.BAD_REQUEST
OPERATIONAL, INTEGRITY = sqlalchemy.exc.OperationalError, sqlalchemy.exc.IntegrityError
DATA, PROGRAMMING = sqlalchemy.exc.DataError, sqlalchemy.exc.ProgrammingError
INTERNAL = sqlalchemy.exc.InternalError


class NumberedError(Exception):
    """As mysql-connector-python raises it."""

    def __init__(self, errno: int) -> None:
        super().__init__(f"{errno} (40001): it happened")
        self.errno = errno


@pytest.mark.parametrize(
    ("error", "becomes"),
    [
        (MlflowException("x", databricks_pb2.TEMPORARILY_UNAVAILABLE), TransientError),
        (MlflowException("x", databricks_pb2.RESOURCE_EXHAUSTED), TransientError),
        (MlflowException("x", databricks_pb2.PERMISSION_DENIED), TransientError),
        (MlflowException("x", databricks_pb2.INVALID_PARAMETER_VALUE), PoisonError),
        (MlflowException("x", databricks_pb2.INVALID_STATE), PoisonError),
        (MlflowException("x", databricks_pb2.INTERNAL_ERROR), PoisonError),
        (RestException({"error_code": "UNAUTHENTICATED"}), TransientError),
        (RestException({"error_code": "RESOURCE_DOES_NOT_EXIST"}), PoisonError),
        (sql(OPERATIONAL, Exception("database is locked")), TransientError),
        (sql(OPERATIONAL, psycopg.errors.DeadlockDetected()), TransientError),
        (sql(INTEGRITY, psycopg.errors.UniqueViolation()), TransientError),
        (sql(DATA, psycopg.errors.UntranslatableCharacter()), PoisonError),
        (sql(PROGRAMMING, psycopg.errors.InsufficientPrivilege()), TransientError),
        (sql(PROGRAMMING, psycopg.errors.UndefinedTable()), TransientError),
        (sql(PROGRAMMING, psycopg.errors.SyntaxError()), PoisonError),
        (
            sql(OPERATIONAL, pymysql.OperationalError(1205, "Lock wait timeout exceeded")),
            TransientError,
        ),
        (sql(OPERATIONAL, pymysql.OperationalError(1213, "Deadlock found")), TransientError),
        (
            sql(OPERATIONAL, pymysql.OperationalError(2006, "MySQL server has gone away")),
            TransientError,
        ),
        (sql(OPERATIONAL, pymysql.OperationalError(1153, "Got a packet bigger")), PoisonError),
        (sql(PROGRAMMING, pymysql.ProgrammingError(1146, "Table doesn't exist")), TransientError),
        (sql(PROGRAMMING, pymysql.ProgrammingError(1064, "syntax")), PoisonError),
        (sql(DATA, pymysql.DataError(1406, "Data too long")), PoisonError),
        (sql(INTERNAL, NumberedError(1213)), TransientError),
        (sqlalchemy.exc.TimeoutError("pool"), TransientError),
        (requests.exceptions.ReadTimeout(), TransientError),
        (ConnectionResetError(), TransientError),
        (RecursionError(), PoisonError),
        (UnicodeEncodeError("utf-8", "x", 0, 1, "y"), PoisonError),
    ],
)
def test_errors(error: Exception, becomes: type[Exception]) -> None:
    assert type(to_worker_error(error, "storing")) is becomes
    wrapped = caused(MlflowException(str(error), BAD_REQUEST), by=error)
    if isinstance(error, (sqlalchemy.exc.SQLAlchemyError, OSError)):
        assert type(to_worker_error(wrapped, "storing")) is becomes


def test_statements_and_their_values_are_not_told() -> None:
    error = to_worker_error(sql(DATA, Exception("reason")), "storing")
    assert "reason" in str(error)
    assert "secret" not in str(error)


@pytest.mark.parametrize("because_of", [INTEGRITY, OPERATIONAL])
def test_mlflows_own_verdict_is_not_what_led_it_there(
    because_of: type[sqlalchemy.exc.DBAPIError],
) -> None:
    """As 3.18 refuses a part of a stored trace that names another experiment: where its INSERT failed."""
    text = "Trace with ID 'tr-1' already exists in another experiment."
    refusal = MlflowException(text, databricks_pb2.INVALID_PARAMETER_VALUE)
    refusal.__context__ = sql(because_of, psycopg.errors.UniqueViolation())
    with pytest.raises(PoisonError) as raised, mapped("updating"):
        raise refusal
    assert elsewhere(raised.value) == ["tr-1"]
    several = RefusedError({"tr-1": raised.value, "tr-2": PoisonError("too deep")})
    assert elsewhere(several) == ["tr-1"]


def test_a_race_that_mlflow_finds_is_tried_again() -> None:
    """The trace was there for the INSERT, and deleted when MLflow looked for it."""
    gone = MlflowException("no longer exists", databricks_pb2.RESOURCE_DOES_NOT_EXIST)
    gone.__context__ = sql(INTEGRITY, psycopg.errors.UniqueViolation())
    assert type(to_worker_error(gone, "storing")) is TransientError


def test_our_own_errors_pass() -> None:
    with pytest.raises(FatalError, match="as it was"), mapped("storing"):
        raise FatalError("as it was")


@pytest.mark.parametrize(
    ("status", "body", "becomes"),
    [
        (400, '{"error_code": "INVALID_PARAMETER_VALUE"}', PoisonError),
        (400, '{"message": "(psycopg.errors.UniqueViolation)"}', TransientError),
        (401, "", TransientError),
        (403, "", TransientError),
        (404, '{"error_code": "RESOURCE_DOES_NOT_EXIST"}', PoisonError),
        (413, "too large", TooLargeError),
        (422, '{"detail": "x"}', PoisonError),
        (429, "", TransientError),
        (500, '{"error_code": "INTERNAL_ERROR"}', IllAnswerError),  # and nothing else works
        (502, "", TransientError),
        (503, "", TransientError),
        (501, "", FatalError),
    ],
)
def test_answers_to_spans(
    other_server: Callable[[int, str], str],
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    body: str,
    becomes: type[Exception],
) -> None:
    monkeypatch.setattr(http_client, "BACKOFF_S", 0.001)
    server = Server(other_server(status, body))
    with pytest.raises(becomes) as raised:
        server.send_spans("0", ExportTraceServiceRequest())
    assert type(raised.value) is becomes
    server.close()


def test_a_server_that_fails_on_one_request_only(mlflow_server: object) -> None:
    """What it cannot digest while it answers other questions is the data's fault."""
    server = Server(mlflow_server.uri)  # type: ignore[attr-defined]

    def fail() -> None:
        raise RestException({"error_code": "INTERNAL_ERROR"})

    with pytest.raises(PoisonError, match="answers other requests"):
        server.call("storing", fail)
