"""Says what would be deleted. Changes nothing."""

from collections.abc import Callable, Sequence
from typing import Final

from msgspec import Struct

from spanferry_worker.errors import FatalError, PoisonError, WorkerError
from spanferry_worker.retention.table import Patience, TraceTable, Walk
from spanferry_worker.stages.retention import Experiment, Selection

__all__ = ["Finding", "survey"]

_PAGE_TRACES: Final = 500


class Finding(Struct):
    """What there is to delete in one experiment."""

    experiment: Experiment
    traces: int = 0
    kept: int = 0
    """They fit, but something keeps them."""
    oldest_ms: int | None = None
    newest_ms: int | None = None
    error: WorkerError | None = None
    """Why this experiment cannot be looked at."""


def survey(
    table: TraceTable,
    experiments: Sequence[Experiment],
    selection: Selection,
    patience: Patience,
    stopping: Callable[[], bool],
) -> list[Finding]:
    """One finding for each experiment, fewer where we are asked to stop.

    Raises TransientError where MLflow is away for too long.
    """
    findings: list[Finding] = []
    for experiment in experiments:
        if stopping():
            break
        finding = Finding(experiment)
        try:
            if not (selection.is_exact and _counted(table, finding, selection, patience)):
                _walked(table, finding, selection, patience, stopping)
        except (PoisonError, FatalError) as error:
            finding.error = error
        findings.append(finding)
    return findings


def _counted(table: TraceTable, finding: Finding, selection: Selection, patience: Patience) -> bool:
    """Let MLflow count; False where it cannot."""
    experiment_id, condition = finding.experiment.experiment_id, selection.condition()
    count = patience.ask(lambda: table.count(experiment_id, condition))
    if count is None:
        return False
    finding.traces = count
    if count:
        finding.oldest_ms = _edge_ms(table, finding, selection, patience, newest=False)
        finding.newest_ms = _edge_ms(table, finding, selection, patience, newest=True)
    return True


def _edge_ms(
    table: TraceTable, finding: Finding, selection: Selection, patience: Patience, *, newest: bool
) -> int | None:
    page, _ = patience.ask(
        lambda: table.search(
            finding.experiment.experiment_id, selection.condition(), 1, newest_first=newest
        )
    )
    return page[0].time_ms if page else None


def _walked(
    table: TraceTable,
    finding: Finding,
    selection: Selection,
    patience: Patience,
    stopping: Callable[[], bool],
) -> None:
    experiment_id = finding.experiment.experiment_id
    walk = Walk(table, experiment_id, selection, _PAGE_TRACES, looks_only=True)
    while not stopping() and (page := patience.ask(walk.step)):
        for trace in filter(selection.matches, page):
            if selection.keeps(trace):
                finding.kept += 1
                continue
            finding.traces += 1
            finding.newest_ms = trace.time_ms
            if finding.oldest_ms is None:
                finding.oldest_ms = trace.time_ms
