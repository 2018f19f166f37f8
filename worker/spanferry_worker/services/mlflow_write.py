"""Storing a batch: new traces the cheap way, known ones merged, feedback where its trace is."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import methodcaller
from typing import Final

from mlflow.entities import Span, Trace, TraceInfo
from mlflow.tracing.constant import TraceMetadataKey, TraceTagKey

import spanferry_schemas as wire
from spanferry_schemas import trace_id_text
from spanferry_worker.errors import PartlyRefusedError, PoisonError, TraceNotFoundError
from spanferry_worker.services.mlflow_artifacts import Artifacts
from spanferry_worker.services.mlflow_backend import Backend, traces_of_request
from spanferry_worker.services.mlflow_build import EntityBuilder, prompt_versions
from spanferry_worker.services.mlflow_errors import RefusedError, is_missing
from spanferry_worker.services.mlflow_merge import (
    Change,
    is_restored,
    is_stale,
    merged_info,
    same_info,
    truly_marked,
    unstored_spans,
)
from spanferry_worker.services.mlflow_resolve import Resolver
from spanferry_worker.services.mlflow_trace_rows import RowBuilder, TraceRows
from spanferry_worker.stages.trace import AssembledTrace
from spanferry_worker.telemetry import LogEvent

__all__ = ["Writer"]

_logger = logging.getLogger(__name__)

READ_BYTES_MAX: Final = 16 * 1024 * 1024
"""Of stored spans that are read at once: twice a batch. The others are read one by one."""


class Writer:
    """Writes batches through one backend. Blocking; several threads may call it at once."""

    def __init__(
        self,
        backend: Backend,
        builder: EntityBuilder,
        resolver: Resolver,
        artifacts: Artifacts,
        *,
        extract: Callable[[AssembledTrace], AssembledTrace] | None,
    ) -> None:
        """`extract` takes attachments out of the spans; None leaves them where they are."""
        self._backend = backend
        self._builder = builder
        self._resolver = resolver
        self._artifacts = artifacts
        self._extract = extract
        self._rows = None if backend.bulk is None else RowBuilder(builder)
        self._prompts_failed = False

    def write(self, batch: Sequence[AssembledTrace]) -> None:
        """As Sink.write. Repeating a batch changes nothing: what is stored is looked up first."""
        if self._extract is not None:
            batch = [self._extract(trace) for trace in batch]
        stored = self._backend.infos(
            list({trace_id_text(t.trace_id) for t in batch if t.trace_id is not None})
        )
        new: dict[str, AssembledTrace] = {}
        rest: list[int] = []
        for place, trace in enumerate(batch):
            if trace.trace_id is None:
                rest.append(place)
                continue
            trace_id = trace_id_text(trace.trace_id)
            if trace.spans and trace_id not in stored and trace_id not in new:
                new[trace_id] = trace
            else:
                rest.append(place)
        refused = self._write_new(new) if new else {}
        errors = {
            place: refused[trace_id_text(trace.trace_id)]
            for place, trace in enumerate(batch)
            if trace.trace_id is not None and trace_id_text(trace.trace_id) in refused
        }

        spans = _read_at_once(self._backend, [batch[place] for place in rest], stored)

        def write_one(place: int) -> None:
            trace = batch[place]
            with self._backend.writing:
                if trace.trace_id is None:
                    self._assess_by_request(trace)
                else:
                    trace_id = trace_id_text(trace.trace_id)
                    self._merge(trace, stored.get(trace_id), spans.pop(trace_id, None))

        errors |= _tried(rest, write_one)
        if errors and len(batch) == 1:
            raise errors[0]
        if errors:
            raise PartlyRefusedError(errors)

    def _write_new(self, traces: dict[str, AssembledTrace]) -> dict[str, PoisonError]:
        """Returns errors by trace id, where some are refused and the others stored."""
        rows = self._made_rows(traces)
        bulk = self._backend.bulk
        with self._backend.writing:
            inserted = frozenset[str]() if bulk is None else bulk.insert(rows)
            left = {key: trace for key, trace in traces.items() if key not in inserted}
            refused = self._write_one_by_one(left) if left else {}
            self._complete_new({k: one for k, one in traces.items() if k not in refused})
            return refused

    def _made_rows(self, traces: dict[str, AssembledTrace]) -> list[TraceRows]:
        """For the fast way, where there is one: rows of all that may go it."""
        rows: list[TraceRows] = []
        if self._rows is None:
            return rows
        for trace_id, trace in traces.items():
            experiment_id = self._resolver.experiment_id(trace.trace)
            model_id = self._model_id(trace.trace, experiment_id)
            made = self._rows.rows(trace_id, trace, experiment_id=experiment_id, model_id=model_id)
            if made is not None:
                rows.append(made)
        return rows

    def _write_one_by_one(self, traces: dict[str, AssembledTrace]) -> dict[str, PoisonError]:
        """By MLflow's own methods. Returns errors by trace id."""
        infos: list[TraceInfo] = []
        spans: dict[str, list[Span]] = {}
        refused: dict[str, PoisonError] = {}
        for trace_id, trace in traces.items():
            try:
                experiment_id = self._resolver.experiment_id(trace.trace)
            except PoisonError as error:
                refused[trace_id] = error
                continue
            entities = [
                self._builder.spans.entity(trace.trace_id or b"", span) for span in trace.spans
            ]
            info = self._builder.new_info(
                trace_id,
                trace,
                entities,
                experiment_id=experiment_id,
                model_id=self._model_id(trace.trace, experiment_id),
            )
            infos.append(info)
            spans[trace_id] = entities
        try:
            self._backend.write_new(infos, spans)
        except RefusedError as error:
            refused |= error.refused
        return refused

    def _complete_new(self, traces: dict[str, AssembledTrace]) -> None:
        """What comes after a new trace's rows."""
        again: dict[str, AssembledTrace] = {}
        beside: dict[str, AssembledTrace] = {}
        for trace_id, trace in traces.items():
            overriding = any(assessment.overrides for assessment in trace.assessments)
            # Another worker may have written other parts of an unfinished trace at the same time.
            if overriding or not trace.complete:
                again[trace_id] = trace
            elif trace.attachments or trace.trace.prompts:
                beside[trace_id] = trace
        if again or beside:
            found = self._backend.infos([*again, *beside])
            self._add_beside((beside[key], info) for key, info in found.items() if key in beside)
            for trace_id, trace in again.items():
                if trace_id in found:
                    self._merge(trace, found[trace_id])

    def _merge(
        self,
        trace: AssembledTrace,
        info: TraceInfo | None,
        spans: list[Span] | None = None,
    ) -> None:
        """Add to a stored trace what it does not have yet; write nothing where it has it all.

        `spans` are those that it has, where they are known.
        """
        trace_id = trace_id_text(trace.trace_id or b"")
        info = info or self._backend.infos([trace_id]).get(trace_id)
        if info is None:
            if trace.spans:  # deleted meanwhile, or never finished: it is new
                for error in self._write_new({trace_id: trace}).values():
                    raise error
                return
            raise TraceNotFoundError(
                f"MLflow has no trace {trace_id}: what belongs to it (feedback, tags) waits in the "
                "dead letters and can be replayed when the trace is stored"
            )
        info = self._merge_spans(trace, info, spans)
        stored = {one.assessment_id: one for one in info.assessments}
        for assessment in _unique(trace.assessments):
            if assessment.assessment_id not in stored:
                overridden = stored.get(assessment.overrides)
                entity = self._builder.assessments.entity(trace_id, assessment, overridden)
                self._backend.add_assessment(entity)
                stored[assessment.assessment_id] = entity
        self._add_beside([(trace, info)])

    def _add_beside(self, traces: Iterable[tuple[AssembledTrace, TraceInfo]]) -> None:
        """What MLflow keeps beside a stored trace: its attachments, its links to prompts."""
        pairs = list(traces)
        self._artifacts.upload((info, one) for trace, info in pairs for one in trace.attachments)
        for trace, info in pairs:
            if trace.trace.prompts:
                self._link_prompts(trace.trace, info.trace_id)

    def _link_prompts(self, part: wire.TracePart, trace_id: str) -> None:
        """Linking is for the prompt's page; the trace names its prompts in a tag of its own."""
        prompts = prompt_versions(part)
        if not prompts:
            return
        link = methodcaller("link_prompts_to_trace", trace_id, prompts)
        try:
            self._backend.ask(f"linking prompts to trace {trace_id}", link)
        except PoisonError as error:
            if not self._prompts_failed:
                self._prompts_failed = True
                _logger.warning(
                    "traces are stored without links to their prompts: %s",
                    error,
                    extra=LogEvent.WRITE_PARTLY(),
                )

    def _delete_tags(self, info: TraceInfo, part: wire.TracePart) -> None:
        for key in self._builder.deleted_tags(part):
            if key not in info.tags:
                continue
            delete = methodcaller("delete_trace_tag", info.trace_id, key)
            try:
                self._backend.ask(f"deleting a tag of trace {info.trace_id}", delete)
            except PoisonError as error:
                if error.__cause__ is None or not is_missing(error.__cause__):
                    raise
                # somebody else has deleted it between our look and our write

    def _merge_spans(
        self, trace: AssembledTrace, info: TraceInfo, stored: list[Span] | None
    ) -> TraceInfo:
        part = trace.trace
        came = [self._builder.spans.entity(trace.trace_id or b"", span) for span in trace.spans]
        change: Change | None = None
        written: list[Span] = []
        state = (
            info.state
        )  # before adding spans: MLflow ends a trace whose root is there, ended or not
        if came:
            stored = self._backend.spans(info) if stored is None else stored
            before, written = stored, unstored_spans(came, stored)
            restored = is_restored(part, info)
            if written:
                self._backend.add_spans(str(info.experiment_id), written)
                info = self._backend.infos([info.trace_id]).get(info.trace_id, info)
                stored = self._backend.spans(info)
            stale = is_stale(info, stored, rounding_ms=self._backend.rounding_ms)
            if written or restored or stale:
                change = Change(None if restored else before, stored)
        part = truly_marked(part, written)
        if not came and part == wire.TracePart():
            return info
        merged = merged_info(self._builder, info, part, came, change, state=state)
        self._move(merged, part, came)
        if not same_info(merged, info):
            self._backend.put_info(merged)
        self._delete_tags(info, part)
        return info

    def _move(self, info: TraceInfo, part: wire.TracePart, came: Sequence[Span]) -> None:
        """Let the service that has the root decide on the experiment; link the model if none is."""
        named = part.experiment_id or part.experiment
        if named and any(span.parent_id is None for span in came):
            info.experiment_id = self._resolver.experiment_id(part)
        if TraceMetadataKey.MODEL_ID not in info.trace_metadata:
            model_id = self._model_id(part, str(info.experiment_id))
            if model_id is not None:
                info.trace_metadata[TraceMetadataKey.MODEL_ID] = model_id

    def _model_id(self, part: wire.TracePart, experiment_id: str) -> str | None:
        if part.active_model is None or TraceMetadataKey.MODEL_ID in part.metadata:
            return None
        params = self._builder.model_params(part)
        return self._resolver.model_id(part.active_model, experiment_id, params)

    def _assess_by_request(self, trace: AssembledTrace) -> None:
        """Attach assessments to the newest trace of their client request id."""
        owners = self._backend.owners([a.assessment_id for a in trace.assessments])
        for assessment in _unique(trace.assessments):
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
                entity = self._builder.assessments.entity(found[0].trace_id, assessment, overridden)
                self._backend.add_assessment(entity)

    def _experiments(self, part: wire.TracePart) -> list[str]:
        ids = self._resolver.known_experiments()
        try:
            ids.append(self._resolver.experiment_id(part))
        except PoisonError as error:
            _logger.debug("searching without it: %s", error, extra=LogEvent.WRITE_DETAIL())
        return list(dict.fromkeys(ids))


def _tried(places: Iterable[int], write: Callable[[int], None]) -> dict[int, PoisonError]:
    """Write one by one; errors by place, where a trace is refused."""
    errors: dict[int, PoisonError] = {}
    for place in places:
        try:
            write(place)
        except PoisonError as error:
            errors[place] = error
    return errors


def _read_at_once(
    backend: Backend, traces: Iterable[AssembledTrace], stored: Mapping[str, TraceInfo]
) -> dict[str, list[Span]]:
    """The stored spans of the first of these traces, as many as may be in memory together; none where
    MLflow's own way is asked for. Without traces that are not finished.

    What comes again after a crash is all stored; reading it one by one takes ten times as long as
    it took to store it.
    """
    ids: list[str] = []
    left = READ_BYTES_MAX
    for trace in traces:
        info = stored.get(trace_id_text(trace.trace_id or b"")) if trace.spans else None
        if info is None or TraceTagKey.SPANS_LOCATION not in info.tags:
            continue
        size = info.trace_metadata.get(TraceMetadataKey.SIZE_BYTES, "")
        left -= int(size) if size.isdecimal() else READ_BYTES_MAX
        if left < 0:
            break
        ids.append(info.trace_id)
    if backend.bulk is None or len(ids) < 2:
        return {}
    found: list[Trace] = backend.ask("reading traces", methodcaller("batch_get_traces", ids))
    return {one.info.trace_id: list(one.data.spans) for one in found}


def _unique(assessments: Sequence[wire.Assessment]) -> list[wire.Assessment]:
    return list({assessment.assessment_id: assessment for assessment in assessments}.values())
