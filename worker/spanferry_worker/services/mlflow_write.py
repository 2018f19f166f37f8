"""Storing a batch: new traces the cheap way, known ones merged, feedback where its trace is."""

import logging
from collections.abc import Callable, Iterable, Sequence
from operator import methodcaller
from typing import Any

from mlflow.entities import Span, TraceInfo
from mlflow.entities.model_registry import PromptVersion
from mlflow.exceptions import MlflowException
from mlflow.tracing.constant import TraceMetadataKey

import spanferry_schemas as wire
from spanferry_schemas import trace_id_text
from spanferry_worker.errors import (
    PartlyRefusedError,
    PoisonError,
    TraceNotFoundError,
    TransientError,
)
from spanferry_worker.services.mlflow_archive import is_archived
from spanferry_worker.services.mlflow_artifacts import Artifacts
from spanferry_worker.services.mlflow_assess import Assessor, is_alone
from spanferry_worker.services.mlflow_backend import Backend
from spanferry_worker.services.mlflow_build import EntityBuilder, prompt_versions
from spanferry_worker.services.mlflow_errors import (
    RefusedError,
    SuspectedError,
    elsewhere,
    first_lines,
    is_forbidden,
    is_missing,
)
from spanferry_worker.services.mlflow_merge import (
    Change,
    is_restored,
    is_stale,
    merged_info,
    same_info,
    truly_marked,
    unstored_spans,
)
from spanferry_worker.services.mlflow_read import read_at_once
from spanferry_worker.services.mlflow_resolve import Resolver
from spanferry_worker.services.mlflow_trace_rows import NewTrace, RowBuilder, TraceRows
from spanferry_worker.stages.trace import AssembledTrace
from spanferry_worker.telemetry import LogEvent

__all__ = ["Writer"]

_logger = logging.getLogger(__name__)


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
        self._assessor = Assessor(backend, builder, resolver)
        self._artifacts = artifacts
        self._extract = extract
        self._rows = None if backend.bulk is None else RowBuilder(builder)
        self._prompts_failed = False
        self._stays_said = False

    def write(self, batch: Sequence[AssembledTrace]) -> None:
        """As Sink.write. Repeating a batch changes nothing: what is stored is looked up first."""
        if self._extract is not None:
            batch = [self._extract(trace) for trace in batch]
        # Feedback by itself needs no records then: to look them up takes ten times as long as to store it.
        blind = self._assessor.finds_traces
        stored = self._backend.infos(_ids(one for one in batch if not (blind and is_alone(one))))
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
            for place, trace in enumerate(batch if refused else ())
            if trace.trace_id is not None and trace_id_text(trace.trace_id) in refused
        }

        known = None if blind else (stored.keys() | new.keys()) - refused.keys()
        rest, unplaced = self._assessor.at_once(batch, rest, stored, known)
        errors |= unplaced
        if alone := [batch[place] for place in rest if blind and is_alone(batch[place])]:
            stored |= self._backend.infos([one for one in _ids(alone) if one not in stored])

        spans = read_at_once(self._backend, [batch[place] for place in rest], stored)

        def write_one(place: int) -> None:
            trace = batch[place]
            with self._backend.writing:
                if trace.trace_id is None:
                    self._assessor.add_by_request(trace)
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
        bulk, archived = self._backend.bulk, self._backend.archived
        rows: Sequence[TraceRows] = self._made_rows(traces)
        if archived is not None:
            rows = archived.before_insert(rows)
        with self._backend.writing:
            inserted = frozenset[str]() if bulk is None else bulk.insert(rows)
            left = {key: trace for key, trace in traces.items() if key not in inserted}
            refused = self._write_one_by_one(left) if left else {}
            self._complete_new({k: one for k, one in traces.items() if k not in refused})
            return refused

    def _made_rows(self, traces: dict[str, AssembledTrace]) -> list[TraceRows]:
        """For the fast way, where there is one: rows of all that may go it."""
        if self._rows is None:
            return []
        new: list[NewTrace] = []
        for trace_id, trace in traces.items():
            try:
                experiment_id = self._resolver.experiment_id(trace.trace)
            except PoisonError:
                continue  # refused with those that are left
            model_id = self._model_id(trace.trace, experiment_id)
            new.append(NewTrace(trace_id, trace, experiment_id, model_id))
        return self._rows.rows(new)

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
        except PoisonError as error:
            # two services began them in two experiments at once: the next try adds to what is there
            if (ids := elsewhere(error)) and self._backend.infos(ids):
                raise TransientError(f"somebody else was faster: {error}") from error
            if not isinstance(error, RefusedError):
                raise
            refused |= error.refused
        if (archived := self._backend.archived) is not None:
            for info in infos:
                archived.archive(info)
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
        if info is not None:
            try:
                info = self._merge_spans(trace, info, spans)
                self._assessor.add(trace, info)
                self._add_beside([(trace, info)])
            except PoisonError as error:
                missing = error.__cause__ is not None and is_missing(error.__cause__)
                if not missing or self._backend.infos([trace_id]):
                    raise
            else:
                return
        if not trace.spans:
            raise TraceNotFoundError(
                f"MLflow has no trace {trace_id}: what belongs to it (feedback, tags) waits in the "
                "dead letters and can be replayed when the trace is stored"
            )
        # deleted meanwhile, or never finished: it is new, as it is to MLflow's own methods
        for refusal in self._write_new({trace_id: trace}).values():
            raise refusal

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
        try:
            why = self._backend.ask(
                f"linking prompts to trace {trace_id}",
                lambda store: _why_not_linked(store, trace_id, prompts),
            )
        except PoisonError as error:
            why = str(error)
        if why and not self._prompts_failed:
            self._prompts_failed = True
            _logger.warning(
                "traces are stored without links to their prompts: %s",
                why,
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
        part, archived = trace.trace, self._backend.archived
        came = [self._builder.spans.entity(trace.trace_id or b"", span) for span in trace.spans]
        change: Change | None = None
        written: list[Span] = []
        # before adding spans: MLflow ends a trace whose root is there, ended or not
        state = info.state
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
        changed = not same_info(merged, info)
        if changed:
            self._put_info(merged, info)
        self._delete_tags(info, part)
        if archived is not None and (written or changed or not is_archived(info)):
            archived.archive(merged)
        return info

    def _put_info(self, merged: TraceInfo, stored: TraceInfo) -> None:
        """Write it over the stored one; in the stored one's experiment where MLflow moves no trace."""
        try:
            self._backend.put_info(merged)
        except PoisonError as error:
            if not elsewhere(error) or merged.experiment_id == stored.experiment_id:
                raise
            if not self._stays_said:
                self._stays_said = True
                _logger.warning(
                    "traces stay in the experiment of the part that came first, because MLflow moves none; "
                    "trace %s in %s, though its root names %s",
                    merged.trace_id,
                    stored.experiment_id,
                    merged.experiment_id,
                    extra=LogEvent.WRITE_PARTLY(),
                )
            merged.experiment_id = stored.experiment_id
            self._backend.put_info(merged)

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
        name, params = self._builder.model_name(part.active_model), self._builder.model_params(part)
        return self._resolver.model_id(name, experiment_id, params)


def _why_not_linked(store: Any, trace_id: str, prompts: list[PromptVersion]) -> str:
    """Link them; why not, where the worker may not."""
    try:
        store.link_prompts_to_trace(trace_id, prompts)
    except MlflowException as error:
        if not is_forbidden(error):
            raise
        return first_lines(error)
    return ""


def _ids(traces: Iterable[AssembledTrace]) -> list[str]:
    return list({trace_id_text(one.trace_id) for one in traces if one.trace_id is not None})


def _tried(places: Iterable[int], write: Callable[[int], None]) -> dict[int, PoisonError]:
    """Write one by one; errors by place, where a trace is refused.

    Raises SuspectedError where one is left for another try, after the others.
    """
    errors: dict[int, PoisonError] = {}
    suspected: SuspectedError | None = None
    for place in places:
        try:
            write(place)
        except PoisonError as error:
            errors[place] = error
        except SuspectedError as error:
            suspected = error
    if suspected is not None:
        raise suspected
    return errors
