"""What a store holds, by number of trace: read from its tables, for 15,000 take MLflow's API long."""

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

__all__ = ["Stored", "stored", "wait_until"]

POLL_S = 0.3

BY_TRACE = """
select info.request_id, tag.value,
       (select count(*) from spans where spans.trace_id = info.request_id)
from trace_info as info
join experiments using (experiment_id)
left join trace_tags as tag on tag.request_id = info.request_id and tag.key = 'number'
where experiments.name = ?
"""


class Stored(NamedTuple):
    """One trace that is stored. `number` is None where its tags never came."""

    trace_id: str
    number: int | None
    spans: int


def stored(database: Path, experiment: str) -> list[Stored]:
    """Every trace of the experiment.

    Opened for writing (mode=rw): while another process writes, a reader may take its journal for one
    that a crash left behind, and SQLite then refuses a read-only connection.
    """
    with closing(sqlite3.connect(f"file:{database}?mode=rw", uri=True, timeout=120)) as connection:
        rows = connection.execute(BY_TRACE, (experiment,)).fetchall()
    return [
        Stored(trace_id, None if number is None else int(number), spans)
        for trace_id, number, spans in rows
    ]


def wait_until(holds: Callable[[], object], seconds: float, *, poll_s: float = POLL_S) -> bool:
    """Whether it became true in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(poll_s)
    return True
