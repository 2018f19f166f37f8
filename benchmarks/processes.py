"""The processes of a run: the stub back end and one subject per SDK, driven one at a time."""

import asyncio
import http.client
import json
import os
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition

from benchmarks.sdk import Addresses
from benchmarks.subject import Block, BlockResult, Start, Started
from spanferry_schemas import HEADER
from tests.services.mlflow import MlflowServer

__all__ = ["MlflowStore", "StubServer", "Subject", "count_records", "cpu_seconds"]

_ROOT = Path(__file__).parent.parent
_STOP_S = 60.0
_OF_SO_MANY_SPANS = """
select count(*) from (
    select 1 from spans join trace_info on trace_info.request_id = spans.trace_id
    where trace_info.status <> 'IN_PROGRESS' group by spans.trace_id having count(*) = ?
)
"""


class StubServer:
    """`benchmarks.stub` in a process of its own."""

    def __enter__(self) -> Self:
        self.process = _spawn("benchmarks.stub")
        assert self.process.stdout is not None
        self._port = int(self.process.stdout.readline())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _stop(self.process)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def take(self, sdk: str, spans_per_trace: int) -> int:
        """Traces of this SDK that arrived with all their spans since the last call."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        try:
            connection.request("GET", f"/taken/{sdk}/{spans_per_trace}")
            counts = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        return (
            min(counts["complete"], counts["finalised"]) if sdk == "mlflow" else counts["complete"]
        )


class MlflowStore:
    """What a real `mlflow server` has stored, read from its SQLite file."""

    def __init__(self, server: MlflowServer) -> None:
        self._path = server.backend_uri.removeprefix("sqlite:///")
        self._taken: Counter[int] = Counter()

    def take(self, spans_per_trace: int) -> int:
        """Traces of so many spans that were stored since the last call for that number."""
        with closing(sqlite3.connect(self._path, timeout=30)) as connection:
            (found,) = connection.execute(_OF_SO_MANY_SPANS, (spans_per_trace,)).fetchone()
        taken = found - self._taken[spans_per_trace]
        self._taken[spans_per_trace] = found
        return taken


class Subject:
    """One SDK's process."""

    def __init__(self, sdk: str) -> None:
        self.sdk = sdk
        self.process = _spawn("benchmarks.subject", sdk)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _stop(self.process)

    def start(self, addresses: Addresses) -> None:
        """Have the SDK set up; `styles` waits for it."""
        self._tell(Start(addresses))

    def styles(self) -> list[str]:
        """The styles that the SDK has, once it is set up."""
        return msgspec.json.decode(self._answer(), type=Started).styles

    def run(self, block: Block) -> BlockResult:
        """Run one block to its end."""
        self._tell(block)
        return msgspec.json.decode(self._answer(), type=BlockResult)

    def _tell(self, command: Start | Block) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(msgspec.json.encode(command) + b"\n")
        self.process.stdin.flush()

    def _answer(self) -> bytes:
        assert self.process.stdout is not None
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the {self.sdk} process ended with {self.process.wait()}")
        return answer


def count_records(bootstrap_servers: str, topic: str) -> int:
    """Numbered records in a topic: what holds traces, and not the producers' reports on themselves."""

    async def count() -> int:
        consumer = AIOKafkaConsumer(
            topic, bootstrap_servers=bootstrap_servers, auto_offset_reset="earliest"
        )
        await consumer.start()
        try:
            numbers = consumer.partitions_for_topic(topic) or set()
            partitions = [TopicPartition(topic, number) for number in numbers]
            ends = await consumer.end_offsets(partitions)
            found = 0
            while [one for one in partitions if await consumer.position(one) < ends[one]]:
                for records in (await consumer.getmany(timeout_ms=200)).values():
                    found += sum(
                        any(name == HEADER for name, _ in each.headers) for each in records
                    )
        finally:
            await consumer.stop()
        return found

    return asyncio.run(count())


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _spawn(module: str, *arguments: str) -> subprocess.Popen[bytes]:
    """A process with default options: none of the SDKs' environment variables reach it.

    Only MLflow's telemetry is off: a benchmark has no news for anybody.
    """
    prefixes = ("OTEL_", "MLFLOW_", "SPANFERRY_", "LANGFUSE_", "LANGSMITH_", "LANGCHAIN_")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(prefixes)}
    environment["MLFLOW_DISABLE_TELEMETRY"] = "true"
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=_ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
