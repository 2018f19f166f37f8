"""What stored traces say of their sampling."""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from mlflow.store.tracking.dbmodels.models import SqlTraceInfo, SqlTraceMetadata
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from spanferry_schemas import Assessment, trace_id_text
from spanferry_schemas.limits import TRACE_ID_BYTES
from spanferry_worker.services.mlflow_backend import Backend, traces_of_request
from spanferry_worker.services.mlflow_build import EntityBuilder
from spanferry_worker.services.mlflow_errors import mapped
from spanferry_worker.services.mlflow_portions import in_portions
from spanferry_worker.services.mlflow_resolve import Resolver
from spanferry_worker.stages.sample import ASKED_MARKS

__all__ = ["Marks"]


class Marks:
    """Looks up the metadata ASKED_MARKS, empty where a trace has none. Blocking; raises as Sink.marks."""

    def __init__(self, backend: Backend, builder: EntityBuilder, resolver: Resolver) -> None:
        self._backend = backend
        self._builder = builder
        self._resolver = resolver

    def of(self, trace_ids: Sequence[bytes]) -> dict[bytes, Mapping[str, str]]:
        """See Sink.marks. One statement for a database; a server is asked for the traces' records."""
        named = {trace_id_text(one): one for one in trace_ids}
        found: Mapping[str, Mapping[str, str]]
        with mapped("looking up what was sampled"):
            if isinstance(self._backend.store, SqlAlchemyStore):
                found = _selected(self._backend.store, list(named))
            else:
                infos = self._backend.infos(list(named))
                found = {name: _asked(info.trace_metadata) for name, info in infos.items()}
        return {named[text]: marks for text, marks in found.items() if text in named}

    def of_request(self, assessment: Assessment) -> tuple[bytes, Mapping[str, str]] | None:
        """See Sink.marks_of_request."""
        request_id = self._builder.client_request_id(assessment.client_request_id or "")
        with mapped("looking up what was sampled"):
            experiment_ids = self._resolver.known_experiments()
            found = traces_of_request(
                self._backend, request_id, experiment_ids, assessment.created_ns
            )
        stored = {one.assessment_id for info in found for one in info.assessments}
        if not found or assessment.assessment_id in stored:
            return None
        try:
            trace_id = bytes.fromhex(found[0].trace_id.removeprefix("tr-"))
        except ValueError:
            return None  # somebody else's
        if len(trace_id) != TRACE_ID_BYTES:
            return None
        return trace_id, _asked(found[0].trace_metadata)


def _asked(metadata: Mapping[str, str]) -> dict[str, str]:
    return {key: metadata[key] for key in ASKED_MARKS if key in metadata}


def _selected(store: Any, names: Sequence[str]) -> dict[str, dict[str, str]]:
    trace, metadata = SqlTraceInfo, SqlTraceMetadata
    found: dict[str, dict[str, str]] = {}
    asked: Any = sa.and_(metadata.request_id == trace.request_id, metadata.key.in_(ASKED_MARKS))
    with store.ManagedSessionMaker() as session:
        for some in in_portions(names):
            query: Any = (
                sa.select(trace.request_id, metadata.key, metadata.value)
                .outerjoin(metadata, asked)
                .where(trace.request_id.in_(some))
            )
            for name, key, value in session.execute(query):
                marks = found.setdefault(name, {})
                if key is not None:
                    marks[key] = value or ""
    return found
