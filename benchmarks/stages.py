"""How many traces a second the worker's stages pass on, with a store that takes everything at once.

    python -m benchmarks.stages               from memory and from Kafka, in about 4 minutes
    python -m benchmarks.stages --quick       in one; figures not to be quoted

Method. Traces of five spans, each in one record as an app sends it. The ways:

- memory: records that lie in the process go through decode, assemble, sample, the write queue and the
  watermarks, without an event loop: what the stages cost.
- kafka: the worker's own runtime reads them from a real Apache Kafka on this machine, commits included;
  counted between the first tenth and the last.

Every process has a core of its own; in a round one process and two take turns. Results go to
benchmarks/results/stages.json, the page is docs/benchmarks-stages.md.
"""

import argparse
import asyncio
import contextlib
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import msgspec
from aiokafka import AIOKafkaProducer

from benchmarks.machine import conditions
from benchmarks.stage_records import PARTITIONS, make_values
from benchmarks.stages_document import RESULTS
from benchmarks.stages_report import Result, Row
from spanferry_schemas import write_meta
from tests.services.kafka import KafkaServer

__all__ = ["main"]

SPANS = 5
_ROOT = Path(__file__).parent.parent
_MEMORY = {"1 KB": 20_000, "10 KB": 10_000, "100 KB": 1_000}
_KAFKA = {"1 KB": 60_000, "10 KB": 30_000, "100 KB": 3_000}
_TIMEOUT_S = 300.0


def _child(module: str, *arguments: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)],
        cwd=_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@contextlib.contextmanager
def _children(children: list["subprocess.Popen[str]"]) -> Iterator[None]:
    try:
        yield
    finally:
        for child in children:
            child.kill()
            child.communicate()


def _read(child: "subprocess.Popen[str]") -> str:
    assert child.stdout is not None
    line = child.stdout.readline()
    assert line, "a process has ended"
    return line


def _go(child: "subprocess.Popen[str]") -> None:
    assert child.stdin is not None
    child.stdin.write("go\n")
    child.stdin.flush()


class Measured:
    """Rates of the rounds, and CPU seconds a trace, by number of processes."""

    def __init__(self) -> None:
        self.per_second: dict[int, list[float]] = {1: [], 2: []}
        self.cpu_s: dict[int, list[float]] = {1: [], 2: []}

    def rows(self, source: str, payload: str, traces: int) -> Iterator[Row]:
        """One and two processes."""
        sizes = [len(value) for _, value, _ in make_values(payload, 100)]
        for processes, rates in self.per_second.items():
            ratios = [a / b for a, b in zip(rates, self.per_second[1], strict=True)]
            yield Row(
                source=source,
                payload=payload,
                processes=processes,
                traces=traces,
                spans=SPANS,
                value_bytes=round(statistics.mean(sizes), 1),
                per_second=[round(rate, 1) for rate in rates],
                of_one=[round(ratio, 3) for ratio in ratios],
                cpu_us=round(statistics.median(self.cpu_s[processes]) * 1e6, 2),
            )


def _from_memory(payload: str, traces: int, rounds: int) -> Measured:
    children = [_child("stages_memory", payload, traces, core) for core in (0, 1)]
    measured = Measured()
    with _children(children):
        for child in children:
            assert _read(child) == "ready\n"
        for number in range(-1, rounds):  # the first is for the caches
            for processes in ((1, 2), (2, 1))[number % 2]:
                some = children[:processes]
                for child in some:
                    _go(child)
                took = [tuple(map(float, _read(child).split())) for child in some]
                if number >= 0:
                    measured.per_second[processes].append(sum(traces / wall for wall, _ in took))
                    measured.cpu_s[processes].append(
                        statistics.mean(cpu / traces for _, cpu in took)
                    )
    return measured


async def _fill(servers: str, topic: str, payload: str, traces: int) -> None:
    """As apps do: whole traces, by key, compressed with zstd."""
    producer = AIOKafkaProducer(
        bootstrap_servers=servers,
        compression_type="zstd",
        linger_ms=20,
        max_batch_size=500_000,
        max_request_size=1_000_000,
    )
    async with producer:
        waiting = [
            await producer.send(topic, value, key=key, headers=[write_meta(meta)])
            for key, value, meta in make_values(payload, traces)
        ]
        await asyncio.gather(*waiting)


def _from_kafka(kafka: KafkaServer, payload: str, traces: int, rounds: int) -> Measured:
    topic = f"stages-{uuid.uuid4().hex[:8]}"
    for name in (topic, f"{topic}.dlq"):
        kafka.create_topic(name, PARTITIONS)
    asyncio.run(_fill(kafka.bootstrap_servers, topic, payload, traces))
    measured = Measured()
    for number in range(rounds):
        for processes in ((1, 2), (2, 1))[number % 2]:
            rate, cpu_s = _run_workers(kafka.bootstrap_servers, topic, processes, traces)
            measured.per_second[processes].append(rate)
            measured.cpu_s[processes].append(cpu_s)
    return measured


def _run_workers(servers: str, topic: str, processes: int, traces: int) -> tuple[float, float]:
    """Traces a second and CPU seconds a trace, between the first tenth and the last."""
    group = uuid.uuid4().hex
    children = [_child("stages_worker", servers, topic, group, core) for core in range(processes)]
    with _children(children):
        until = time.monotonic() + _TIMEOUT_S
        shares = [0] * processes
        while sum(shares) != PARTITIONS or 0 in shares:
            assert time.monotonic() < until, "the group does not come together"
            shares = [int(_read(child).split()[1]) for child in children]
        for child in children:
            _go(child)
        seen: list[tuple[float, float, float]] = []
        while not seen or seen[-1][1] < traces:
            assert time.monotonic() < until, f"only {seen[-1:]} of {traces}"
            said = [_read(child).split() for child in children]
            if any(line[0] == "partitions" for line in said):
                continue
            at = statistics.mean(float(line[0]) for line in said)
            seen.append((at, *(sum(float(line[i]) for line in said) for i in (1, 2))))
    first = next(one for one in seen if one[1] >= traces / 10)
    last = next((one for one in seen if one[1] >= traces * 9 / 10 and one[0] > first[0]), seen[-1])
    count = max(1.0, last[1] - first[1])
    return count / max(1e-9, last[0] - first[0]), (last[2] - first[2]) / count


def _line(row: Row) -> str:
    rate = statistics.median(row.per_second)
    return (
        f"{row.source:7} {row.payload:>6} {row.processes} process(es) {rate:8.0f} traces/s "
        f"{rate * row.spans:9.0f} spans/s {rate * row.value_bytes / 1e6:7.1f} MB/s "
        f"{row.cpu_us:7.1f} us CPU a trace, {statistics.median(row.of_one):.2f} of one"
    )


def main(arguments: list[str] | None = None) -> int:
    """Run, print, write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few traces, few rounds")
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args(arguments)
    scale, rounds = (10, 2) if given.quick else (1, 5)
    result = Result(conditions("aiokafka", "uvloop"), given.quick)
    for payload, traces in _MEMORY.items():
        count = traces // scale
        result.rows += _from_memory(payload, count, rounds).rows("memory", payload, count)
    with KafkaServer(for_load=True) as kafka:
        for payload, traces in _KAFKA.items():
            count = traces // scale
            result.rows += _from_kafka(kafka, payload, count, rounds).rows("kafka", payload, count)
    print(*map(_line, result.rows), sep="\n")
    out = given.out or RESULTS.with_name("last.tmp.json" if given.quick else RESULTS.name)
    out.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
