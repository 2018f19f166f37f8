"""Traces' records to a tracking server, and what becomes of those that it does not take though it is well."""

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from mlflow.entities import Trace, TraceData, TraceInfo
from mlflow.protos.service_pb2 import StartTraceV3
from mlflow.utils.proto_json_utils import message_to_json

from spanferry_worker.errors import PoisonError, TransientError
from spanferry_worker.services.mlflow_errors import refused_of
from spanferry_worker.services.mlflow_server import IllAnswerError, Server
from spanferry_worker.stages.suspects import Suspects

__all__ = ["RecordSender", "Records"]

TRACES_PATH: Final = "/api/3.0/mlflow/traces"
SUSPECTS_MAX: Final = 16
"""Of those that are written at once; where more fail the server is ill."""
_TEXTS: Final = (
    "experiment_id",
    "state",
    "client_request_id",
    "request_preview",
    "response_preview",
)
_TIMES: Final = ("request_time", "execution_duration")
_ROUNDING_MS: Final = 1
"""By which the server's own two writes of a trace differ."""


class Records(NamedTuple):
    """What a server has not taken, by trace id. All others are stored."""

    refused: dict[str, PoisonError]
    aside: dict[str, IllAnswerError]
    """Left for another write: they may be to blame themselves."""


class RecordSender:
    """Writes the records of traces to one server. Several threads may use it."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._suspects = Suspects()
        self._witness = _Witness(server)

    def put(self, infos: Sequence[TraceInfo]) -> Records:
        """Write them, many at once; a repeat writes the same.

        Raises TransientError where the server could not write one of them now; others may be written.
        """
        errors = self._posted(infos)
        ill = {key: one for key, one in errors.items() if isinstance(one, IllAnswerError)}
        if len(ill) > SUSPECTS_MAX:
            ill = {}
        refused = refused_of(errors, (None if key in ill else errors[key] for key in errors))
        taken = [info for info in infos if errors[info.trace_id] is None]
        self._suspects.taken(info.trace_id for info in taken)
        blamed = self._blamed(ill, testified=bool(taken)) if ill else {}
        self._witness.saw(taken)
        aside = {key: one for key, one in ill.items() if key not in blamed}
        return Records(refused | blamed, aside)

    def _posted(self, infos: Sequence[TraceInfo]) -> dict[str, PoisonError | TransientError | None]:
        """What became of each. One answer of an ill server ends what is under way beside it: where a few
        have none therefore, they are sent once more, one by one."""
        errors = dict(
            zip((info.trace_id for info in infos), _post(self._server, infos), strict=True)
        )
        away = [info for info in infos if isinstance(errors[info.trace_id], TransientError)]
        said = any(isinstance(error, IllAnswerError) for error in errors.values())
        if said and 1 < len(away) <= SUSPECTS_MAX:
            for info in away:
                if not isinstance(errors[info.trace_id], IllAnswerError):
                    (errors[info.trace_id],) = _post(self._server, [info])
        return errors

    def _blamed(
        self, ill: Mapping[str, IllAnswerError], *, testified: bool
    ) -> dict[str, PoisonError]:
        """Those that are to blame themselves. Raises the server's answer where it is ill."""
        if not self._server.is_well():
            self._suspects.absolve()
            raise next(iter(ill.values()))
        proof = testified or self._witness.testifies()
        if proof is False:
            self._suspects.absolve()
        now_s = time.monotonic()
        return {
            trace_id: PoisonError(
                f"{error} (so it answers again and again to the record of this trace, and takes others "
                "meanwhile: a firewall before it may object to what tags, metadata or previews say)"
            )
            for trace_id, error in ill.items()
            if proof and self._suspects.struck(trace_id, 0, now_s)
        }


class _Witness:
    """A record that one server has taken. Several threads may use it."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._lock = threading.Lock()
        self._seen: TraceInfo | None = None

    def saw(self, taken: Sequence[TraceInfo]) -> None:
        """The server has taken these."""
        if taken:
            self._seen = taken[-1]

    def testifies(self) -> bool | None:
        """Send it once more. Whether it was taken; None where there is none that would change nothing."""
        with self._lock:
            seen, self._seen = self._seen, None
            if seen is None:
                return None
            try:
                found = self._server.call(
                    "looking up traces",
                    lambda: self._server.store.batch_get_trace_infos([seen.trace_id]),
                )
            except TransientError:
                self._seen = seen
                return False
            except PoisonError:
                return None
            if not any(_says_all_of(one, seen) for one in found):
                return None
            (error,) = _post(self._server, [seen])
            self._seen = seen
            return error is None


def _says_all_of(stored: TraceInfo, sent: TraceInfo) -> bool:
    """Whether to send it again would change nothing of what is stored, but for that millisecond."""
    times = ((getattr(stored, name) or 0) - (getattr(sent, name) or 0) for name in _TIMES)
    return (
        all(str(getattr(stored, name)) == str(getattr(sent, name)) for name in _TEXTS)
        and all(abs(apart) <= _ROUNDING_MS for apart in times)
        and sent.tags.items() <= stored.tags.items()
        and sent.trace_metadata.items() <= stored.trace_metadata.items()
    )


def _post(server: Server, infos: Iterable[TraceInfo]) -> list[PoisonError | TransientError | None]:
    bodies = [(f"storing trace {info.trace_id}", _start_body(info)) for info in infos]
    return server.post_all(TRACES_PATH, bodies)


def _start_body(info: TraceInfo) -> str:
    """Of StartTraceV3, as MLflow's client makes it."""
    body: str = message_to_json(StartTraceV3(trace=Trace(info, TraceData(spans=[])).to_proto()))
    return body
