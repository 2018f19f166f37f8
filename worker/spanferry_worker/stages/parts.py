"""What a trace is of whose pieces several come, its own part above all."""

from collections.abc import Sequence
from typing import TypeVar

from msgspec.structs import replace

from spanferry_schemas import TracePart
from spanferry_worker.stages.trace import PROCESS_METADATA, AssembledTrace

__all__ = ["merge_parts", "united", "without_own"]

_T = TypeVar("_T")


def without_own(part: TracePart, known: TracePart) -> TracePart:
    """A part of another process than the root's: without what only the root's process may say."""
    placed = known.experiment_id is not None or known.experiment is not None
    return replace(
        part,
        experiment_id=None if placed else part.experiment_id,
        experiment=None if placed else part.experiment,
        active_model=None if known.active_model is not None else part.active_model,
        metadata={
            key: value
            for key, value in part.metadata.items()
            if key not in PROCESS_METADATA or key not in known.metadata
        },
    )


def merge_parts(old: TracePart, new: TracePart) -> TracePart:
    """The later part over the earlier one: what it gives counts, dictionaries are united.

    An experiment's id and name belong together: a part that gives either replaces both. Within a
    part tags are deleted before others are set.
    """
    gives_experiment = new.experiment_id is not None or new.experiment is not None
    place = new if gives_experiment else old
    tags = {key: value for key, value in old.tags.items() if key not in new.deleted_tags}
    tags |= new.tags
    deleted = dict.fromkeys([*old.deleted_tags, *new.deleted_tags])
    return TracePart(
        experiment_id=place.experiment_id,
        experiment=place.experiment,
        state=_later(old.state, new.state),
        client_request_id=_later(old.client_request_id, new.client_request_id),
        request_preview=_later(old.request_preview, new.request_preview),
        response_preview=_later(old.response_preview, new.response_preview),
        tags=tags,
        metadata={**old.metadata, **new.metadata},
        active_model=_later(old.active_model, new.active_model),
        model_params={**old.model_params, **new.model_params},
        prompts=tuple(dict.fromkeys([*old.prompts, *new.prompts])),
        deleted_tags=tuple(key for key in deleted if key not in tags),
        files_inline=old.files_inline or new.files_inline,
    )


def _later(old: _T | None, new: _T | None) -> _T | None:
    return old if new is None else new


def united(pieces: Sequence[AssembledTrace]) -> AssembledTrace:
    """One trace of all that came of it, in order; at least one piece."""
    whole, *later = pieces
    for piece in later:
        spans = {span.span_id: span for span in whole.spans}
        for span in piece.spans:
            known = spans.get(span.span_id)
            if known is None or (known.end_ns == 0 and span.end_ns != 0):
                spans[span.span_id] = span
        assessments = {one.assessment_id: one for one in (*whole.assessments, *piece.assessments)}
        attachments = {one.attachment_id: one for one in (*whole.attachments, *piece.attachments)}
        whole = replace(
            whole,
            trace=merge_parts(whole.trace, piece.trace),
            spans=list(spans.values()),
            assessments=list(assessments.values()),
            attachments=list(attachments.values()),
            complete=whole.complete or piece.complete,
            size=whole.size + piece.size,
            positions=[*whole.positions, *piece.positions],
        )
    return whole
