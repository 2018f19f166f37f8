"""From pages to rates: what each process did since it was looked at last, and all of them together."""

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Final

from msgspec import Struct, field

from spanferry_worker.top.page import Counts

__all__ = ["CHARTED", "Account", "Process", "Total"]

CHARTED: Final = (
    "records",
    "traces",
    "stored",
    "bytes",
    "lag_records",
    "open_traces",
    "held_bytes",
)
"""What is remembered of the recent minutes, in total."""
_REMEMBERED: Final = 600
"""Looks; ten minutes at one a second."""
_RECENT_S: Final = 60.0
"""Errors this young are shown as going on, and outcomes of sampling are counted over as long."""


class Process(Struct):
    """One worker process as it was seen last."""

    name: str
    counts: Counts | None = None
    """None where it does not answer."""
    problem: str = ""
    """Why it is not ready, in its own words or in ours."""
    rates: dict[str, float] = field(default_factory=dict)
    """Of its counters, a second. Empty until it was seen twice."""
    restarts: int = 0
    """How often its counters began anew while we looked."""

    @property
    def state(self) -> str:
        """`ready`, `paused` (it waits for the store), `waiting` (it is not ready) or `no answer`."""
        if self.counts is None:
            return "no answer"
        if not self.counts.gauges.get("ready"):
            return "waiting"
        return "paused" if self.counts.gauges.get("paused") else "ready"


class Total(Struct):
    """All processes that answer, added up; of times the longest."""

    gauges: dict[str, float] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    counters: dict[str, float] = field(default_factory=dict)
    """Since each process began."""


class _Seen(Struct):
    """The counters of a process when it last answered."""

    at_s: float
    counters: dict[str, float]


class Account:
    """Fed with every look at every process; knows rates and the recent past."""

    def __init__(self) -> None:
        self._processes: dict[str, Process] = {}
        self._seen: dict[str, _Seen] = {}
        self._gained: deque[tuple[float, dict[str, float]]] = deque()
        self.history: dict[str, deque[float]] = {
            name: deque(maxlen=_REMEMBERED) for name in CHARTED
        }

    @property
    def processes(self) -> list[Process]:
        """Every process ever seen, in the order of their names."""
        return [self._processes[name] for name in sorted(self._processes, key=_numbers_last)]

    def saw(self, name: str, counts: Counts | None, now_s: float, problem: str = "") -> None:
        """One look. `counts` is None where it does not answer; `now_s` never goes back."""
        process = self._processes.setdefault(name, Process(name))
        process.counts, process.problem = counts, problem
        process.rates = {}
        if counts is None:
            return
        before = self._seen.get(name)
        self._seen[name] = _Seen(now_s, dict(counts.counters))
        if before is None or now_s <= before.at_s:
            return
        # A counter below what it was began anew with its process, and so did all the others.
        anew = any(counts.counters.get(key, 0) < value for key, value in before.counters.items())
        process.restarts += anew
        old: Mapping[str, float] = {} if anew else before.counters
        gained = {key: value - old.get(key, 0) for key, value in counts.counters.items()}
        process.rates = {key: value / (now_s - before.at_s) for key, value in gained.items()}
        self._gained.append((now_s, gained))

    def forget(self, name: str) -> None:
        """It turned out to be several processes, which have names of their own."""
        self._processes.pop(name, None)

    def finish(self, now_s: float) -> None:
        """All processes were looked at: remember the sum, forget what is too old."""
        total = self.total()
        for name, past in self.history.items():
            past.append(total.rates.get(name, total.gauges.get(name, 0.0)))
        while self._gained and self._gained[0][0] < now_s - _RECENT_S:
            self._gained.popleft()

    def recent(self) -> dict[str, float]:
        """What the counters of all processes gained in the last minute."""
        return _summed(gained for _, gained in self._gained)

    def total(self) -> Total:
        """All processes that answer."""
        alive = [process for process in self._processes.values() if process.counts is not None]
        counts = [process.counts for process in alive if process.counts is not None]
        gauges = _summed(one.gauges for one in counts)
        for name in ("lag_s", "oldest_s"):
            gauges[name] = max((one.gauges.get(name, 0.0) for one in counts), default=0.0)
        return Total(
            gauges=gauges,
            rates=_summed(process.rates for process in alive),
            counters=_summed(one.counters for one in counts),
        )


def _summed(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for part in parts:
        for key, value in part.items():
            total[key] = total.get(key, 0.0) + value
    return total


def _numbers_last(name: str) -> tuple[str, int, str]:
    """Sorts `worker #10` behind `worker #9`."""
    host, _, number = name.partition("#")
    return host, int(number) if number.isdecimal() else -1, name
