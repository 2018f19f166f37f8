"""What retention needs of MLflow, and the walk over an experiment's traces while they are deleted."""

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Protocol, TypeVar

from spanferry_worker.errors import PoisonError, TransientError
from spanferry_worker.stages.retention import Experiment, Selection, StoredTrace
from spanferry_worker.stages.write import RetryPolicy

__all__ = ["Patience", "TraceTable", "Walk"]

_T = TypeVar("_T")


class TraceTable(Protocol):
    """MLflow's traces. Blocking; raises TransientError, PoisonError, and FatalError where it may not."""

    def search(
        self,
        experiment_id: str,
        condition: str,
        limit: int,
        token: str | None = None,
        *,
        newest_first: bool = False,
    ) -> tuple[list[StoredTrace], str | None]:
        """A page, the oldest first, and what to give as `token` for the next one; None at the end."""
        ...

    def count(self, experiment_id: str, condition: str) -> int | None:
        """How many there are; None where MLflow cannot say."""
        ...

    def delete(self, experiment_id: str, trace_ids: Sequence[str]) -> int:
        """Delete these in one transaction; how many there were. A repeat deletes nothing."""
        ...

    def there(self, trace_ids: Sequence[str]) -> set[str]:
        """Those of them that are stored."""
        ...

    def delete_files(
        self, experiment: Experiment, traces: Sequence[StoredTrace]
    ) -> Mapping[str, PoisonError]:
        """Delete the files of these; why not, by trace id, of those whose files stay."""
        ...


class Patience:
    """Asks again what has failed for a reason that may pass."""

    def __init__(
        self,
        policy: RetryPolicy,
        give_up_s: float,
        now_s: Callable[[], float],
        wait: Callable[[float], bool],
        chance: Random,
    ) -> None:
        """`wait` takes seconds and says whether we are asked to stop. `now_s` never goes back."""
        self._policy = policy
        self._give_up_s = give_up_s
        self._now_s = now_s
        self._wait = wait
        self._chance = chance

    def ask(self, request: Callable[[], _T], failed: Callable[[], None] = lambda: None) -> _T:
        """What `request` gives. `failed` is called after each failure, before the next try.

        Raises TransientError where it has failed for `give_up_s`, or we are asked to stop.
        """
        since_s, attempt = self._now_s(), 0
        while True:
            try:
                return request()
            except TransientError as error:
                attempt += 1
                failed()
                delay_s = self._policy.delay_s(attempt, self._chance.random())
                delay_s = max(delay_s, error.retry_after_s or 0.0)
                late = self._now_s() + delay_s - since_s > self._give_up_s
                if late or self._wait(delay_s):
                    raise


class Walk:
    """The traces of an experiment that a selection may mean, the oldest first, each once.

    What was seen may be deleted or stay: MLflow's page tokens count rows, so that pages would shift
    under deletion. The walk begins anew where it is, and passes over what it has seen there.
    """

    def __init__(
        self,
        table: TraceTable,
        experiment_id: str,
        selection: Selection,
        page_traces: int,
        *,
        looks_only: bool = False,
    ) -> None:
        """`looks_only`: nothing is deleted between two steps, so that tokens hold."""
        self._table = table
        self._experiment_id = experiment_id
        self._selection = selection
        self._page_traces = page_traces
        self._looks_only = looks_only
        self._token: str | None = None
        self._from_ms: int | None = None
        self._seen: set[str] = set()
        """Those that started in the very millisecond that the walk has come to."""

    def step(self) -> list[StoredTrace]:
        """The next ones; none at the end. May be repeated where it raises."""
        condition, token = self._selection.condition(self._from_ms), self._token
        while True:
            page, token = self._table.search(
                self._experiment_id, condition, self._page_traces, token
            )
            fresh = [trace for trace in page if trace.trace_id not in self._seen]
            if fresh or token is None:
                break
        if fresh:
            edge_ms = fresh[-1].time_ms
            self._token = token if self._looks_only and edge_ms == self._from_ms else None
            if edge_ms != self._from_ms:
                self._from_ms, self._seen = edge_ms, set()
            self._seen.update(trace.trace_id for trace in fresh if trace.time_ms == edge_ms)
        return fresh
