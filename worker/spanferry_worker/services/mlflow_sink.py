"""The way into MLflow, chosen by the tracking URI. Imports mlflow only when it is opened."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import urlsplit

from spanferry_schemas import Assessment
from spanferry_worker.errors import FatalError
from spanferry_worker.services.mlflow_environment import prepare_environment
from spanferry_worker.stages.archive import ArchivePolicy
from spanferry_worker.stages.requests import RequestPolicy
from spanferry_worker.stages.trace import AssembledTrace
from spanferry_worker.telemetry import LogEvent
from spanferry_worker.text import without_userinfo

if TYPE_CHECKING:
    from spanferry_worker.services.metrics import ArchiveMetrics
    from spanferry_worker.services.mlflow_artifacts import Artifacts
    from spanferry_worker.services.mlflow_backend import Backend
    from spanferry_worker.services.mlflow_marks import Marks
    from spanferry_worker.services.mlflow_write import Writer

__all__ = ["MlflowSink", "is_databricks", "open_sink"]

_T = TypeVar("_T")
_logger = logging.getLogger(__name__)

CONCURRENCY: Final = 4
"""Writes at once."""
_SQLITE_CONCURRENCY: Final = 2
"""One writes while the other looks up and makes rows."""
CLOSE_S: Final = 10.0
"""How long close() waits for writes that are still running."""

_SQL_SCHEMES: Final = frozenset({"postgresql", "mysql", "sqlite"})
_HTTP_SCHEMES: Final = frozenset({"http", "https"})
_ADVICE: Final = (
    "use MLflow's database (postgresql://…, mysql://…, sqlite:///…), its server (http://…) or "
    "databricks"
)
_NO_ARCHIVE: Final = (
    "archive.location is for workers that write into MLflow's database (postgresql://…, mysql://…, "
    "sqlite:///…): take it out of the settings; a tracking server archives by its own "
    "MLFLOW_TRACE_ARCHIVAL_CONFIG"
)


def is_databricks(tracking_uri: str) -> bool:
    """`databricks` or `databricks://profile`."""
    return tracking_uri == "databricks" or urlsplit(tracking_uri).scheme == "databricks"


def open_sink(  # noqa: PLR0913 - one for each thing that a worker can be told of its store
    tracking_uri: str,
    *,
    default_experiment: str,
    artifact_root: str | None = None,
    artifact_server: str = "",
    create_experiments: bool = True,
    bulk: bool = True,
    http: RequestPolicy | None = None,
    archive: ArchivePolicy | None = None,
    archive_metrics: "ArchiveMetrics | None" = None,
) -> "MlflowSink":
    """A sink for the tracking URI, not connected yet: that is what its open() does.

    `default_experiment` is the name that a trace without one of its own gets. `artifact_root` is where
    experiments made by the worker keep artifacts; None means where the database's default one has its own.
    `artifact_server` is the MLflow server that serves them, where that is not the tracking URI. Without
    `create_experiments` traces of those that are not there are refused, without `bulk` MLflow's own code
    alone writes to a database. `http` says how a tracking server may be asked, `archive` which spans a
    database does not keep, which `archive_metrics` counts. Raises FatalError for a URI that cannot do.
    """
    sink = partial(
        MlflowSink, default_experiment=default_experiment, create_experiments=create_experiments
    )
    scheme = urlsplit(tracking_uri).scheme.partition("+")[0].lower()
    if scheme in _SQL_SCHEMES:

        def open_sql() -> "Backend":
            from spanferry_worker.services.mlflow_sql import SqlBackend  # noqa: PLC0415

            return SqlBackend(
                tracking_uri,
                artifact_root=artifact_root,
                bulk=bulk,
                archive=archive,
                archive_metrics=archive_metrics,
            )

        at_once = _SQLITE_CONCURRENCY if scheme == "sqlite" else CONCURRENCY
        return sink(open_sql, artifact_server or tracking_uri, at_once)
    if archive is not None and archive.enabled:
        raise FatalError(_NO_ARCHIVE)
    if scheme in _HTTP_SCHEMES:

        def open_http() -> "Backend":
            from spanferry_worker.services.mlflow_http import HttpBackend  # noqa: PLC0415

            return HttpBackend(tracking_uri, http)

        return sink(open_http, tracking_uri, CONCURRENCY)
    if is_databricks(tracking_uri):

        def open_databricks() -> "Backend":
            from spanferry_worker.services import mlflow_databricks  # noqa: PLC0415

            return mlflow_databricks.DatabricksBackend(tracking_uri, http)

        return sink(open_databricks, tracking_uri, CONCURRENCY)
    where = without_userinfo(tracking_uri)
    raise FatalError(f"the tracking URI {where!r} cannot hold traces written by workers: {_ADVICE}")


class MlflowSink:
    """The Sink over one backend. MLflow's code blocks, so it runs in threads of this sink's own."""

    def __init__(
        self,
        open_backend: "Callable[[], Backend]",
        artifact_uri: str,
        concurrency: int,
        *,
        default_experiment: str,
        create_experiments: bool,
    ) -> None:
        """`artifact_uri`: MLflow's tracking URI, as its artifact stores want to know it."""
        self._open_backend = open_backend
        self._artifact_uri = artifact_uri
        self._default_experiment = default_experiment
        self._create_experiments = create_experiments
        self._concurrency = concurrency
        self._threads: ThreadPoolExecutor | None = None
        self._backend: Backend | None = None
        self._artifacts: Artifacts | None = None
        self._writer: Writer | None = None
        self._marks: Marks | None = None

    @property
    def concurrency(self) -> int:
        """How many `write` calls may run at once."""
        return self._concurrency

    async def open(self) -> None:
        """Connect and check versions. Raises TransientError or FatalError; may be called again."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._concurrency, thread_name_prefix="mlflow-sink")
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._threads, self._open)

    async def write(self, batch: Sequence[AssembledTrace]) -> None:
        """As ports.Sink.write."""
        if self._threads is None or self._writer is None:
            raise FatalError("the sink is written to before it is open")
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._threads, self._write, self._writer, batch)

    async def marks(self, trace_ids: Sequence[bytes]) -> Mapping[bytes, Mapping[str, str]]:
        """As ports.Sink.marks."""
        return await self._ask(lambda marks: marks.of(trace_ids))

    async def marks_of_request(
        self, assessment: Assessment
    ) -> tuple[bytes, Mapping[str, str]] | None:
        """As ports.Sink.marks_of_request."""
        return await self._ask(lambda marks: marks.of_request(assessment))

    async def _ask(self, question: "Callable[[Marks], _T]") -> _T:
        if self._threads is None or self._marks is None:
            raise FatalError("the sink is asked before it is open")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, question, self._marks)

    async def close(self) -> None:
        """Release connections. Never raises. Waits a while for writes that are still running."""
        threads, self._threads, self._writer, self._marks = self._threads, None, None, None
        if threads is not None:
            try:
                async with asyncio.timeout(CLOSE_S):
                    await asyncio.to_thread(threads.shutdown, wait=True, cancel_futures=True)
            except TimeoutError:
                _logger.warning(
                    "MLflow is still writing; leaving it behind",
                    extra=LogEvent.STORE_CLOSE_FAILED(),
                )
        artifacts, self._artifacts = self._artifacts, None
        if artifacts is not None:
            artifacts.close()
        backend, self._backend = self._backend, None
        if backend is not None:
            await asyncio.to_thread(backend.close)

    def _open(self) -> None:
        prepare_environment()
        from spanferry_worker.services import mlflow_extract  # noqa: PLC0415 - slow
        from spanferry_worker.services.mlflow_artifacts import Artifacts  # noqa: PLC0415
        from spanferry_worker.services.mlflow_build import EntityBuilder  # noqa: PLC0415
        from spanferry_worker.services.mlflow_marks import Marks  # noqa: PLC0415
        from spanferry_worker.services.mlflow_resolve import Resolver  # noqa: PLC0415
        from spanferry_worker.services.mlflow_text import Texts  # noqa: PLC0415
        from spanferry_worker.services.mlflow_write import Writer  # noqa: PLC0415

        if self._backend is not None:
            return
        backend = self._open_backend()
        resolver = Resolver(
            backend.store,
            default_experiment=self._default_experiment,
            tracking_uri=self._artifact_uri,
            create_experiments=self._create_experiments,
        )
        try:
            resolver.check_default()
        except BaseException:
            backend.close()
            raise
        root: str = getattr(backend.store, "artifact_root_uri", "")
        artifacts = Artifacts(self._artifact_uri, default_root=root)
        extracting = mlflow_extract.is_wanted() and artifacts.reachable()
        builder = EntityBuilder(Texts(backend.limits))
        self._backend, self._artifacts = backend, artifacts
        self._marks = Marks(backend, builder, resolver)
        self._writer = Writer(
            backend,
            builder,
            resolver,
            artifacts,
            extract=mlflow_extract.extract if extracting else None,
        )

    @staticmethod
    def _write(writer: "Writer", batch: Sequence[AssembledTrace]) -> None:
        from spanferry_worker.services.mlflow_errors import mapped  # noqa: PLC0415

        with mapped("storing a batch"):
            writer.write(batch)
