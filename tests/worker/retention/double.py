"""MLflow's traces in memory, held to the same contract as the real ones (tests/sinks/test_retention.py)."""

import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from spanferry_worker.errors import PoisonError
from spanferry_worker.stages.retention import Experiment, StoredTrace

CLAUSE = re.compile(
    r"timestamp_ms (?P<compare><|>=) (?P<time>\d+)"
    r"|status = '(?P<state>\w+)'|status IN \((?P<states>[^)]*)\)"
    r"|tags\.`(?P<key>[^`]+)` = '(?P<value>[^']*)'"
)


class Terminal(io.StringIO):
    """A stdin with somebody before it."""

    def isatty(self) -> bool:
        return True


class MemoryTraces:
    """A TraceTable. Page tokens count rows, as MLflow's do."""

    def __init__(self, *, counts: bool = True) -> None:
        self.rows: dict[str, tuple[str, StoredTrace]] = {}
        self.files: set[str] = set()
        self.calls: list[str] = []
        self.batches: list[int] = []
        self.before: Callable[[str], None] = lambda call: None
        """Called with the name of each call, before it does anything; may raise."""
        self.after: Callable[[str], None] = lambda call: None
        self.guarded: set[str] = set()
        """Trace ids that `delete` refuses."""
        self.stuck: set[str] = set()
        """Trace ids that `delete` leaves there without a word."""
        self._counts = counts

    def put(self, experiment_id: str, *traces: StoredTrace) -> None:
        self.rows |= {trace.trace_id: (experiment_id, trace) for trace in traces}

    def search(
        self,
        experiment_id: str,
        condition: str,
        limit: int,
        token: str | None = None,
        *,
        newest_first: bool = False,
    ) -> tuple[list[StoredTrace], str | None]:
        self._called("search")
        found = self._found(experiment_id, condition)
        found.sort(key=lambda one: (-one.time_ms if newest_first else one.time_ms, one.trace_id))
        start = int(token or 0)
        page = found[start : start + limit]
        return page, str(start + limit) if len(page) == limit else None

    def count(self, experiment_id: str, condition: str) -> int | None:
        self._called("count")
        return len(self._found(experiment_id, condition)) if self._counts else None

    def delete(self, experiment_id: str, trace_ids: Sequence[str]) -> int:
        self._called("delete")
        if self.guarded & set(trace_ids):
            raise PoisonError("guarded")
        self.batches.append(len(trace_ids))
        gone = [
            trace_id
            for trace_id in trace_ids
            if trace_id not in self.stuck
            and self.rows.get(trace_id, ("", None))[0] == experiment_id
        ]
        for trace_id in gone:
            del self.rows[trace_id]
        self.after("delete")
        return len(gone)

    def there(self, trace_ids: Sequence[str]) -> set[str]:
        self._called("there")
        return {trace_id for trace_id in trace_ids if trace_id in self.rows}

    def delete_files(
        self, experiment: Experiment, traces: Sequence[StoredTrace]
    ) -> Mapping[str, PoisonError]:
        self._called("delete_files")
        kept = {one.trace_id: PoisonError("no place") for one in traces if "lost" in one.tags}
        self.files -= {one.trace_id for one in traces} - kept.keys()
        return kept

    def _called(self, name: str) -> None:
        self.calls.append(name)
        self.before(name)

    def _found(self, experiment_id: str, condition: str) -> list[StoredTrace]:
        clauses = [CLAUSE.fullmatch(part) for part in condition.split(" AND ")]
        assert all(clauses), condition
        rows = [trace for place, trace in self.rows.values() if place == experiment_id]
        return [row for row in rows if all(fits(row, clause) for clause in clauses if clause)]


def fits(trace: StoredTrace, clause: "re.Match[str]") -> bool:
    if clause["time"]:
        limit = int(clause["time"])
        return trace.time_ms < limit if clause["compare"] == "<" else trace.time_ms >= limit
    if clause["state"]:
        return trace.state == clause["state"]
    if clause["states"]:
        return f"'{trace.state}'" in clause["states"]
    return trace.tags.get(clause["key"]) == clause["value"]


def stored(number: int, time_ms: int | None = None, **fields) -> StoredTrace:
    """A trace of that number, by default of that millisecond."""
    at_ms = number if time_ms is None else time_ms
    return StoredTrace(f"tr-{number:032x}", at_ms, fields.pop("state", "OK"), **fields)


def numbers(trace_ids: Iterable[str]) -> set[int]:
    return {int(trace_id.removeprefix("tr-"), 16) for trace_id in trace_ids}
