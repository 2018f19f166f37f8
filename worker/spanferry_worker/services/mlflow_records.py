"""Traces' records to a tracking server, and what becomes of those that it does not take though it is well."""

import threading
import time
from collections.abc import Mapping, Sequence
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
ROUNDS_MAX: Final = 16
"""In which records are sent that were not answered because another one was answered ill."""
EXPERIMENTS_MAX: Final = 100
"""Of which a witness is known."""
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
_Errors = dict[str, PoisonError | TransientError | None]
"""By trace id; None where it was taken."""


class Records(NamedTuple):
    """What a server has not taken, by trace id. All others are stored."""

    refused: dict[str, PoisonError]
    aside: dict[str, TransientError]
    """Left for another write: some of them may be to blame themselves."""


class RecordSender:
    """Writes the records of traces to one server. Several threads may use it."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._suspects = Suspects()
        self._witnesses = _Witnesses(server)

    def put(self, infos: Sequence[TraceInfo]) -> Records:
        """Write them, many at once; a repeat writes the same.

        Raises TransientError where the server could not write one of them now; others may be written.
        """
        errors = self._posted(infos)
        taken = [info for info in infos if errors[info.trace_id] is None]
        self._suspects.taken(info.trace_id for info in taken)
        self._witnesses.saw(taken)
        ill = {key: one for key, one in errors.items() if isinstance(one, IllAnswerError)}
        if not ill:
            return Records(refused_of(errors, errors.values()), {})
        if not self._server.is_well():
            self._suspects.absolve()
            raise next(iter(ill.values()))
        proven = {str(info.experiment_id) for info in taken}
        suspects = {
            info.trace_id: str(info.experiment_id) for info in infos if info.trace_id in ill
        }
        for experiment_id in set(suspects.values()) - proven:
            proof = self._witnesses.testifies(experiment_id)
            if proof is False:
                self._suspects.absolve()
            elif proof:
                proven.add(experiment_id)
        found = errors | self._blamed(
            {key: ill[key] for key, of in suspects.items() if of in proven}
        )
        return Records(
            {key: one for key, one in found.items() if isinstance(one, PoisonError)},
            {key: one for key, one in found.items() if isinstance(one, TransientError)},
        )

    def _posted(self, infos: Sequence[TraceInfo]) -> _Errors:
        """What became of each.

        One answer of an ill server ends what is under way beside it. What has none therefore is sent again,
        as long as the server is well and answers some of it.
        """
        errors = _post(self._server, infos)
        if not any(isinstance(error, IllAnswerError) for error in errors.values()):
            return errors
        for _ in range(ROUNDS_MAX):
            left = [info for info in infos if _is_unanswered(errors[info.trace_id])]
            if not left or not self._server.is_well():
                break
            again = _post(self._server, left)
            errors |= again
            if all(map(_is_unanswered, again.values())):
                break
        return errors

    def _blamed(self, ill: Mapping[str, IllAnswerError]) -> dict[str, PoisonError]:
        """Those that have failed often enough; the server has just taken another record beside each."""
        now_s = time.monotonic()
        return {
            trace_id: PoisonError(
                f"{error} (so it answers again and again to the record of this trace, and takes others of "
                "its experiment meanwhile: a firewall before it may object to tags, metadata or previews)"
            )
            for trace_id, error in ill.items()
            if self._suspects.struck(trace_id, 0, now_s)
        }


class _Witnesses:
    """Of each experiment a record that one server has taken. Several threads may use it."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._lock = threading.Lock()
        self._seen: dict[str, TraceInfo] = {}

    def saw(self, taken: Sequence[TraceInfo]) -> None:
        """The server has taken these. One with feedback is none: sent again, it would undo its changes."""
        with self._lock:
            for info in taken:
                if not info.assessments:
                    self._seen.pop(str(info.experiment_id), None)
                    self._seen[str(info.experiment_id)] = info
            while len(self._seen) > EXPERIMENTS_MAX:
                self._seen.pop(next(iter(self._seen)))

    def testifies(self, experiment_id: str) -> bool | None:
        """Send it once more. Whether it was taken; None where there is none that would change nothing."""
        seen = self._seen.get(experiment_id)
        if seen is None:
            return None
        proof = self._proof(seen)  # others go on meanwhile
        with self._lock:
            if proof is None and self._seen.get(experiment_id) is seen:
                del self._seen[experiment_id]
        return proof

    def _proof(self, seen: TraceInfo) -> bool | None:
        ids = [seen.trace_id]
        try:
            found = self._server.call(
                "looking up traces", lambda: self._server.store.batch_get_trace_infos(ids)
            )
        except TransientError:
            return False
        except PoisonError:
            return None
        if not any(_says_all_of(one, seen) for one in found):
            return None
        (error,) = _post(self._server, [seen]).values()
        return None if isinstance(error, PoisonError) else error is None


def _is_unanswered(error: PoisonError | TransientError | None) -> bool:
    return isinstance(error, TransientError) and not isinstance(error, IllAnswerError)


def _says_all_of(stored: TraceInfo, sent: TraceInfo) -> bool:
    """Whether to send it again would change nothing of what is stored, but for that millisecond."""
    times = ((getattr(stored, name) or 0) - (getattr(sent, name) or 0) for name in _TIMES)
    return (
        all(str(getattr(stored, name)) == str(getattr(sent, name)) for name in _TEXTS)
        and all(abs(apart) <= _ROUNDING_MS for apart in times)
        and sent.tags.items() <= stored.tags.items()
        and sent.trace_metadata.items() <= stored.trace_metadata.items()
    )


def _post(server: Server, infos: Sequence[TraceInfo]) -> _Errors:
    bodies = [(f"storing trace {info.trace_id}", _start_body(info)) for info in infos]
    errors = server.post_all(TRACES_PATH, bodies)
    return dict(zip((info.trace_id for info in infos), errors, strict=True))


def _start_body(info: TraceInfo) -> str:
    """Of StartTraceV3, as MLflow's client makes it."""
    body: str = message_to_json(StartTraceV3(trace=Trace(info, TraceData(spans=[])).to_proto()))
    return body
