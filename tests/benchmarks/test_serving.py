"""The serving benchmark: what it loads, counts and concludes. Nothing here is timed."""

import asyncio
import contextlib
import json
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from benchmarks.report import Figure
from benchmarks.serve.cases import CASES, CLOSED, DEAD, OPEN, SLOW, STATES, Case
from benchmarks.serve.document import PAGE, document
from benchmarks.serve.load import Answers, Order, take
from benchmarks.serve.plots import pictures
from benchmarks.serve.processes import Load
from benchmarks.serve.report import BlockFigures, Memory, Report, make_block, make_row, ratio
from benchmarks.serve.tables import break_even, case_table, printed
from benchmarks.serve.verdicts import verdicts
from benchmarks.serve.work import WORLDS, ChatReply, ChatRequest, answering, request_body
from benchmarks.serving import Options, run
from tests.benchmarks.made import CONDITIONS

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "benchmarks" / "results" / "serving.json"
CPU_MS = {
    "untraced": 2.0,
    "untraced-mlflow": 2.0,
    "spanferry": 2.1,
    "bridge": 2.2,
    "bridge-plain": 5.0,
    "otel": 2.8,
    "mlflow": 15.0,
}


def block(number: int, tier: str, p99: float) -> BlockFigures:
    cpu = CPU_MS[tier]
    return make_block(
        number,
        [20_000] * 98 + [round(p99 * 1000)] * 2,
        [100] * 100,
        rate=1000 / cpu,
        cpu_ms=cpu,
        rss_mb=60.0 + number,
        requests=100,
        unanswered=0,
        failed=0,
    )


def report(run: str = "full", **p99: float) -> Report:
    """Every case; p99 is 30 ms, or what is given for a state of Kafka."""
    rows = [
        make_row(
            case.name,
            tier,
            [block(number, tier, p99.get(case.kafka, 30.0)) for number in range(3)],
            [20_000] * 999 + [99_000],
            made=330,
            lost=0,
        )
        for case in CASES
        for tier in case.tiers
    ]
    memory = Memory(
        tier="spanferry", buffer_bytes=64_000_000, buffered_bytes=63_990_000, dropped=7,
        requests=7_000, rss_mb=160.0, untraced_mb=58.0,
    )  # fmt: skip
    made = Report(
        conditions=CONDITIONS, run=run, app_core="0", other_core="1", closed_by="wrk", model_s=0.02,
        flask_threads=32, load_after=0.3, duration_s=1400.0, idle_cpu_share_max=0.01, missing={},
        memory=[memory], rows=rows,
    )  # fmt: skip
    made.verdicts = verdicts(made)
    return made


class Spans:
    """A start_span that keeps what it is given."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.types: list[str] = []

    @contextlib.contextmanager
    def start(self, name: str, span_type: str) -> Iterator["Spans"]:
        self.types.append(span_type)
        yield self

    def set_inputs(self, value: Any) -> None:
        self.values.append(value)

    set_outputs = set_inputs


@pytest.mark.parametrize("world", [0, 17, WORLDS - 1])
def test_a_request_makes_five_spans_of_ten_kilobytes_and_waits_once(world: int) -> None:
    spans = Spans()
    request = ChatRequest.model_validate_json(request_body(world))
    steps = answering(spans.start)(request)

    next(steps)
    with pytest.raises(StopIteration) as done:
        next(steps)

    assert isinstance(done.value.value, ChatReply)
    assert spans.types == ["AGENT", "RETRIEVER", "TOOL", "CHAIN", "CHAT_MODEL"]
    assert len(spans.values) == 10
    size = sum(
        len(json.dumps(v, ensure_ascii=False, separators=(",", ":")).encode()) for v in spans.values
    )
    assert size == pytest.approx(10_000, rel=0.05)


class _Server:
    """Answers so many requests at once, and then, or where told so, never again."""

    def __init__(self, answers: int) -> None:
        self._left = answers
        self.bodies: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until the client ends, or the test, which may be over before the client's end is heard."""
        ends = (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError)
        with contextlib.suppress(*ends):
            await self._answer(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            self.bodies.append(await reader.readexactly(length))
            if self._left <= 0:
                continue
            self._left -= 1
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-le")
            await writer.drain()
            writer.write(b"ngth: 2\r\n\r\nok")


@contextlib.contextmanager
def serving(answers: int) -> Iterator[tuple[int, _Server]]:
    server, ready, loop = _Server(answers), threading.Event(), asyncio.new_event_loop()
    listening = socket.create_server(("127.0.0.1", 0))

    async def main() -> None:
        async with await asyncio.start_server(server.serve, sock=listening):
            ready.set()
            await stop.wait()

    stop = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(main(),))
    thread.start()
    ready.wait()
    try:
        yield listening.getsockname()[1], server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        for task in asyncio.all_tasks(loop):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                loop.run_until_complete(task)
        loop.close()


@pytest.fixture
def bodies(tmp_path: Path) -> str:
    path = tmp_path / "bodies.json"
    path.write_text('["{}", "{\\"a\\": 1}"]')
    return str(path)


def test_open_load_sends_all_that_is_due(bodies: str) -> None:
    with serving(1_000) as (port, server):
        answers = take(Order(port=port, bodies=bodies, seconds=0.2, rate=100, connections=4))

    assert (answers.failed, answers.unanswered) == (0, 0)
    assert len(answers.latency_us) == len(server.bodies) == 20
    assert set(server.bodies) == {b"{}", b'{"a": 1}'}


def test_open_load_counts_what_is_never_answered_as_long_as_it_was_waited_for(
    bodies: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.serve.load._DRAIN_S", 0.1)
    with serving(5) as (port, _):
        answers = take(Order(port=port, bodies=bodies, seconds=0.2, rate=100, connections=3))

    assert len(answers.latency_us) == 20
    assert (answers.unanswered, answers.failed) == (15, 0)
    # those due first have waited for at least the drain, though no connection was free for most
    assert sum(latency >= 100_000 for latency in answers.latency_us) == 15


def test_closed_load_sends_the_next_when_it_is_answered(bodies: str) -> None:
    with serving(1_000_000) as (port, server):
        answers = take(Order(port=port, bodies=bodies, seconds=0.2, connections=3))

    assert answers.failed == 0
    assert answers.requests == len(answers.latency_us) > 3
    assert len(server.bodies) - answers.requests <= 3


def test_ratios_are_those_of_one_round() -> None:
    def row(rates: dict[int, float]) -> Any:
        blocks = [
            msgspec.structs.replace(block(n, "otel", 30), rate=rate) for n, rate in rates.items()
        ]
        return make_row("c", "otel", blocks, [], 1, 0)

    found = ratio(row({0: 90, 2: 40}), row({0: 100, 1: 999, 2: 50}), lambda one: one.rate)

    assert found is not None
    assert (found.low, found.high) == (0.8, 0.9)
    assert ratio(row({0: 1}), row({1: 1}), lambda one: one.rate) is None


def test_every_promise_gets_a_verdict() -> None:
    def holds(made: Report, part: str) -> list[bool | None]:
        return [one.holds for one in made.verdicts if part in one.promise]

    good, bad = report(), report(dead=34.0)

    assert len(good.verdicts) == 14
    assert holds(good, "95%") == [True] * 4  # 2.0 by 2.1 ms
    assert holds(good, "90%") == [True] * 4
    assert holds(good, "dead") == [True] * 4  # FastAPI and Flask
    assert holds(bad, "dead") == [False] * 4  # 34 by 30 ms
    assert holds(good, "full buffer") == [
        True,
        None,
    ]  # 102 of 104 MB; the bridge's was not measured
    bad.memory[0].rss_mb = 163.0
    bad.verdicts = verdicts(bad)
    assert holds(bad, "full buffer") == [False, None]
    bad.memory[0].dropped = 0  # it was never full
    bad.verdicts = verdicts(bad)
    assert holds(bad, "full buffer") == [None, None]
    next(row for row in bad.rows if row.tier == "spanferry").blocks[:] = [block(0, "otel", 30)]
    assert verdicts(bad)[0].measured == Figure(0.7142, 0.7142, 0.7142)  # 2.0 by 2.8 ms
    assert verdicts(bad)[0].holds is False


def test_what_was_not_measured_is_no_verdict() -> None:
    none = report()
    none.rows, none.memory = [], []

    assert {one.holds for one in verdicts(none)} == {None}
    assert "not measured" in printed(
        none.__class__(**{f: getattr(none, f) for f in none.__struct_fields__})
    )


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_wrk_tells_every_latency_so_that_rounds_have_a_p999_together(tmp_path: Path) -> None:
    with serving(1_000_000) as (port, server), Load(tmp_path, wrk=True) as load:
        app: Any = SimpleNamespace(port=port)
        rounds: list[Answers] = []
        while len(rounds) < 2 or (sum(one.requests for one in rounds) < 1_000 and len(rounds) < 9):
            rounds.append(load.closed(app, 1.0, connections=64))

    assert load.closed_by == "wrk"
    assert len(server.bodies) >= sum(one.requests for one in rounds)
    for answers in rounds:
        assert answers.failed == 0
        assert 0 < answers.requests <= len(answers.latency_us)
        assert answers.latency_us == sorted(answers.latency_us)
        assert 0 < answers.latency_us[-1] < 60_000_000
    pooled = [latency for answers in rounds for latency in answers.latency_us]
    row = make_row("c", "spanferry", [block(0, "spanferry", 30)], pooled, made=1, lost=0)
    assert row.p999 is not None
    above = sum(latency > row.p999 * 1_000 * 1.001 for latency in pooled)
    assert above <= len(pooled) / 1_000


def test_every_case_of_every_app_has_a_p999_once_there_are_a_thousand_requests() -> None:
    """Closed load too, and at 40 requests a second."""
    for case in CASES:
        assert not case.rate or case.rate * case.seconds * case.rounds > 1_050, case.name


def test_tables_have_every_tier_beside_untraced() -> None:
    made = report()
    lines = case_table(made, CLOSED).splitlines()

    assert len(lines) == 2 + len(CLOSED.tiers)
    assert lines[2].startswith(
        "| no tracing | 500 (500-500) | - | 20.0 | 30.0 (30.0-30.0) | 20.0 |"
    )
    assert "| 95.2% (95.2%-95.2%) |" in lines[3]
    assert lines[3].endswith("| 0.100 | 62.0 | 0 of 300 | 0 of 330 |")
    assert (
        "takes 0.100 ms of CPU a request, which is 5% of a request that takes 2.00 ms"
        in break_even(made)
    )


def test_pictures_have_a_panel_for_each_app_and_state() -> None:
    drawn = pictures(report())

    assert set(drawn) == {"throughput", "kafka", "kafka-flask"}
    assert drawn["throughput"].count("95.2%, 476/s") == 4
    for name, cases in zip(("kafka", "kafka-flask"), STATES, strict=True):
        assert all(f">Kafka {case.kafka}<" in drawn[name] for case in cases)
    assert "Flask" in drawn["kafka-flask"]
    assert "not to be quoted" not in drawn["kafka"]
    assert "not to be quoted" in pictures(report(run="quick"))["kafka"]


def test_the_page_has_every_part() -> None:
    page = document(report(), PUBLISHED)

    assert page.count("## ") == len(CASES) + 4
    for name in ("throughput", "kafka", "kafka-flask"):
        assert f"(../benchmarks/results/serving-{name}.svg)" in page
    assert "do not quote" not in page
    assert "do not quote" in document(report(run="quick"), PUBLISHED)


def test_the_published_page_and_pictures_are_current() -> None:
    published = msgspec.json.decode(PUBLISHED.read_bytes(), type=Report)

    remedy = "run: python -m benchmarks.serve.{} benchmarks/results/serving.json"
    assert PAGE.read_text() == document(published, PUBLISHED), remedy.format("document")
    for name, svg in pictures(published).items():
        path = PUBLISHED.with_name(f"serving-{name}.svg")
        assert path.read_text() == svg, remedy.format("plots")


def test_the_cases_can_be_listed() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.serving", "--quick", "--list", "--only", "fastapi"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.splitlines() == [c.name for c in CASES if c.quick and "fastapi" in c.name]
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.kafka
@pytest.mark.chaos
def test_a_tiny_run_meets_kafka_in_every_state_and_loses_nothing() -> None:
    """With a Kafka of its own, because it is stopped."""
    tiers = ("untraced", "spanferry", "mlflow")
    own = ("untraced", "spanferry")
    cases = [
        Case(server="fastapi", connections=4, tiers=tiers),
        Case(server="fastapi-httpx", connections=4, tiers=own),
        Case(server="flask", connections=4, tiers=own),
        Case(server="flask-httpx", connections=4, tiers=own),
        *(
            msgspec.structs.replace(case, rate=40.0, connections=16, tiers=own)
            for case in (OPEN, SLOW, DEAD)
        ),
    ]

    report = run(
        Options(
            cases=tuple(cases),
            rounds=1,
            seconds=0.6,
            memory=("spanferry",),
            buffer_bytes=2**20,
            wrk=False,
        )
    )

    assert msgspec.json.decode(msgspec.json.encode(report), type=Report) == report
    assert {(row.case, row.tier) for row in report.rows} == {
        (c.name, t) for c in cases for t in c.tiers
    }
    for row in report.rows:
        assert row.requests > 0, row
        assert (row.failed, row.lost) == (0, 0), row
        assert row.made >= row.requests
    (memory,) = report.memory
    assert memory.dropped > 0
    assert memory.buffered_bytes <= memory.buffer_bytes == 2**20
    assert report.verdicts[-2].measured is not None
