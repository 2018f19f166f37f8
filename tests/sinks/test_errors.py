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
from spanferry_worker.services.mlflow_errors import mapped, to_worker_error
from spanferry_worker.services.mlflow_server import Server, TooLargeError

pytestmark = [pytest.mark.mlflow]


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
        (500, '{"error_code": "INTERNAL_ERROR"}', TransientError),  # and nothing else works
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
