"""An account for programs: one JSON object."""

from typing import Final

import msgspec

from spanferry_worker.top.account import Account, Process

__all__ = ["as_json"]

_RATES: Final = ("records", "bytes", "traces", "stored")


def as_json(account: Account, time_ms: int) -> str:
    """One line: `total` and `processes`. Rates are null until a process was seen twice."""
    total = account.total()
    content = {
        "time_ms": time_ms,
        "total": _numbers(total.rates, total.gauges, total.counters),
        "processes": [_process(process) for process in account.processes],
    }
    return msgspec.json.encode(content).decode() + "\n"


def _process(process: Process) -> dict[str, object]:
    said: dict[str, object] = {
        "name": process.name,
        "state": process.state,
        "problem": process.problem or None,
        "restarts": process.restarts,
    }
    if process.counts is not None:
        said |= _numbers(process.rates, process.counts.gauges, process.counts.counters)
    return said


def _numbers(
    rates: dict[str, float], gauges: dict[str, float], counters: dict[str, float]
) -> dict[str, object]:
    return {
        "per_s": {name: rates.get(name) for name in _RATES},
        "now": {name: value for name, value in gauges.items() if name not in {"ready", "paused"}},
        "since_start": counters,
    }
