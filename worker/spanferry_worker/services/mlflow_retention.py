"""MLflow's stored traces for `retention`: found and deleted by MLflow's own store, over SQL or HTTP alike.

Call `prepare_environment` before this module is imported.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from operator import methodcaller
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import requests
import sqlalchemy as sa
import sqlalchemy.exc
from mlflow.entities import Experiment as StoredExperiment
from mlflow.entities import LifecycleStage, TraceInfo
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from spanferry_worker.errors import FatalError, PoisonError, TransientError, WorkerError
from spanferry_worker.services import mlflow_private as private
from spanferry_worker.services.mlflow_errors import (
    error_code,
    is_access,
    is_missing,
    to_worker_error,
)
from spanferry_worker.services.mlflow_http import OLDEST_SERVER
from spanferry_worker.services.mlflow_server import Server
from spanferry_worker.services.mlflow_sql import SqlBackend, connect
from spanferry_worker.stages.requests import RequestPolicy
from spanferry_worker.stages.retention import Experiment, StoredTrace, files_folder
from spanferry_worker.text import without_userinfo

__all__ = ["MlflowTraces"]

_T = TypeVar("_T")
_Asked = Callable[[str, Callable[[Any], _T]], _T]

FILES_AT_ONCE: Final = 8
_PAGE_EXPERIMENTS: Final = 1000
_ID_MAX: Final = 2**31 - 1
"""A larger number is a name: no database looks for it among ids without an error."""
_NOTHING: Final = "timestamp_ms < 0"
_PROXIED: Final = "mlflow-artifacts"
_PASSING: Final = frozenset({408, 425, 429})
_SQL: Final = frozenset({"postgresql", "mysql", "sqlite"})


class MlflowTraces:
    """The traces of one MLflow, in the workspace that its environment names. `close` it."""

    def __init__(
        self, tracking_uri: str, *, artifact_server: str = "", http: RequestPolicy | None = None
    ) -> None:
        """Connects. Raises TransientError, or FatalError where there is no MLflow behind the URI."""
        self._artifact_uri = artifact_server or tracking_uri
        scheme = urlsplit(tracking_uri).scheme.partition("+")[0].lower()
        if scheme in {"http", "https"}:
            self._ask, self.close = _over_http(tracking_uri.rstrip("/"), http)
        elif scheme in _SQL:
            self._ask, self.close = _over_sql(tracking_uri)
        else:
            raise FatalError(
                f"retention does not serve the tracking URI {without_userinfo(tracking_uri)!r}: give "
                "MLflow's database (postgresql://…, mysql://…, sqlite:///…) or its server (http://…); "
                "elsewhere MlflowClient.delete_traces does it"
            )

    def experiment(self, named: str) -> Experiment:
        """By name or id, also a deleted one. Raises FatalError where there is none, or two."""
        doing = f"looking up experiment {named!r}"
        by_name = self._asked(doing, lambda store: store.get_experiment_by_name(named))
        by_id = None
        if named.isascii() and named.isdecimal() and int(named[:20]) <= _ID_MAX:
            by_id = self._asked(doing, lambda store: _experiment_or_none(store, named))
        found = by_name or by_id
        if found is None:
            raise FatalError(f"there is no experiment of the name or id {named!r}")
        if by_name and by_id and by_name.experiment_id != by_id.experiment_id:
            raise FatalError(
                f"{named!r} is the id of experiment {by_id.name!r}, and the name of the experiment with "
                f"the id {by_name.experiment_id}: give the name of the one or the id of the other"
            )
        return _experiment(found)

    def experiments(self) -> list[Experiment]:
        """All that are not deleted, by id."""
        found: list[Experiment] = []
        token: str | None = None
        while True:
            request = methodcaller(
                "search_experiments", max_results=_PAGE_EXPERIMENTS, page_token=token
            )
            page: Any = self._asked("listing experiments", request)
            found += [
                _experiment(one) for one in page if one.lifecycle_stage == LifecycleStage.ACTIVE
            ]
            token = page.token
            if not token:
                return sorted(found, key=lambda one: (len(one.experiment_id), one.experiment_id))

    def search(
        self,
        experiment_id: str,
        condition: str,
        limit: int,
        token: str | None = None,
        *,
        newest_first: bool = False,
    ) -> tuple[list[StoredTrace], str | None]:
        """See TraceTable."""
        order = "timestamp_ms DESC" if newest_first else "timestamp_ms ASC"
        infos, following = self._asked(
            f"searching traces of experiment {experiment_id}",
            lambda store: store.search_traces(
                locations=[experiment_id],
                filter_string=condition,
                max_results=limit,
                order_by=[order],
                page_token=token,
            ),
        )
        return [_stored(info) for info in infos], following or None

    def count(self, experiment_id: str, condition: str) -> int | None:
        """See TraceTable. MLflow counts where it is asked how two conditions go together."""
        try:
            counted: Any = self._asked(
                f"counting traces of experiment {experiment_id}",
                lambda store: store.calculate_trace_filter_correlation(
                    experiment_ids=[experiment_id],
                    filter_string1=_NOTHING,
                    filter_string2=_NOTHING,
                    base_filter=condition,
                ),
            )
        except PoisonError:
            return None
        return int(counted.total_count)

    def delete(self, experiment_id: str, trace_ids: Sequence[str]) -> int:
        """See TraceTable."""
        return int(
            self._asked(
                f"deleting traces of experiment {experiment_id}",
                lambda store: store.delete_traces(
                    experiment_id=experiment_id, trace_ids=list(trace_ids)
                ),
            )
        )

    def there(self, trace_ids: Sequence[str]) -> set[str]:
        """See TraceTable."""
        infos: list[TraceInfo] = self._asked(
            "looking up traces", lambda store: store.batch_get_trace_infos(list(trace_ids))
        )
        return {info.trace_id for info in infos}

    def delete_files(
        self, experiment: Experiment, traces: Sequence[StoredTrace]
    ) -> Mapping[str, PoisonError]:
        """See TraceTable. Raises FatalError where artifacts lie behind a server that nobody has named."""
        served = urlsplit(self._artifact_uri).scheme in {"http", "https"}
        if urlsplit(experiment.artifact_location).scheme == _PROXIED and not served:
            raise FatalError(
                f"the artifacts of experiment {experiment.name!r} lie behind MLflow's server "
                f"({experiment.artifact_location}): give its address, --set mlflow.artifact_server=http://…"
            )
        with ThreadPoolExecutor(FILES_AT_ONCE, thread_name_prefix="mlflow-files") as threads:
            errors = list(threads.map(self._delete_files_of, repeat(experiment), traces))
        for error in errors:
            if isinstance(error, TransientError):
                raise error
        told = zip(traces, errors, strict=True)
        return {trace.trace_id: error for trace, error in told if isinstance(error, PoisonError)}

    def _delete_files_of(self, experiment: Experiment, trace: StoredTrace) -> WorkerError | None:
        doing = f"deleting the files of trace {trace.trace_id}"
        try:
            folder = files_folder(experiment, trace)
            if folder is not None:
                get_artifact_repository(folder, tracking_uri=self._artifact_uri).delete_artifacts()
        except Exception as error:  # noqa: BLE001 - artifact stores raise what their clients raise
            return _why_not(error, doing)
        return None

    def _asked(self, doing: str, request: Callable[[Any], _T]) -> _T:
        def asked(store: Any) -> _T:
            try:
                return request(store)
            except MlflowException as error:
                if is_access(error):
                    # Waiting helps a worker, whose traces lie in Kafka meanwhile; here somebody looks on.
                    raise FatalError(f"{doing}: MLflow does not let this user: {error}") from error
                raise

        answer: _T = self._ask(doing, asked)
        return answer


def _why_not(error: Exception, doing: str) -> WorkerError | None:
    """Why files could not be deleted; None where there were none."""
    response = error.response if isinstance(error, requests.HTTPError) else None
    status = 0 if response is None else response.status_code
    if status == 404 or isinstance(error, FileNotFoundError) or is_missing(error):
        return None
    refused = 400 <= status < 500 and status not in _PASSING
    if refused or isinstance(error, (ValueError, PermissionError)):
        return PoisonError(f"{doing}: {error}")
    return to_worker_error(error, doing)


def _over_http(uri: str, http: RequestPolicy | None) -> tuple[_Asked[Any], Callable[[], None]]:
    server = Server(uri, http)
    try:
        _check_version(server)
    except BaseException:
        server.close()
        raise

    def ask(doing: str, request: Callable[[Any], Any]) -> Any:
        return server.call(doing, lambda: request(server.store))

    return ask, server.close


def _check_version(server: Server) -> None:
    version = server.version()
    if version < OLDEST_SERVER:
        raise FatalError(
            f"{server.uri} runs MLflow {version}; spanferry needs {OLDEST_SERVER} or later"
        )


def _over_sql(uri: str) -> tuple[_Asked[Any], Callable[[], None]]:
    """Without making tables, or a file, where there are none."""
    where = without_userinfo(uri)
    if _is_missing_file(uri):
        raise FatalError(f"there is no database {where}")
    engine = connect(uri)
    try:
        empty = private.is_empty_database(engine)
    finally:
        engine.dispose()
    if empty:
        raise FatalError(f"the database {where} is empty: it has none of MLflow's tables")
    backend = SqlBackend(uri, bulk=False)
    return backend.ask, backend.close


def _is_missing_file(uri: str) -> bool:
    """Whether it is an SQLite file that connecting would make."""
    try:
        url = sa.make_url(uri)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        return False
    named = url.get_backend_name() == "sqlite" and url.database
    return bool(named) and not Path(str(url.database)).exists()


def _experiment_or_none(store: Any, experiment_id: str) -> StoredExperiment | None:
    try:
        found: StoredExperiment = store.get_experiment(experiment_id)
    except MlflowException as error:
        if is_missing(error) or error_code(error) == "INVALID_PARAMETER_VALUE":
            return None
        raise
    return found


def _experiment(found: StoredExperiment) -> Experiment:
    return Experiment(str(found.experiment_id), found.name, found.artifact_location or "")


def _stored(info: TraceInfo) -> StoredTrace:
    return StoredTrace(
        trace_id=info.trace_id,
        time_ms=info.request_time,
        state=info.state.value,
        tags=dict(info.tags),
        assessed=bool(info.assessments),
    )
