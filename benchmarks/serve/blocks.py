"""One block: load on one app, with Kafka in one state, and what became of the traces."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from benchmarks.processes import StubServer
from benchmarks.sdks import TIERS
from benchmarks.serve.account import Account
from benchmarks.serve.cases import Case
from benchmarks.serve.load import Answers
from benchmarks.serve.processes import App, Load
from benchmarks.serve.report import BlockFigures, make_block
from tests.services.kafka import KafkaServer

__all__ = ["Taken", "limping", "settle", "take"]

SPANS = 5
WARM_UP_S = 0.5
_STOPPED_S, _RUNNING_S = 0.9, 0.1


class Taken(msgspec.Struct):
    """What a block has shown."""

    figures: BlockFigures
    latency_us: list[int]
    """So that those of all blocks can be put together."""
    made: int
    """Traces, warm-up included."""
    before: Account
    """When the block began; what arrived since is known once the app has settled."""


@contextmanager
def limping(kafka: KafkaServer) -> Iterator[None]:
    """Kafka is stopped for most of every second."""
    ended = threading.Event()

    def limp() -> None:
        while not ended.is_set():
            kafka.pause()
            ended.wait(_STOPPED_S)
            kafka.resume()
            ended.wait(_RUNNING_S)

    limping = threading.Thread(target=limp)
    limping.start()
    try:
        yield
    finally:
        ended.set()
        limping.join()


def take(app: App, load: Load, case: Case, number: int, seconds: float, *, flush: bool) -> Taken:
    """Warm up, load, and where `flush` says so wait until all traces have left."""
    began = app.account()
    _load(app, load, msgspec.structs.replace(case, rate=case.rate or 0.0), WARM_UP_S, warm_up=True)
    app.rest()
    if flush:
        app.flush()
    before = app.account()
    answers = _load(app, load, case, seconds, warm_up=False)
    after = app.account()
    app.rest()
    if flush:
        app.flush()
        after = app.account()
    answered = max(1, after.answered - before.answered)
    figures = make_block(
        number,
        answers.latency_us,
        answers.late_us,
        rate=answers.requests / answers.elapsed_s,
        cpu_ms=(after.cpu_ns - before.cpu_ns) / answered / 1e6,
        rss_mb=after.rss_mb,
        requests=answers.requests,
        unanswered=answers.unanswered,
        failed=answers.failed,
    )
    made = app.account().answered - began.answered
    return Taken(figures, answers.latency_us, made, began)


def _load(app: App, load: Load, case: Case, seconds: float, *, warm_up: bool) -> Answers:
    if case.rate:
        return load.open(app, seconds, case.rate, case.connections)
    return load.closed(app, seconds, case.connections, own=warm_up)


def settle(app: App, stub: StubServer, taken: Taken) -> int:
    """Once the app could send everything: how many traces of the block did not arrive."""
    back_end = TIERS[app.tier].back_end
    if back_end == "none":
        return 0
    app.flush()
    if back_end == "stub":
        return taken.made - _arrived_at(stub, app.tier, taken.made)
    sent = int(app.account().counters["traces_sent"])
    return taken.made - (sent - int(taken.before.counters["traces_sent"]))


def _arrived_at(stub: StubServer, tier: str, made: int) -> int:
    """What the stub has of them; a second look where some are on their way."""
    arrived = stub.take(tier, SPANS)
    if arrived < made:
        time.sleep(1.0)
        arrived += stub.take(tier, SPANS)
    return arrived
