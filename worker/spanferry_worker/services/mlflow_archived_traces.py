"""Stored traces into MLflow's archive, and back into the database before something is added to them."""

import json
import logging
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import sqlalchemy as sa
from mlflow.entities import Span, TraceInfo
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.dbmodels.models import SqlSpan, SqlTraceInfo, SqlTraceTag
from mlflow.tracing.constant import SpansLocation, TraceTagKey
from mlflow.tracing.utils import TraceJSONEncoder
from sqlalchemy.orm import aliased

from spanferry_worker.errors import PoisonError, TransientError
from spanferry_worker.services import mlflow_mysql as mysql
from spanferry_worker.services import mlflow_private as private
from spanferry_worker.services.mlflow_archive import Archive, read, remove
from spanferry_worker.services.mlflow_errors import error_code, mapped
from spanferry_worker.services.mlflow_portions import in_portions
from spanferry_worker.services.mlflow_trace_rows import TraceRows
from spanferry_worker.telemetry import LogEvent

__all__ = ["ArchivedTraces"]

_logger = logging.getLogger(__name__)

_ARCHIVED: Final = SpansLocation.ARCHIVE_REPO.value
_IN_DATABASE: Final = SpansLocation.TRACKING_STORE.value
_LOCATION: Final = TraceTagKey.SPANS_LOCATION
_SPANS: Final[Any] = SqlSpan.__table__
_TRACES: Final[Any] = SqlTraceInfo.__table__
_REFUSED: Final = "INVALID_STATE"
_PLACE: Final = TraceTagKey.ARCHIVE_LOCATION


class ArchivedTraces:
    """Of one database; also those that MLflow has archived. Blocking; several threads may call it."""

    def __init__(self, store: Any, archive: Archive | None) -> None:
        """`archive` is where large traces go; None: nothing goes there."""
        self._store = store
        self._archive = archive

    def spans(self, info: TraceInfo) -> list[Span]:
        """An archived trace's. Raises TransientError, and PoisonError where they are not there."""
        with mapped(f"reading trace {info.trace_id}"):
            return self._read(info.trace_id, info.tags.get(_PLACE, ""))

    def before_insert(self, traces: Sequence[TraceRows]) -> Sequence[TraceRows]:
        """As Archive.new; without an archive the same traces."""
        return traces if self._archive is None else self._archive.new(traces)

    def write(self, trace_ids: Sequence[str], write: Callable[[], None]) -> None:
        """Run `write`, which MLflow refuses for traces in the archive: again with these back from there.

        Raises what `write` raises; TransientError where one is archived again meanwhile.
        """
        try:
            write()
        except MlflowException as error:
            if error_code(error) != _REFUSED:
                raise
        else:
            return
        for trace_id, uri, generation in self._archived(trace_ids):
            self._bring_back(trace_id, uri, generation)
        with self.told(trace_ids):
            write()

    @contextmanager
    def told(self, trace_ids: Sequence[str]) -> Generator[None]:
        """Where MLflow refuses what is inside because of where spans are, raise TransientError if somebody
        has archived them meanwhile, PoisonError if they are where nothing can be added."""
        try:
            yield
        except MlflowException as error:
            if error_code(error) != _REFUSED:
                raise
            if self._elsewhere(trace_ids):
                raise PoisonError(
                    f"spans are neither in the database nor archived: {error}"
                ) from error
            raise TransientError(f"a trace was archived while it was written: {error}") from error

    def archive(self, info: TraceInfo) -> None:
        """Move a stored trace's spans out of the database, where they are large and all there.

        Raises TransientError and PoisonError; the trace is whole in the database then.
        """
        if self._archive is None or not self._archive.wants(info.trace_metadata):
            return
        trace_id = info.trace_id
        with mapped(f"archiving trace {trace_id}"):
            found = private.archival_data(self._store, trace_id)
            if found is None:
                return
            stored, generation, contents = found
            uri = self._archive.put(stored.experiment_id, trace_id, generation, contents)
            if uri is not None:
                self._refer(trace_id, uri, generation)

    def close(self) -> None:
        """Uploads under way end by themselves."""
        if self._archive is not None:
            self._archive.close()

    def _refer(self, trace_id: str, uri: str, generation: int) -> None:
        """Let the spans be read from there. If somebody has added to them, whoever did moves them.

        Rows become empty, which tells MLflow's readers that they came while it happened.
        """
        with self._store.ManagedSessionMaker(read_only=False) as session:
            connection = session.connection()
            if _claim(connection, trace_id, generation) and not _archived(session, [trace_id]):
                connection.execute(
                    sa.update(_SPANS).where(_SPANS.c.trace_id == trace_id).values(content="")
                )
                _set_tags(session, trace_id, {_LOCATION: _ARCHIVED, _PLACE: uri})

    def _archived(self, trace_ids: Sequence[str]) -> list[tuple[str, str, int]]:
        with self._store.ManagedSessionMaker() as session:
            return _archived(session, trace_ids)

    def _elsewhere(self, trace_ids: Sequence[str]) -> bool:
        """Whether one is neither in the database nor in the archive, and will not be."""
        query: Any = sa.select(SqlTraceTag.value).where(
            SqlTraceTag.key == _LOCATION, SqlTraceTag.value.not_in([_ARCHIVED, _IN_DATABASE])
        )
        with self._store.ManagedSessionMaker() as session:
            return any(
                session.execute(query.where(SqlTraceTag.request_id.in_(some)).limit(1)).first()
                for some in in_portions(trace_ids)
            )

    def _read(self, trace_id: str, uri: str) -> list[Span]:
        try:
            return read(trace_id, uri)
        except PoisonError as error:
            if any(place == uri for _, place, _ in self._archived([trace_id])):
                raise
            raise TransientError(f"trace {trace_id} has moved while it was read") from error

    def _bring_back(self, trace_id: str, uri: str, generation: int) -> None:
        contents = {
            span.span_id: json.dumps(span.to_dict(), cls=TraceJSONEncoder, ensure_ascii=False)
            for span in self._read(trace_id, uri)
        }
        with self._store.ManagedSessionMaker(read_only=False) as session:
            connection = session.connection()
            if not _claim(connection, trace_id, generation):
                raise TransientError(f"trace {trace_id} has changed while it came from the archive")
            rows = session.scalars(sa.select(_SPANS.c.span_id).where(_SPANS.c.trace_id == trace_id))
            if set(rows) != set(contents):
                raise PoisonError(f"the archive at {uri} has other spans than trace {trace_id}")
            _check_sizes(session, trace_id, contents.values())
            connection.execute(
                sa.update(_SPANS)
                .where(_SPANS.c.trace_id == trace_id, _SPANS.c.span_id == sa.bindparam("of"))
                .values(content=sa.bindparam("text")),
                [{"of": span_id, "text": content} for span_id, content in contents.items()],
            )
            _set_tags(session, trace_id, {_LOCATION: _IN_DATABASE, _PLACE: None})
        _logger.debug("trace %s is back from the archive", trace_id, extra=LogEvent.WRITE_DETAIL())
        remove(uri)


def _archived(session: Any, trace_ids: Sequence[str]) -> list[tuple[str, str, int]]:
    """Those of the traces that are in the archive, each with its place and generation."""
    location, place = aliased(SqlTraceTag), aliased(SqlTraceTag)
    query: Any = (
        sa.select(SqlTraceInfo.request_id, place.value, SqlTraceInfo.db_payload_generation)
        .join(location, location.request_id == SqlTraceInfo.request_id)
        .join(place, place.request_id == SqlTraceInfo.request_id)
        .where(location.key == _LOCATION, location.value == _ARCHIVED, place.key == _PLACE)
        .order_by(SqlTraceInfo.request_id)
    )
    return [
        tuple(row)
        for some in in_portions(trace_ids)
        for row in session.execute(query.where(SqlTraceInfo.request_id.in_(some)))
    ]


def _claim(connection: sa.Connection, trace_id: str, generation: int) -> bool:
    """Count a trace's generation up, which locks it until the transaction ends; False where it is another.

    MLflow's own way, to lock and then to look, lets a writer in between on SQLite.
    """
    found = connection.execute(
        sa.update(_TRACES)
        .where(_TRACES.c.request_id == trace_id, _TRACES.c.db_payload_generation == generation)
        .values(db_payload_generation=generation + 1)
    )
    return found.rowcount == 1


def _set_tags(session: Any, trace_id: str, tags: Mapping[str, str | None]) -> None:
    for key, value in tags.items():
        if value is None:
            session.execute(
                sa.delete(SqlTraceTag).where(
                    SqlTraceTag.request_id == trace_id, SqlTraceTag.key == key
                )
            )
        else:
            session.merge(SqlTraceTag(request_id=trace_id, key=key, value=value))


def _check_sizes(session: Any, trace_id: str, contents: Iterable[str]) -> None:
    """MySQL hangs up on what is longer than a packet, which looks as if it were away."""
    if session.get_bind().dialect.name != mysql.NAME:
        return
    limit = mysql.packet_bytes(session)
    largest = max(map(mysql.literal_bytes, contents))
    if largest > limit:
        raise mysql.too_large(f"a span of trace {trace_id}", largest, limit)
