"""write: which traces go to the store together, when to try again, and how to find the culprit."""

from collections import deque
from collections.abc import Callable, Container, Sequence
from typing import Final, NamedTuple

from msgspec import Struct

from spanferry_worker.stages.trace import AssembledTrace, FinishReason

__all__ = [
    "Bisection",
    "Queued",
    "RetryPolicy",
    "WaitingRoom",
    "WritePolicy",
    "WriteQueue",
]


class WritePolicy(Struct, frozen=True, kw_only=True):
    """When a batch is full, or old enough to go as it is."""

    batch_traces_max: int = 200
    batch_bytes_max: int = 8 * 1024 * 1024
    """What its traces take in memory; a single one may be larger and then goes alone."""
    linger_s: float = 0.1
    """How long a trace waits for others to share its batch."""
    absent_s: float = 300.0
    """Feedback whose trace is not in MLflow yet is tried again for this long; then it is dead."""
    absent_retry_s: float = 2.0
    """... and this often."""
    absent_max: int = 10_000
    """More of it than this does not wait."""
    absent_bytes_max: int = 16 * 1024 * 1024
    """... nor what would make it take more memory than this: intake must not stand for its sake."""

    def __post_init__(self) -> None:
        if (
            self.absent_retry_s <= 0
            or min(self.absent_s, self.absent_max, self.absent_bytes_max) < 0
        ):
            raise ValueError(
                "absent_retry_s must be above 0, absent_s, absent_max and absent_bytes_max at least 0"
            )
        if self.batch_traces_max < 1 or self.batch_bytes_max < 1 or self.linger_s < 0:
            raise ValueError(
                "batch_traces_max and batch_bytes_max must be at least 1, linger_s at least 0"
            )


class Queued(NamedTuple):
    """A trace to be written, and the assignment (see runtime Lane) whose offsets it holds."""

    trace: AssembledTrace
    lane_id: int
    recorded_ms: int | None = None
    """When the record that made it complete was produced."""
    absent_since_ms: int | None = None
    """When the store first had no trace for it; None for what has not been tried."""


Batch = list[Queued]
_UNFINISHED: Final = frozenset({FinishReason.IDLE, FinishReason.AGE})


class _Waiting(NamedTuple):
    item: Queued
    since_ms: int


class WriteQueue:
    """What waits for the store, in order.

    No two traces with one id are in a batch or in batches under way at once, so a late addition is
    never written beside or before the trace it belongs to.
    """

    def __init__(self, policy: WritePolicy) -> None:
        self._policy = policy
        self._linger_ms = int(policy.linger_s * 1000)
        self._ready: deque[_Waiting] = deque()
        self._ready_bytes = 0
        self._busy: dict[object, deque[_Waiting]] = {}
        """Ids that are ready or under way, each with what must come after."""
        self.held_bytes = 0
        """What all that is ready, deferred or under way takes in memory.

        A batch under way counts twice: the rows made of it are about as large as it is.
        """
        self.held_traces = 0
        self.held_unfinished = 0
        """Of these, what was given out as it stands because it was due."""
        self.share = 1.0
        """Of `batch_traces_max` and `batch_bytes_max`: a batch takes no more."""

    def add(self, item: Queued, now_ms: int) -> None:
        """A decided trace. `now_ms` is the process's own clock here and below."""
        self.held_bytes += item.trace.memory_bytes
        self.held_traces += 1
        self.held_unfinished += item.trace.reason in _UNFINISHED
        key = _key(item)
        waiting = _Waiting(item, now_ms)
        behind = self._busy.get(key)
        if behind is None:
            self._busy[key] = deque()
            self._push(waiting)
        else:
            behind.append(waiting)

    def spare(self, batches: int) -> int:
        """How many unfinished traces are missing to so many batches of them."""
        return max(0, self._traces_max * batches - self.held_unfinished)

    @property
    def _traces_max(self) -> int:
        return max(1, round(self._policy.batch_traces_max * self.share))

    def take(self, now_ms: int, *, flush: bool = False) -> Batch | None:
        """The next batch if one is full, or has waited long enough, or `flush` asks for the rest.

        The caller gives it back with `settle`.
        """
        if not self._ready or not (flush or self._due(now_ms)):
            return None
        batch: Batch = []
        size = 0
        traces_max = self._traces_max
        while self._ready and len(batch) < traces_max:
            item = self._ready[0].item
            full = size + item.trace.memory_bytes > self._policy.batch_bytes_max * self.share
            if batch and full:
                break
            # What is likely to be refused again must not have others written twice.
            if batch and (item.absent_since_ms is None) != (batch[0].absent_since_ms is None):
                break
            self._ready.popleft()
            self._ready_bytes -= item.trace.memory_bytes
            size += item.trace.memory_bytes
            batch.append(item)
        self.held_bytes += size
        return batch

    def _due(self, now_ms: int) -> bool:
        return (
            len(self._ready) >= self._policy.batch_traces_max
            or self._ready_bytes >= self._policy.batch_bytes_max
            or now_ms - self._ready[0].since_ms >= self._linger_ms
        )

    def fill(self, batch: Sequence[Queued]) -> float:
        """How much it has of the largest batch there may be; 1 is that."""
        size = sum(item.trace.memory_bytes for item in batch)
        policy = self._policy
        return max(len(batch) / policy.batch_traces_max, size / policy.batch_bytes_max)

    def due_in_ms(self, now_ms: int) -> int | None:
        """How long until `take` gives a batch if nothing is added; None where nothing is ready."""
        if not self._ready:
            return None
        if self._due(now_ms):
            return 0
        return self._ready[0].since_ms + self._linger_ms - now_ms

    def settle(self, batch: Sequence[Queued]) -> None:
        """A batch from `take` is stored, dead-lettered or forgotten."""
        for item in batch:
            self.held_bytes -= item.trace.memory_bytes
            self._account(item)
            self._free(_key(item))

    def drop(self, lane_ids: frozenset[int]) -> None:
        """Forget what waits for these assignments. What is under way stays until it is settled."""
        kept: deque[_Waiting] = deque()
        freed: list[object] = []
        for waiting in self._ready:
            if waiting.item.lane_id in lane_ids:
                self._account(waiting.item)
                self._ready_bytes -= waiting.item.trace.memory_bytes
                freed.append(_key(waiting.item))
            else:
                kept.append(waiting)
        self._ready = kept
        for key, behind in self._busy.items():
            for waiting in behind:
                if waiting.item.lane_id in lane_ids:
                    self._account(waiting.item)
            self._busy[key] = deque(w for w in behind if w.item.lane_id not in lane_ids)
        for key in freed:
            self._free(key)

    def _push(self, waiting: _Waiting) -> None:
        self._ready.append(waiting)
        self._ready_bytes += waiting.item.trace.memory_bytes

    def _free(self, key: object) -> None:
        """The first of an id is gone: the next one of it may go, or the id is free."""
        behind = self._busy[key]
        if behind:
            self._push(behind.popleft())
        else:
            del self._busy[key]

    def _account(self, item: Queued) -> None:
        self.held_bytes -= item.trace.memory_bytes
        self.held_traces -= 1
        self.held_unfinished -= item.trace.reason in _UNFINISHED


def _key(item: Queued) -> object:
    trace = item.trace
    if trace.trace_id is not None:
        return trace.trace_id
    return next((each.client_request_id for each in trace.assessments), None)


class WaitingRoom:
    """Feedback and tags whose trace is not in the store (yet), between one try and the next.

    The trace may lie in a partition that is read later, or with a worker that is behind.
    """

    def __init__(self, policy: WritePolicy) -> None:
        self._absent_ms = int(policy.absent_s * 1000)
        self._retry_ms = int(policy.absent_retry_s * 1000)
        self._places = policy.absent_max
        self._bytes_max = policy.absent_bytes_max
        self._waiting: deque[_Waiting] = deque()
        self.held_bytes = 0

    def admit(self, item: Queued, now_ms: int) -> bool:
        """Let it wait; False where it has waited for long enough, or too many do."""
        since_ms = now_ms if item.absent_since_ms is None else item.absent_since_ms
        held_bytes = self.held_bytes + item.trace.memory_bytes
        full = len(self._waiting) >= self._places or held_bytes > self._bytes_max
        if full or now_ms - since_ms >= self._absent_ms:
            return False
        self._waiting.append(_Waiting(item._replace(absent_since_ms=since_ms), now_ms))
        self.held_bytes = held_bytes
        return True

    def due(self, now_ms: int) -> Batch:
        """Those whose next try has come, in order. They are not here any more."""
        items: Batch = []
        while self._waiting and now_ms - self._waiting[0].since_ms >= self._retry_ms:
            items.append(self._waiting.popleft().item)
        self.held_bytes -= sum(item.trace.memory_bytes for item in items)
        return items

    def drop(self, lane_ids: frozenset[int]) -> None:
        """Forget what waits for these assignments."""
        self._waiting = deque(w for w in self._waiting if w.item.lane_id not in lane_ids)
        self.held_bytes = sum(waiting.item.trace.memory_bytes for waiting in self._waiting)


class Bisection:
    """Finds what the store refuses in a batch: ask for `part`, write it, say how it went.

    A refused part is halved; a refused part of one is a culprit. The order of traces is kept. A store that
    names whom it refuses, and has stored the others, spares that.
    """

    def __init__(self, batch: Sequence[Queued]) -> None:
        self._parts: list[Sequence[Queued]] = [batch] if batch else []
        self.culprits: list[Queued] = []

    @property
    def part(self) -> Sequence[Queued] | None:
        """What to write next; None at the end."""
        return self._parts[-1] if self._parts else None

    def accepted(self) -> None:
        """The part is stored."""
        self._parts.pop()

    def refused(self) -> Queued | None:
        """The part is refused; returns the culprit if it was the only one."""
        part = self._parts.pop()
        if len(part) == 1:
            self.culprits.append(part[0])
            return part[0]
        middle = len(part) // 2
        self._parts += [part[middle:], part[:middle]]
        return None

    def partly(self, refused: Container[int]) -> list[Queued]:
        """All of the part is stored but those at these places, who are culprits; returns the stored ones."""
        part = self._parts.pop()
        self.culprits += [item for place, item in enumerate(part) if place in refused]
        return [item for place, item in enumerate(part) if place not in refused]

    def narrow(self, keep: Callable[[Queued], bool]) -> None:
        """Leave out of the part what is not wanted any more."""
        part = [item for item in self._parts.pop() if keep(item)]
        if part:
            self._parts.append(part)


class RetryPolicy(Struct, frozen=True, kw_only=True):
    """How long to wait before trying again: doubling, with up to half of it left to chance."""

    retry_initial_s: float = 0.2
    retry_max_s: float = 30.0

    def __post_init__(self) -> None:
        if not 0 < self.retry_initial_s <= self.retry_max_s:
            raise ValueError("retry_initial_s must be above 0 and at most retry_max_s")

    def delay_s(self, attempt: int, chance: float) -> float:
        """The wait after the `attempt`-th failure (from 1). `chance`: uniform in [0, 1)."""
        full = min(self.retry_max_s, self.retry_initial_s * 2.0 ** min(attempt - 1, 32))
        return full * (0.5 + 0.5 * chance)
