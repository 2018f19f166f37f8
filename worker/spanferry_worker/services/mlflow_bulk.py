"""New traces straight into MLflow's tables, a batch in one transaction."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import sqlalchemy as sa
import sqlalchemy.exc
from mlflow.entities import LifecycleStage
from mlflow.entities.assessment import Assessment
from mlflow.store.tracking.dbmodels.models import (
    SqlAssessments,
    SqlExperiment,
    SqlSpan,
    SqlTraceInfo,
    SqlTraceMetadata,
    SqlTraceTag,
)
from mlflow.store.tracking.utils.sql_trace_rollups import (
    RollupFamily,
    enqueue_rollup_rebuild_partitions,
    rollups_enabled,
)
from mlflow.utils.mlflow_tags import MLFLOW_ARTIFACT_LOCATION
from mlflow.utils.uri import append_to_uri_path
from mlflow.version import VERSION

from spanferry_worker.errors import PoisonError
from spanferry_worker.services.mlflow_errors import causes, mapped
from spanferry_worker.services.mlflow_insert import Table, insert_for
from spanferry_worker.services.mlflow_portions import in_portions
from spanferry_worker.services.mlflow_postgres import compress_faster
from spanferry_worker.services.mlflow_span_rows import SPAN_COLUMNS
from spanferry_worker.services.mlflow_trace_rows import (
    ASSESSMENT_COLUMNS,
    TRACE_COLUMNS,
    TraceRows,
    assessment_row,
)
from spanferry_worker.telemetry import LogEvent

__all__ = ["DIALECTS", "TESTED", "BulkInsert", "owners_of", "why_not"]

_T = TypeVar("_T")
_logger = logging.getLogger(__name__)

TESTED: Final = {
    "3.17.0": "dc11669786a5",
    "3.17.1": "dc11669786a5",
    "3.17.2": "dc11669786a5",
    "3.18.0": "f4a9b2c7d1e6",
}
"""MLflow versions, and the revisions of their databases, for which tests/sinks has compared every row
with what MLflow itself writes."""

DIALECTS: Final = ("postgresql", "sqlite", "mysql")
"""... and the databases; `mysql` is MariaDB, too."""

_PLACE: Final = "<trace>"
_REVISION: Final = sa.text("SELECT version_num FROM alembic_version")
_HAND_OVER: Final = (sqlalchemy.exc.IntegrityError, sqlalchemy.exc.DataError)
"""A trace is there already, its experiment is not, a value does not fit: MLflow's own code knows what
to do, or says what is wrong, trace by trace."""


_TABLES: Final = (
    Table(SqlTraceInfo.__table__, TRACE_COLUMNS),
    Table(SqlTraceTag.__table__, ("request_id", "key", "value")),
    Table(SqlTraceMetadata.__table__, ("request_id", "key", "value")),
    Table(SqlSpan.__table__, SPAN_COLUMNS, encoded=frozenset({"content"})),
    Table(SqlAssessments.__table__, ASSESSMENT_COLUMNS),
)
"""In the order in which foreign keys want them; assessments are the last."""


def why_not(dialect: str) -> str | None:
    """Why the installed MLflow's tables may not be written to directly; None where they may."""
    if dialect not in DIALECTS:
        return f"{dialect} is not among the databases that this was tested with ({', '.join(DIALECTS)})"
    if VERSION not in TESTED:
        return f"MLflow {VERSION} is not among the versions that this was tested with ({', '.join(TESTED)})"
    for one in _TABLES:
        wanted = {column.name for column in one.table.columns if column.computed is None}
        if wanted != set(one.columns):
            names = ", ".join(sorted(wanted ^ set(one.columns)))
            return f"MLflow's table {one.table.name} has other columns than were tested: {names}"
    return None


class BulkInsert:
    """Inserts new traces, and assessments of stored ones. Used by several threads at once.

    With MLflow's own session, so that its rollup queue is locked first and all is one transaction.
    """

    def __init__(self, sessions: Any, dialect: sa.Dialect) -> None:
        """`sessions` is the store's ManagedSessionMaker."""
        self._sessions = sessions
        self._inserts = [insert_for(one, dialect) for one in _TABLES]
        self._migrated: str | None = None

    def insert(self, traces: Sequence[TraceRows]) -> frozenset[str]:
        """Store them all, or none; the ids of those that are stored.

        The others MLflow's own code must write. Raises TransientError and PoisonError.
        """
        if not traces:
            return frozenset()
        traces = sorted(traces)  # two workers that meet lock in one order
        return self._all_or_none("storing traces", lambda session: self._insert(session, traces))

    def assess(self, assessments: Sequence[Assessment]) -> frozenset[tuple[str, str]]:
        """Add assessments to stored traces, as create_assessment does; none of them overrides another.

        All or none; the ids of those that are there then, each with its trace's. The others MLflow's own
        code must write. Raises TransientError.
        """
        try:
            return self._all_or_none(
                "storing assessments", lambda session: self._assess(session, assessments)
            )
        except PoisonError as error:  # it finds out which of them is meant
            _leave("assessments are", error)
            return frozenset()

    def _all_or_none(self, doing: str, write: Callable[[Any], frozenset[_T]]) -> frozenset[_T]:
        """In one transaction; nothing of it where that is a matter of MLflow's own code."""
        try:
            with mapped(doing), self._sessions(read_only=False) as session:
                return write(session)
        except Exception as error:
            if any(isinstance(cause, _HAND_OVER) for cause in causes(error)):
                _leave("a batch is", error)
                return frozenset()
            raise

    def _insert(self, session: Any, traces: Sequence[TraceRows]) -> frozenset[str]:
        if not self._is_tested(session):
            return frozenset()
        if rollups_enabled():
            enqueue_rollup_rebuild_partitions(session, _partitions(traces))
        places = _artifact_places(session, {trace.experiment_id for trace in traces})
        traces = [trace for trace in traces if trace.experiment_id in places]
        compress_faster(session)
        rows: tuple[list[tuple[Any, ...]], ...] = (
            [trace.values for trace in traces],
            [row for trace in traces for row in _tags(trace, places[trace.experiment_id])],
            [(one.trace_id, key, value) for one in traces for key, value in one.metadata.items()],
            [row for trace in traces for row in trace.spans],
            [row for trace in traces for row in trace.assessments],
        )
        connection = session.connection()
        for insert, some in zip(self._inserts, rows, strict=True):
            if some:
                insert.write(connection, some)
        return frozenset(trace.trace_id for trace in traces)

    def _assess(
        self, session: Any, assessments: Sequence[Assessment]
    ) -> frozenset[tuple[str, str]]:
        if not self._is_tested(session):
            return frozenset()
        wanted = {one.assessment_id or "": one for one in reversed(assessments)}
        owners = owners_of(session, sorted(wanted))
        missing = [one for key, one in sorted(wanted.items()) if key not in owners]
        places = _locked_places(session, sorted({one.trace_id or "" for one in missing}))
        new = [one for one in missing if one.trace_id in places]
        if new:
            rows = [assessment_row(one, *places[one.trace_id or ""]) for one in new]
            self._inserts[-1].write(session.connection(), rows)
        there = owners | {one.assessment_id or "": one.trace_id or "" for one in new}
        return frozenset(there.items())

    def _is_tested(self, session: Any) -> bool:
        """Whether the database has the revision that it had at the start: somebody may migrate it."""
        found = session.execute(_REVISION).scalar()
        if found == TESTED.get(VERSION):
            return True
        if found != self._migrated:
            self._migrated = found
            _logger.warning(
                "MLflow's database now has revision %s: traces are stored through MLflow's own code, "
                "ten times as slowly, until the worker has an MLflow that goes with it",
                found,
                extra=LogEvent.WRITE_SLOWLY(),
            )
        return False


def _artifact_places(session: Any, experiment_ids: set[int]) -> dict[int, str]:
    """Where each active experiment keeps the artifacts of its traces; `_PLACE` is the trace's id."""
    query: Any = sa.select(SqlExperiment.experiment_id, SqlExperiment.artifact_location).where(
        SqlExperiment.experiment_id.in_(experiment_ids),
        SqlExperiment.lifecycle_stage == LifecycleStage.ACTIVE,
    )
    return {
        experiment_id: append_to_uri_path(location, "traces", _PLACE, "artifacts")
        for experiment_id, location in session.execute(query)
    }


def owners_of(session: Any, assessment_ids: Sequence[str]) -> dict[str, str]:
    """Of those assessments that are stored, the traces' ids."""
    table = SqlAssessments
    return {
        assessment_id: trace_id
        for some in in_portions(assessment_ids)
        for assessment_id, trace_id in session.execute(
            sa.select(table.assessment_id, table.trace_id).where(table.assessment_id.in_(some))
        )
    }


def _locked_places(session: Any, trace_ids: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Experiment and time of each trace, which its assessments repeat; locked to the transaction's end.

    None where one is moved meanwhile. MLflow's daily figures have their own locks, which come first.
    """
    if rollups_enabled():
        before = _places(session, trace_ids)
        enqueue_rollup_rebuild_partitions(
            session, [(RollupFamily.ASSESSMENT, of, [at]) for of, at in before.values()]
        )
        places = _places(session, trace_ids, lock=True)
        if places != before:
            session.rollback()
            return {}
        return places
    return _places(session, trace_ids, lock=True)


def _places(
    session: Any, trace_ids: Sequence[str], *, lock: bool = False
) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    table = SqlTraceInfo
    for some in in_portions(trace_ids):
        query: Any = (
            sa.select(table.request_id, table.experiment_id, table.timestamp_ms)
            .where(table.request_id.in_(some))
            .order_by(table.request_id)
        )
        rows = session.execute(query.with_for_update() if lock else query)
        found |= {trace_id: (experiment_id, at_ms) for trace_id, experiment_id, at_ms in rows}
    return found


def _leave(what: str, error: BaseException) -> None:
    _logger.info("%s left to MLflow's own code: %s", what, error, extra=LogEvent.WRITE_SLOWLY())


def _tags(trace: TraceRows, place: str) -> list[tuple[str, str, str]]:
    tags = {**trace.tags, MLFLOW_ARTIFACT_LOCATION: place.replace(_PLACE, trace.trace_id)}
    return [(trace.trace_id, key, value) for key, value in tags.items()]


def _partitions(traces: Sequence[TraceRows]) -> list[tuple[Any, int, list[int]]]:
    """Days of MLflow's daily figures that have to be added up again."""
    starts = SPAN_COLUMNS.index("start_time_unix_nano")
    partitions: list[tuple[Any, int, list[int]]] = []
    for trace in traces:
        own = [trace.timestamp_ms]
        spans = [row[starts] // 1_000_000 for row in trace.spans]
        partitions.append((RollupFamily.TRACE_METRIC, trace.experiment_id, own))
        partitions.append((RollupFamily.ASSESSMENT, trace.experiment_id, own))
        partitions.append((RollupFamily.SPAN_COST, trace.experiment_id, spans))
    return partitions
