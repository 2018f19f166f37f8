"""Pages as workers serve them, made by the worker's own metrics."""

from spanferry_worker.runtime.exposition import merge_expositions
from spanferry_worker.services.metrics import Metrics, SupervisorMetrics
from spanferry_worker.top.account import Account
from spanferry_worker.top.page import Counts, read_page


def metrics(records: int = 0, *, lag: int = 0, dead: int = 0, ready: bool = True) -> Metrics:
    """A worker that has read so many records of 1,000 bytes, and stored as many traces."""
    one = Metrics()
    one.ready.set(ready)
    one.consume_held_limit_bytes.set(268_000_000)
    one.consume_held_bytes.set(12_000_000)
    one.consume_records.inc(records)
    one.consume_bytes.inc(records * 1000)
    one.assemble_finished.labels("complete").inc(records)
    one.sample_decisions.labels("full", "default", "default").inc(records * 3 // 4)
    one.sample_decisions.labels("skeleton", "default", "default").inc(records // 4)
    one.write_traces.inc(records)
    for partition in ("0", "1"):
        one.consume_lag_records.labels(partition).set(lag)
        one.consume_lag_bytes.labels(partition).set(lag * 1000)
        one.consume_lag_seconds.labels(partition).set(lag / 10 if partition == "0" else 0)
    if dead:
        one.dead_letters.labels("refused").inc(dead)
    return one


def counts(records: int = 0, **more: int) -> Counts:
    return read_page(metrics(records, **more).exposition().decode())[""]


def supervised(*workers: Metrics) -> str:
    pages = [(str(number), one.exposition().decode()) for number, one in enumerate(workers)]
    return SupervisorMetrics().exposition().decode() + merge_expositions(pages)


def account(*looks: dict[str, Counts | None]) -> Account:
    """Fed with looks a second apart."""
    made = Account()
    for at_s, look in enumerate(looks):
        for name, one in look.items():
            made.saw(name, one, float(at_s), "" if one else "nothing listens there")
        made.finish(float(at_s))
    return made
