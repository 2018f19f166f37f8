"""What retention finds and does, as lines for people and as JSON for programs."""

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from spanferry_worker.retention.deleting import Account, Deletion
from spanferry_worker.retention.survey import Finding
from spanferry_worker.stages.retention import Selection
from spanferry_worker.text import cut, printable, time_text

__all__ = ["about", "account_lines", "deletion_json", "finding_lines", "findings_json"]

_NAME_WIDTH: Final = 40
_ROWS_MAX: Final = 100


def about(selection: Selection) -> str:
    """Which traces these are."""
    parts = [f"traces that started before {time_text(selection.before_ms)}"]
    if selection.states:
        parts.append(f"in state {' or '.join(selection.states)}")
    parts += [f"with tag {printable(key)}={printable(value)}" for key, value in selection.tags]
    parts += [
        f"without tag {printable(key)}{'' if value is None else f'={printable(value)}'}"
        for key, value in selection.keep_tags
    ]
    if selection.keep_assessed:
        parts.append("without feedback or expectations")
    return ", ".join(parts)


def finding_lines(findings: Sequence[Finding], selection: Selection) -> Iterator[str]:
    """A table of what there is to delete, and what it adds up to."""
    yield about(selection)
    there = sorted((one for one in findings if one.traces), key=lambda one: -one.traces)
    if there:
        yield _row("EXPERIMENT", "ID", "TRACES", "OLDEST", "NEWEST")
    for one in there[:_ROWS_MAX]:
        yield _row(
            one.experiment.name,
            one.experiment.experiment_id,
            f"{one.traces:,}",
            _moment(one.oldest_ms),
            _moment(one.newest_ms),
        )
    if len(there) > _ROWS_MAX:
        yield f"... and {len(there) - _ROWS_MAX:,} more experiments (--json has them all)"
    looked = sum(one.error is None for one in findings)
    total = sum(one.traces for one in findings)
    kept = sum(one.kept for one in findings)
    kept_text = f"; {_traces(kept)} {'is' if kept == 1 else 'are'} kept" if kept else ""
    where = f", in {len(there):,} of {looked:,} experiments" if looked > 1 else ""
    yield f"{_traces(total)} to delete{where}{kept_text}"


def account_lines(deletion: Deletion) -> Iterator[str]:
    """What was deleted."""
    for account in deletion.accounts:
        if account.deleted:
            yield (
                f"{printable(account.experiment.name)} ({account.experiment.experiment_id}): "
                f"{_traces(account.deleted)} deleted"
            )
    kept = sum(account.kept for account in deletion.accounts)
    if kept:
        yield f"{_traces(kept)} kept"
    yield f"{_traces(deletion.deleted)} deleted in all"
    if deletion.at_limit:
        yield "stopped at --max-traces: there may be more"


def findings_json(findings: Sequence[Finding], selection: Selection) -> str:
    """Of a dry run: one JSON object and a newline."""
    rows = [
        {
            "id": one.experiment.experiment_id,
            "name": one.experiment.name,
            "traces": one.traces,
            "kept": one.kept,
            "oldest_ms": one.oldest_ms,
            "newest_ms": one.newest_ms,
            "error": _error(one.error),
        }
        for one in findings
    ]
    content = {
        "dry_run": True,
        "before_ms": selection.before_ms,
        "traces": sum(one.traces for one in findings),
        "experiments": rows,
    }
    return msgspec.json.encode(content).decode() + "\n"


def deletion_json(deletion: Deletion, findings: Sequence[Finding], selection: Selection) -> str:
    """Of a run: one JSON object and a newline."""
    failed = [Account(one.experiment, stopped=one.error) for one in findings if one.error]
    rows = [
        {
            "id": one.experiment.experiment_id,
            "name": one.experiment.name,
            "deleted": one.deleted,
            "kept": one.kept,
            "refused": one.refused,
            "why": one.why or None,
            "reached_ms": one.reached_ms,
            "error": _error(one.stopped),
        }
        for one in (*deletion.accounts, *failed)
    ]
    content = {
        "dry_run": False,
        "before_ms": selection.before_ms,
        "deleted": deletion.deleted,
        "at_limit": deletion.at_limit,
        "interrupted": deletion.stopped,
        "experiments": rows,
    }
    return msgspec.json.encode(content).decode() + "\n"


def _row(name: str, experiment_id: str, traces: str, oldest: str, newest: str) -> str:
    shown = cut(name, _NAME_WIDTH)
    return (
        f"{shown:<{_NAME_WIDTH}}  {experiment_id:>6}  {traces:>12}  {oldest:<20}  {newest}".rstrip()
    )


def _moment(time_ms: int | None) -> str:
    return "-" if time_ms is None else time_text(time_ms)


def _error(error: Exception | None) -> str | None:
    return None if error is None else str(error)


def _traces(count: int) -> str:
    return f"{count:,} {'trace' if count == 1 else 'traces'}"
