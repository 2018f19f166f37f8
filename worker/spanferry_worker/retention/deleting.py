"""Deletes what is selected, experiment by experiment, the oldest first: files, THEN their traces."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from msgspec import Struct

from spanferry_worker.errors import FatalError, PoisonError, TransientError, WorkerError
from spanferry_worker.retention.table import Patience, TraceTable, Walk
from spanferry_worker.stages.retention import DeletionPace, Experiment, Selection, StoredTrace

__all__ = ["Account", "Deletion", "Order"]

REFUSED_MAX: Final = 10
"""So many at the very beginning of an experiment, and none that goes, are enough to leave it alone."""
_NOT_GONE: Final = (
    "MLflow was asked to delete it, has said no error, and has it still: of traces that it has archived it "
    "must be able to delete the archive"
)


class Order(Struct, frozen=True, kw_only=True):
    """What is to be done."""

    selection: Selection
    page_traces: int
    """How many are looked at before they are deleted."""
    traces_max: int | None = None
    files: bool = False
    """Also what lies in the artifact store."""


class Account(Struct):
    """What was done in one experiment."""

    experiment: Experiment
    deleted: int = 0
    """Traces that are gone, those among them that another run has deleted meanwhile."""
    kept: int = 0
    """They fit, but something keeps them."""
    refused: int = 0
    """They should be gone, and are there."""
    why: str = ""
    """Why the first of these."""
    reached_ms: int | None = None
    """The start of the last trace that was looked at."""
    stopped: WorkerError | None = None
    """Why not all of it was looked at."""


class Deletion:
    """One run over some experiments. Killed at any moment, the next run does the rest."""

    def __init__(
        self,
        table: TraceTable,
        order: Order,
        pace: DeletionPace,
        patience: Patience,
        *,
        now_s: Callable[[], float],
        wait: Callable[[float], bool],
    ) -> None:
        """`wait` and `now_s` as Patience has them."""
        self._table = table
        self._order = order
        self._pace = pace
        self._patience = patience
        self._now_s = now_s
        self._wait = wait
        self._left = order.traces_max
        self.accounts: list[Account] = []
        self.stopped = False
        """Whether it was asked to stop before its end."""

    @property
    def deleted(self) -> int:
        """Of all experiments together."""
        return sum(account.deleted for account in self.accounts)

    @property
    def at_limit(self) -> bool:
        """Whether as many are gone as may go."""
        return self._left == 0

    def run(self, experiments: Sequence[Experiment], tell: Callable[[Account], None]) -> None:
        """Delete; `accounts` says what. `tell` is called after each batch.

        An experiment that refuses does not keep the others back, an MLflow that is away does.
        """
        for experiment in experiments:
            account = Account(experiment)
            self.accounts.append(account)
            try:
                self._delete(account, tell)
            except (TransientError, FatalError, PoisonError) as error:
                account.stopped = error
                if isinstance(error, TransientError):
                    return
            if self.stopped or self.at_limit:
                return

    def _delete(self, account: Account, tell: Callable[[Account], None]) -> None:
        selection = self._order.selection
        walk = Walk(
            self._table, account.experiment.experiment_id, selection, self._order.page_traces
        )
        while page := self._patience.ask(walk.step):
            self.stopped = self._wait(0)
            if self.stopped:
                return
            fitting = [trace for trace in page if selection.matches(trace)]
            going = [trace for trace in fitting if not selection.keeps(trace)]
            account.kept += len(fitting) - len(going)
            account.reached_ms = page[-1].time_ms
            if self._left is not None:
                going = going[: self._left]
            while going:
                done = self._batch(account, going)
                going = going[done:]
                tell(account)
                if account.refused >= REFUSED_MAX and not account.deleted:
                    raise PoisonError(account.why)
                if self.stopped:
                    return
            if self.at_limit:
                return

    def _batch(self, account: Account, going: Sequence[StoredTrace]) -> int:
        """Delete the first of them, then leave MLflow alone for a while; how many it was about."""
        began_s, before = self._now_s(), account.deleted

        def delete() -> int:
            nonlocal began_s
            began_s = self._now_s()
            some = going[: self._pace.size]
            self._delete_some(account, some)
            return len(some)

        count = self._patience.ask(delete, self._pace.failed)
        if self._left is not None:
            self._left -= account.deleted - before
        self.stopped = self._wait(self._pace.took(self._now_s() - began_s, count))
        return count

    def _delete_some(self, account: Account, some: Sequence[StoredTrace]) -> None:
        # Files first: without its record nobody would find a trace's files any more.
        failures: Mapping[str, PoisonError] = {}
        if self._order.files:
            failures = self._table.delete_files(account.experiment, some)
        going = [trace.trace_id for trace in some if trace.trace_id not in failures]
        if going:
            left, why = self._gone(account.experiment.experiment_id, going)
            account.deleted += len(going) - left
            _refuse(account, left, why)
        for error in failures.values():
            _refuse(account, 1, str(error))

    def _gone(self, experiment_id: str, trace_ids: Sequence[str]) -> tuple[int, str]:
        """Delete these; how many of them are there all the same, and why.

        What MLflow refuses is looked for by halves.
        """
        try:
            if self._table.delete(experiment_id, trace_ids) == len(trace_ids):
                return 0, ""
            left = len(self._table.there(trace_ids))
        except PoisonError as error:
            if len(trace_ids) == 1:
                return 1, str(error)
        else:
            return left, _NOT_GONE if left else ""
        middle = len(trace_ids) // 2
        first, why = self._gone(experiment_id, trace_ids[:middle])
        second, why_too = self._gone(experiment_id, trace_ids[middle:])
        return first + second, why or why_too


def _refuse(account: Account, count: int, why: str) -> None:
    if count:
        account.refused += count
        account.why = account.why or why
