"""Feedback and expectations for stored traces: those of a batch in one transaction, or one by one."""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence

from mlflow.entities import TraceInfo
from mlflow.entities.assessment import Assessment

import spanferry_schemas as wire
from spanferry_schemas import trace_id_text
from spanferry_worker.errors import PoisonError, TraceNotFoundError
from spanferry_worker.services.mlflow_backend import Backend, traces_of_request
from spanferry_worker.services.mlflow_build import EntityBuilder
from spanferry_worker.services.mlflow_resolve import Resolver
from spanferry_worker.stages.trace import AssembledTrace
from spanferry_worker.telemetry import LogEvent

__all__ = ["Assessor", "is_alone"]

_logger = logging.getLogger(__name__)


class Assessor:
    """Adds to the traces of one backend. Blocking; several threads may call it at once."""

    def __init__(self, backend: Backend, builder: EntityBuilder, resolver: Resolver) -> None:
        self._backend = backend
        self._builder = builder
        self._resolver = resolver
        self.finds_traces = backend.bulk is not None and not backend.store.supports_workspaces
        """Whether at_once needs no records of stored traces. It knows nothing of workspaces."""

    def at_once(
        self,
        batch: Sequence[AssembledTrace],
        places: Sequence[int],
        infos: Mapping[str, TraceInfo],
        known: Collection[str] | None,
    ) -> tuple[list[int], dict[int, PoisonError]]:
        """Store together what comes alone and overrides nothing, where the backend has a fast way.

        `known` are the ids of traces that are stored, None: of those that are found; `infos` records of
        some of them, which get what is stored now. Returns the places that are left, and errors by place:
        of those the trace is not there.
        """
        if self._backend.bulk is None:
            return list(places), {}
        wanted, errors = self._wanted(batch, places, infos, known)
        stored = self._store([one for some in wanted.values() for one in some])
        for one in stored.values():
            if (info := infos.get(one.trace_id or "")) is not None:
                info.assessments.append(one)
        done = {
            place
            for place, some in wanted.items()
            if all(_key(one) in stored for one in some) and not _overrides(batch[place])
        }
        left = [place for place in places if place not in done]
        return left, {place: error for place, error in errors.items() if place in done}

    def add(self, trace: AssembledTrace, info: TraceInfo) -> None:
        """One by one those that the trace does not have yet."""
        stored = {one.assessment_id: one for one in info.assessments}
        for assessment in _unique(trace):
            if assessment.assessment_id not in stored:
                overridden = stored.get(assessment.overrides)
                entity = self._builder.assessments.entity(info.trace_id, assessment, overridden)
                self._backend.add_assessment(entity)
                stored[assessment.assessment_id] = entity

    def add_by_request(self, trace: AssembledTrace) -> None:
        """One by one to the newest trace of their client request id. Raises TraceNotFoundError."""
        self._by_request(trace, self._backend.add_assessment)

    def _wanted(
        self,
        batch: Sequence[AssembledTrace],
        places: Sequence[int],
        infos: Mapping[str, TraceInfo],
        known: Collection[str] | None,
    ) -> tuple[dict[int, list[Assessment]], dict[int, PoisonError]]:
        """What is to be stored together, by place; and errors, of client request ids without a trace."""
        wanted: dict[int, list[Assessment]] = {}
        errors: dict[int, PoisonError] = {}
        for place in places:
            trace = batch[place]
            if trace.trace_id is not None:
                there = known is None or trace_id_text(trace.trace_id) in known
                if there and is_alone(trace):
                    wanted[place] = self._missing(trace, infos)
            elif not _overrides(trace):
                wanted[place] = []
                try:
                    self._by_request(trace, wanted[place].append)
                except PoisonError as error:
                    errors[place] = error
        return wanted, errors

    def _store(self, assessments: Sequence[Assessment]) -> dict[tuple[str, str], Assessment]:
        """Those that are there now, by assessment and trace."""
        bulk = self._backend.bulk
        if bulk is None or not assessments:
            return {}
        with self._backend.writing:
            there = bulk.assess(assessments)
        return {_key(one): one for one in assessments if _key(one) in there}

    def _missing(self, trace: AssembledTrace, infos: Mapping[str, TraceInfo]) -> list[Assessment]:
        """Those that override nothing and that the trace does not have."""
        trace_id = trace_id_text(trace.trace_id or b"")
        info = infos.get(trace_id)
        stored = {one.assessment_id for one in info.assessments} if info else set[str | None]()
        made = self._builder.assessments.new(trace_id, trace)
        return [one for one in made if one.assessment_id not in stored]

    def _by_request(self, trace: AssembledTrace, take: Callable[[Assessment], None]) -> None:
        """Hand over those that are not stored. Raises TraceNotFoundError."""
        owners = self._backend.owners([a.assessment_id for a in trace.assessments])
        for assessment in _unique(trace):
            if owners is not None and assessment.assessment_id in owners:
                continue
            request_id = self._builder.client_request_id(assessment.client_request_id or "")
            experiment_ids = self._experiments(trace.trace)
            found = traces_of_request(
                self._backend, request_id, experiment_ids, assessment.created_ns
            )
            if not found:
                raise TraceNotFoundError(
                    f"MLflow has no trace with the client request id {request_id!r}: the assessment "
                    f"{assessment.name!r} waits in the dead letters and can be replayed"
                )
            stored = {a.assessment_id: a for info in found for a in info.assessments}
            if assessment.assessment_id not in stored:
                overridden = stored.get(assessment.overrides)
                take(self._builder.assessments.entity(found[0].trace_id, assessment, overridden))

    def _experiments(self, part: wire.TracePart) -> list[str]:
        ids = self._resolver.known_experiments()
        try:
            ids.append(self._resolver.experiment_id(part))
        except PoisonError as error:
            _logger.debug("searching without it: %s", error, extra=LogEvent.WRITE_DETAIL())
        return list(dict.fromkeys(ids))


def _key(one: Assessment) -> tuple[str, str]:
    return one.assessment_id or "", one.trace_id or ""


def _unique(trace: AssembledTrace) -> list[wire.Assessment]:
    return list({assessment.assessment_id: assessment for assessment in trace.assessments}.values())


def _overrides(trace: AssembledTrace) -> bool:
    return any(assessment.overrides for assessment in trace.assessments)


def is_alone(trace: AssembledTrace) -> bool:
    """Whether nothing but assessments has come for a trace that is stored."""
    return not trace.spans and not trace.attachments and trace.trace == wire.TracePart()
