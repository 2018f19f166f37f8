"""Into MLflow's database through MLflow's own SqlAlchemyStore."""

import logging
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from threading import RLock
from typing import Any, Final, TypeVar

import sqlalchemy as sa
import sqlalchemy.exc
from mlflow.entities import Span, TraceInfo
from mlflow.entities.assessment import Assessment
from mlflow.exceptions import MlflowException
from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
from mlflow.store.tracking.dbmodels.models import (
    SqlAssessments,
    SqlExperiment,
    SqlTraceInfo,
)
from mlflow.tracing.constant import TraceTagKey
from mlflow.version import VERSION

from spanferry_worker.errors import FatalError, PoisonError, TransientError
from spanferry_worker.services import mlflow_mysql as mysql
from spanferry_worker.services import mlflow_private as private
from spanferry_worker.services.metrics import ArchiveMetrics
from spanferry_worker.services.mlflow_archive import Archive, is_archived
from spanferry_worker.services.mlflow_archived_traces import ArchivedTraces
from spanferry_worker.services.mlflow_backend import calls, disturbed_ms
from spanferry_worker.services.mlflow_bulk import BulkInsert, owners_of, why_not
from spanferry_worker.services.mlflow_errors import causes, mapped
from spanferry_worker.services.mlflow_portions import in_portions
from spanferry_worker.services.mlflow_text import Limits
from spanferry_worker.stages.archive import ArchivePolicy
from spanferry_worker.telemetry import LogEvent

__all__ = ["SQL_LIMITS", "SqlBackend", "check_schema", "connect"]

_T = TypeVar("_T")
_logger = logging.getLogger(__name__)

SQL_LIMITS: Final = Limits(tag_value_chars=8000, metadata_value_chars=8000, json_depth=500)
CALL_BYTES_MAX: Final = 16_000_000
"""Span text in one log_spans call: MLflow builds all rows before it writes the first."""
CALL_TRACES_MAX: Final = 200
SCHEMA_SETTLE_S: Final = 3.0
"""An older revision is looked at again after this: somebody may be migrating right now."""
DAY_MS: Final = 86_400_000

_NO_SUCH_DATABASE: Final = (
    "password authentication failed",
    "does not exist",
    "no password supplied",
    "Access denied",
    "Unknown database",
    "unable to open database file",
)
_WORKSPACE_CODES: Final = frozenset(
    {"INVALID_STATE", "INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"}
)
_DRIVERS: Final = {
    "mysql": "install spanferry[mysql] and write mysql+pymysql://…",
    "postgresql": "install spanferry[worker] and write postgresql+psycopg://…",
}


def connect(uri: str) -> sa.Engine:
    """An engine that has connected once. Raises TransientError, or FatalError for a wrong URI."""
    try:
        engine: sa.Engine = private.create_engine(uri)
    except ImportError as error:
        raise FatalError(
            f"the tracking URI cannot be used, its driver is not installed ({error}): "
            f"{_DRIVERS.get(uri.partition(':')[0].partition('+')[0], 'install it')}"
        ) from error
    except (sqlalchemy.exc.ArgumentError, ValueError) as error:
        raise FatalError(f"the tracking URI cannot be used: {error}") from error
    try:
        with engine.connect():
            pass
    except sqlalchemy.exc.SQLAlchemyError as error:
        engine.dispose()
        reason = str(error).split("\n", maxsplit=1)[0]
        where = engine.url.render_as_string(hide_password=True)
        if any(text in str(error) for text in _NO_SUCH_DATABASE):
            raise FatalError(f"cannot open MLflow's database {where}: {reason}") from error
        raise TransientError(f"MLflow's database {where} does not answer: {reason}") from error
    return engine


def check_schema(engine: sa.Engine, *, initialise: bool) -> None:
    """Make sure that the database has exactly the schema of the installed MLflow.

    An empty database is initialised where `initialise` is set. A database is never migrated.
    Raises FatalError with the remedy.
    """
    where = engine.url.render_as_string(hide_password=True)
    if private.is_empty_database(engine):
        if initialise:
            _logger.warning(
                "%s is empty: creating MLflow's tables in it", where, extra=LogEvent.STORE_CREATED()
            )
            private.initialise_database(engine)
        return
    names = set(sa.inspect(engine).get_table_names())
    if SqlExperiment.__tablename__ not in names:
        raise FatalError(
            f"{where} holds tables, but none of MLflow's: point the tracking URI to MLflow's "
            "database or to an empty one"
        )
    wanted, found = private.latest_revision(), private.schema_revision(engine)
    if found == wanted and private.has_all_tables(engine):
        return
    time.sleep(SCHEMA_SETTLE_S)
    again = private.schema_revision(engine)
    if again != found or again is None:
        raise TransientError(f"{where} is being migrated (revision {again})")
    if again == wanted:
        raise TransientError(f"{where} is being initialised")
    if not private.knows_revision(again):
        raise FatalError(
            f"{where} has schema {again}, which is newer than this worker's MLflow {VERSION}: "
            "install the MLflow version of the tracking server next to the worker"
        )
    raise FatalError(
        f"{where} has schema {again}, MLflow {VERSION} needs {wanted}: take a backup, then run "
        f"`mlflow db upgrade {where}`"
    )


class SqlBackend:
    """Backend over SqlAlchemyStore. `start_trace` before `log_spans` is two to three times cheaper."""

    limits = SQL_LIMITS
    rounding_ms = 0

    def __init__(
        self,
        uri: str,
        *,
        artifact_root: str | None = None,
        bulk: bool = True,
        archive: ArchivePolicy | None = None,
        archive_metrics: ArchiveMetrics | None = None,
    ) -> None:
        """Connects, checks the schema, initialises an empty database. Raises as those do.

        Without `bulk` all goes through MLflow's own code. `archive` says where large traces go.
        """
        place: Archive | None = None
        if archive is not None and archive.enabled:
            place = Archive(archive, archive_metrics)
            place.check()
        engine = connect(uri)
        try:
            with mapped("checking the schema of MLflow's database"):
                check_schema(engine, initialise=True)
                root = artifact_root or _artifact_root(engine)
        finally:
            engine.dispose()
        with mapped("opening MLflow's database"):
            self._store = _open_store(uri, root or DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH)
            mysql.make_strict(self._store.engine)
        self.bulk = _bulk_of(self._store) if bulk else None
        self._archived = ArchivedTraces(self._store, place)
        self.archived: ArchivedTraces | None = self._archived
        dialect = self._store.engine.dialect.name
        self._is_mysql = dialect == mysql.NAME
        one_writer = dialect == "sqlite"
        self.writing: AbstractContextManager[object] = RLock() if one_writer else nullcontext()

    @property
    def store(self) -> Any:
        return self._store

    def ask(self, doing: str, request: Callable[[Any], _T]) -> _T:
        with mapped(doing):
            return request(self._store)

    def infos(self, trace_ids: Sequence[str]) -> dict[str, TraceInfo]:
        with mapped("looking up traces"):
            there = self._there(trace_ids)  # most are not: MLflow's own look costs four queries
            infos = self._store.batch_get_trace_infos(there) if there else []
        return {info.trace_id: info for info in infos}

    def _there(self, trace_ids: Sequence[str]) -> list[str]:
        found: list[str] = []
        column: Any = SqlTraceInfo.request_id
        with self._store.ManagedSessionMaker() as session:
            for ids in in_portions(trace_ids):
                found += session.scalars(sa.select(column).where(column.in_(ids)))
        return found

    def spans(self, info: TraceInfo) -> list[Span]:
        if TraceTagKey.SPANS_LOCATION not in info.tags:
            return []  # its record was written, its spans were not
        if is_archived(info):
            return self._archived.spans(info)
        with mapped(f"reading trace {info.trace_id}"):
            trace = self._store.get_trace(info.trace_id, allow_partial=True)
        spans: list[Span] = list(trace.data.spans)
        return spans

    def write_new(self, infos: Sequence[TraceInfo], spans: Mapping[str, Sequence[Span]]) -> None:
        told = partial(self._archived.told, [info.trace_id for info in infos])
        with _clashes_told(self._store, infos), mapped("storing traces"), told():
            for info in infos:
                self._store.start_trace(info)
        with mapped("storing spans"), told():
            for experiment_id, some in calls(
                infos, spans, bytes_max=CALL_BYTES_MAX, traces_max=CALL_TRACES_MAX
            ):
                self._log_spans(experiment_id, some)
        with mapped("storing times and states"):
            self._put_back(infos, spans)

    def add_spans(self, experiment_id: str, spans: Sequence[Span]) -> None:
        trace_ids = list({span.trace_id for span in spans})
        with mapped("adding spans"):
            self._archived.write(trace_ids, lambda: self._log_spans(experiment_id, list(spans)))

    def _log_spans(self, experiment_id: str, spans: list[Span]) -> None:
        if not self._is_mysql:
            self._store.log_spans(experiment_id, spans)
            return
        with self._store.ManagedSessionMaker() as session:
            limit = mysql.packet_bytes(session)
        for some in mysql.portions(spans, limit):
            self._store.log_spans(experiment_id, some)

    def put_info(self, info: TraceInfo) -> None:
        with _clashes_told(self._store, [info]), mapped(f"updating trace {info.trace_id}"):
            self._archived.write([info.trace_id], lambda: self._store.start_trace(info))

    def add_assessment(self, assessment: Assessment) -> None:
        with mapped(f"storing assessment {assessment.assessment_id}"):
            try:
                self._store.create_assessment(assessment)
            except MlflowException as error:
                name = assessment.assessment_id or ""
                owner = self.owners([name]).get(name)
                if owner is None:
                    raise
                if owner != assessment.trace_id:
                    raise PoisonError(
                        f"assessment {name} of trace {assessment.trace_id} has an id that one of trace "
                        f"{owner} has"
                    ) from error
                # another worker stored the same assessment between our look and our write

    def owners(self, assessment_ids: Sequence[str]) -> dict[str, str]:
        with mapped("looking up assessments"), self._store.ManagedSessionMaker() as session:
            return owners_of(session, assessment_ids)

    def newest_traces(
        self,
        client_request_id: str,
        experiment_ids: Sequence[str],  # noqa: ARG002 - a database can be asked for all of them
        around_ms: int,
    ) -> list[TraceInfo]:
        """Looks through the day before and after first: client request ids have no index."""
        table = SqlTraceInfo
        query: Any = (
            sa.select(table.request_id)
            .where(table.client_request_id == client_request_id)
            .order_by(table.timestamp_ms.desc(), table.request_id)
            .limit(10)
        )
        near = query.where(table.timestamp_ms.between(around_ms - DAY_MS, around_ms + DAY_MS))
        with mapped("searching a client request id"):
            with self._store.ManagedSessionMaker() as session:
                ids = list(session.scalars(near)) or list(session.scalars(query))
            found = {info.trace_id: info for info in self._store.batch_get_trace_infos(ids)}
        of_it = [found[trace_id] for trace_id in ids if trace_id in found]
        # a database may take capitals for small letters
        return [info for info in of_it if info.client_request_id == client_request_id]

    def close(self) -> None:
        self._archived.close()
        try:
            self._store.engine.dispose()
        except Exception:
            _logger.exception("closing MLflow's database", extra=LogEvent.STORE_CLOSE_FAILED())

    def _put_back(self, infos: Sequence[TraceInfo], spans: Mapping[str, Sequence[Span]]) -> None:
        """Undo what log_spans does to the records: MLflow's SDK writes them last."""
        changed = [info for info in infos if disturbed_ms(info, spans[info.trace_id])]
        if not changed:
            return
        trace, assessment = SqlTraceInfo.__table__, SqlAssessments.__table__
        values = [
            {
                "of": info.trace_id,
                "start": info.request_time,
                "duration": info.execution_duration,
                "state": info.state.value,
            }
            for info in changed
        ]
        with self._store.ManagedSessionMaker(read_only=False) as session:
            connection = session.connection()
            connection.execute(
                sa.update(trace)
                .where(trace.c.request_id == sa.bindparam("of"))
                .values(
                    timestamp_ms=sa.bindparam("start"),
                    execution_time_ms=sa.bindparam("duration"),
                    status=sa.bindparam("state"),
                ),
                values,
            )
            judged = {info.trace_id for info in changed if info.assessments}
            if some := [value for value in values if value["of"] in judged]:
                connection.execute(
                    sa.update(assessment)
                    .where(assessment.c.trace_id == sa.bindparam("of"))
                    .values(trace_timestamp_ms=sa.bindparam("start")),
                    [{"of": value["of"], "start": value["start"]} for value in some],
                )


def _open_store(uri: str, artifact_root: str) -> Any:
    """In the workspace that MLflow's environment names. Raises FatalError where there is none."""
    try:
        store = private.open_store(uri, artifact_root)
        private.check_workspace(store)
    except MlflowException as error:
        if error.error_code in _WORKSPACE_CODES:
            raise FatalError(
                f"MLflow's workspaces: {error} (set MLFLOW_ENABLE_WORKSPACES as the tracking server "
                "has it, and MLFLOW_WORKSPACE to the workspace of these workers)"
            ) from error
        raise
    return store


@contextmanager
def _clashes_told(store: Any, infos: Sequence[TraceInfo]) -> Generator[None]:
    """Two rows that MySQL takes for the same look as if another writer had been faster, for ever."""
    try:
        yield
    except TransientError as error:
        refused = any(isinstance(cause, sqlalchemy.exc.IntegrityError) for cause in causes(error))
        if store.engine.dialect.name != mysql.NAME or not refused:
            raise
        with mapped("looking for the reason"), store.ManagedSessionMaker() as session:
            clash = next((info for info in infos if mysql.clashing_keys(session, info)), None)
        if clash is None:
            raise
        raise PoisonError(
            f"trace {clash.trace_id} has tags or metadata whose keys are the same to MLflow's "
            "database, which does not tell capitals from small letters, or accents"
        ) from error


def _bulk_of(store: Any) -> BulkInsert | None:
    """The fast way in, where this MLflow is one that it was tested with."""
    reason = why_not(store.engine.dialect.name)
    if reason is not None:
        _logger.warning(
            "traces are stored through MLflow's own code, ten times as slowly: %s",
            reason,
            extra=LogEvent.WRITE_SLOWLY(),
        )
        return None
    return BulkInsert(store.ManagedSessionMaker, store.engine.dialect)


def _artifact_root(engine: sa.Engine) -> str | None:
    """Where the tracking server of this database puts artifacts, as its default experiment says."""
    query: Any = sa.select(SqlExperiment.artifact_location).where(SqlExperiment.experiment_id == 0)
    with engine.connect() as connection:
        location = connection.execute(query).scalar()
    root, slash, last = (location or "").rpartition("/")
    return root or None if slash and last == "0" else None
