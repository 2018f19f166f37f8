"""Requests to an MLflow server, with what can go wrong sorted by what to do next."""

import gzip
import json
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_TIMEOUT
from mlflow.exceptions import MlflowException, RestException
from mlflow.tracing.utils.otlp import MLFLOW_EXPERIMENT_ID_HEADER, OTLP_TRACES_PATH
from packaging.version import InvalidVersion, Version

from spanferry_worker.errors import FatalError, PoisonError, TransientError, WorkerError
from spanferry_worker.services.http_client import HttpClient, Reply
from spanferry_worker.services.mlflow_access import Access, Call
from spanferry_worker.services.mlflow_errors import error_code, to_worker_error
from spanferry_worker.services.mlflow_private import RestStoreOver, rest_response
from spanferry_worker.stages.requests import RequestPolicy
from spanferry_worker.telemetry import LogEvent

__all__ = ["IllAnswerError", "Server", "TooLargeError"]

_T = TypeVar("_T")
_logger = logging.getLogger(__name__)

CHECK_TIMEOUT_S: Final = 5.0
SHOWN_CHARS: Final = 1000
"""Of what a server answers, in a message."""

_RACE_TEXTS: Final = ("IntegrityError", "UniqueViolation", "ForeignKeyViolation", "deadlock")
_PASSING_TEXTS: Final = (
    "timeout",
    "timed out",
    "is locked",
    "deadlock",
    "too many connections",
    "too many clients",
    "connection slots",
    "queuepool",
    "is full",
    "no space left",
    "diskfull",
    "read-only",
    "readonly",
)
"""Of databases that have too much to do, or no room; in lower case."""
_FORBIDDEN_BY_MLFLOW: Final = "Permission denied"
"""What MLflow's basic authentication answers with 403."""
_BUSY: Final = frozenset({407, 408, 425, 429, 502, 503, 504})
"""Not an answer to what was asked: a gateway's, or a server's that has too much to do."""
_REPEATABLE_POSTS: Final = ("/traces", "/batchGetInfos", "/search")
"""Ends of paths: to post these twice is to post them once."""


class TooLargeError(PoisonError):
    """The server, or a proxy before it, takes no request of this size."""


class IllAnswerError(TransientError):
    """An answer that may be about what was sent, and will be the same then whenever that is sent.

    MLflow itself, and no proxy before it, says that it cannot store it now: its database may be away, or it
    has hung up on a statement of these spans. Or a firewall before it forbids what a record says.
    """


class Server:
    """One server, by the address of its root; used by several threads. `close` it."""

    def __init__(self, uri: str, policy: RequestPolicy | None = None) -> None:
        policy = policy or RequestPolicy()
        self._access = Access(uri, policy.plain_headers())
        self.uri = self._access.shown
        """Without what nobody may see."""
        self.compresses = True
        """Whether spans go as gzip."""
        timeout_s = float(MLFLOW_HTTP_REQUEST_TIMEOUT.get())
        self._client = HttpClient(self._access, policy, timeout_s=timeout_s)
        self.store: Any = RestStoreOver(self._access.credentials, self._ask_for_store)
        """MLflow's own store over this connection, for everything that is not asked for often."""

    def close(self) -> None:
        """Break off what is under way."""
        self._client.close()

    def version(self) -> Version:
        """Ask who is there. Raises TransientError or FatalError with what to do."""
        try:
            reply = self._check("/version")
        except (TransientError, MlflowException) as error:
            raise TransientError(f"no MLflow server answers at {self.uri}: {error}") from error
        if reply.status in {401, 403}:
            raise FatalError(self.refused(reply.status))
        if reply.status >= 500 or reply.status == 429:
            raise TransientError(
                f"{self.uri} answers {reply.status} to /version: it is not ready",
                retry_after_s=reply.retry_after_s,
            )
        try:
            version = Version(reply.text.strip())
        except InvalidVersion:
            version = None
        if reply.status != 200 or version is None:
            raise FatalError(
                f"{self.uri} is not an MLflow server: it answers {reply.status} to /version; "
                "point the tracking URI to the server's root"
            )
        return version

    def call(self, doing: str, request: Callable[[], _T]) -> _T:
        """Run one request of MLflow's client, with its errors as ours.

        An INTERNAL_ERROR may be an ill server or data that it cannot digest: where it answers other
        questions it is the data.
        """
        try:
            return request()
        except MlflowException as error:
            ours = to_worker_error(error, doing)
            if _is_race(str(error)):
                raise TransientError(str(ours)) from error
            if not (isinstance(error, RestException) and error_code(error) == "INTERNAL_ERROR"):
                raise ours from error
            if not self.is_well():
                raise TransientError(str(ours)) from error
            raise PoisonError(f"{ours} (the server answers other requests)") from error

    def post_all(
        self, path: str, bodies: Sequence[tuple[str, str]]
    ) -> list[PoisonError | TransientError | None]:
        """POST many JSON bodies at once, each with what it does. None for each that was taken.

        Raises FatalError only.
        """
        calls = [_json_call("POST", path, text) for _, text in bodies]
        replies = self.call("asking", lambda: self._client.ask_all(calls))
        return [
            reply if isinstance(reply, TransientError) else self._judged(doing, path, reply)
            for (doing, _), reply in zip(bodies, replies, strict=True)
        ]

    def send_spans(self, experiment_id: str, request: Any) -> None:
        """POST an ExportTraceServiceRequest. All of it is stored after a return, or none.

        Raises TooLargeError for 413, TimedOutError where no answer came in time.
        """
        body: bytes = request.SerializeToString()
        headers = {
            "Content-Type": "application/x-protobuf",
            MLFLOW_EXPERIMENT_ID_HEADER: experiment_id,
        }
        if self.compresses:
            body = gzip.compress(body, compresslevel=4)
            headers["Content-Encoding"] = "gzip"
        call = Call("POST", OTLP_TRACES_PATH, body, headers)
        reply = self.call("storing spans", lambda: self._client.ask(call))
        if reply.status != 200 or "html" in reply.content_type:
            raise self._refusal(reply)

    def stored_spans(self, trace_id: str) -> list[dict[str, Any]] | None:
        """A trace's spans as they are stored, or None where the server has no such route.

        This is what MLflow's UI asks for: the API's own answer takes minutes for 10 MB of spans.
        """
        path = f"/ajax-api/3.0/mlflow/get-trace-artifact?request_id={trace_id}"
        doing = f"reading trace {trace_id}"
        reply = self.call(doing, lambda: self._client.ask(Call("GET", path)))
        if reply.status in _BUSY:
            raise _busy(self._access, doing, reply)
        if reply.status != 200:
            return None
        try:
            data = json.loads(reply.content)
        except ValueError:
            return None  # a page of some proxy
        spans: list[dict[str, Any]] = data["spans"]
        return spans

    def is_well(self) -> bool:
        """Whether it answers a small question, for which it asks its database."""
        try:
            reply = self._check("/api/2.0/mlflow/experiments/get?experiment_id=0")
        except (TransientError, MlflowException):
            return False
        return reply.status < 500

    def refused(self, status: int) -> str:
        """What to say when the server does not accept the worker's credentials."""
        return (
            f"{self.uri} refuses the worker's credentials ({status}): set MLFLOW_TRACKING_USERNAME "
            "and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )

    def _ask_for_store(self, method: str, path: str, text: str | None) -> Any:
        """The transport of MLflow's store. Raises TransientError for what is no answer."""
        reply = self._client.ask(_json_call(method, path, text))
        self._check_answer(f"{method} {path}", reply)
        return rest_response(reply.status, _text(self._access, reply))

    def _judged(self, doing: str, path: str, reply: Reply) -> PoisonError | TransientError | None:
        def verify() -> None:
            self._check_answer(doing, reply)
            rest_response(reply.status, _text(self._access, reply), verify_for=path)

        if _is_firewalls(reply):
            said = _said(self._access, doing, reply)
            _logger.error(
                "%s; or a firewall forbids what was sent: %s",
                self.refused(reply.status),
                said,
                extra=LogEvent.STORE_REFUSED(),
            )
            return IllAnswerError(said)
        try:
            self.call(doing, verify)
        except TransientError as error:
            if _is_mlflows(reply):
                return IllAnswerError(str(error), retry_after_s=error.retry_after_s)
            return error
        except PoisonError as error:
            return error
        return None

    def _check_answer(self, doing: str, reply: Reply) -> None:
        """Raise TransientError for answers that are not MLflow's."""
        # HTML is the page of a gateway that wants somebody to sign in.
        if reply.status in _BUSY or (reply.status == 200 and "html" in reply.content_type):
            raise _busy(self._access, doing, reply)
        if reply.status == 500 and not _json_code(reply):
            if self.is_well():
                raise PoisonError(
                    f"{_said(self._access, doing, reply)} (it answers other requests)"
                )
            raise _busy(self._access, doing, reply)

    def _refusal(self, reply: Reply) -> WorkerError:
        """What an answer to spans other than 200 means. FastAPI's own errors carry no MLflow code."""
        status = reply.status
        message = _said(self._access, "storing spans", reply)
        if status == 501:
            return FatalError(
                f"{self.uri} keeps its data in files and takes no spans: start the server with a "
                "database (`--backend-store-uri`)"
            )
        if status in {401, 403}:
            _logger.error(
                "%s; traces wait until that is mended",
                self.refused(status),
                extra=LogEvent.STORE_REFUSED(),
            )
        if status in {401, 403} or _is_race(reply.text):
            return TransientError(message)
        if status == 413:
            return TooLargeError(message)
        if status == 500 and _json_code(reply) == "INTERNAL_ERROR" and self.is_well():
            return PoisonError(message)
        if status >= 500 or status == 200 or status in _BUSY:
            kind = IllAnswerError if _is_mlflows(reply) else TransientError
            return kind(message, retry_after_s=reply.retry_after_s)
        return PoisonError(message)

    def _check(self, path: str) -> Reply:
        return self._client.ask(Call("GET", path, timeout_s=CHECK_TIMEOUT_S, tries=1))


def _busy(access: Access, doing: str, reply: Reply) -> TransientError:
    return TransientError(_said(access, doing, reply), retry_after_s=reply.retry_after_s)


def _is_race(text: str) -> bool:
    """Whether two writers have met in the database."""
    return any(race in text for race in _RACE_TEXTS)


def _is_mlflows(reply: Reply) -> bool:
    """Whether MLflow itself says that it could not store something, and not for want of time."""
    said = reply.text.lower()
    passing = _is_race(reply.text) or any(text in said for text in _PASSING_TEXTS)
    return reply.status in {500, 503} and bool(_json_code(reply)) and not passing


def _is_firewalls(reply: Reply) -> bool:
    """Whether it is forbidden, and neither MLflow nor its own authentication says so."""
    forbidden = reply.status == 403 and not _json_code(reply)
    return forbidden and reply.text.strip() != _FORBIDDEN_BY_MLFLOW


def _said(access: Access, doing: str, reply: Reply) -> str:
    text = access.masked(reply.text[: 10 * SHOWN_CHARS])
    return f"{doing}: the server answers {reply.status}: {text[:SHOWN_CHARS]}"


def _text(access: Access, reply: Reply) -> str:
    """What it says. Nothing is hidden in what is stored, only in what goes into messages."""
    return reply.text if reply.status < 400 else access.masked(reply.text)


def _json_call(method: str, path: str, text: str | None) -> Call:
    repeatable = method != "POST" or path.endswith(_REPEATABLE_POSTS)
    if method == "GET":
        return Call(method, path, params=json.loads(text) if text else None)
    body = (text or "{}").encode()
    return Call(method, path, body, {"Content-Type": "application/json"}, repeatable=repeatable)


def _json_code(reply: Reply) -> str:
    try:
        body = json.loads(reply.text)
    except ValueError:
        return ""
    return str(body.get("error_code", "")) if isinstance(body, dict) else ""
