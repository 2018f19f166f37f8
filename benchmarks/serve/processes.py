"""The processes of a run: served apps, the load generator, and on which cores they are."""

import contextlib
import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Self

import msgspec
from msgspec.structs import replace

from benchmarks.serve.account import SETUP, Account, Setup
from benchmarks.serve.load import Answers, Order
from benchmarks.serve.work import WORLDS, request_body
from tests.services.process import ServiceError, free_port

__all__ = ["FLASK_THREADS", "App", "Cores", "Load", "pinned", "polite"]

_ROOT = Path(__file__).parents[2]
_LUA = Path(__file__).with_name("chat.lua")
_START_S, _STOP_S, _REST_S = 120.0, 20.0, 90.0
FLASK_THREADS = 32
_NICE = 10
_FOREIGN = ("OTEL_", "MLFLOW_", "SPANFERRY_", "LANGFUSE_", "LANGSMITH_", "LANGCHAIN_")
_CALLING = "-httpx"
"""At the end of a server's name: its app calls the model over HTTP."""
_SERVERS = {
    "fastapi": [
        "uvicorn", "benchmarks.serve.fastapi_app:app", "--host=127.0.0.1", "--port={port}",
        "--no-access-log", "--log-level=warning", "--timeout-keep-alive=600",
    ],
    "flask": [
        "gunicorn", "benchmarks.serve.flask_app:app", "--bind=127.0.0.1:{port}", "--workers=1",
        "--worker-class=gthread", f"--threads={FLASK_THREADS}", "--keep-alive=600",
        "--log-level=warning", "--timeout=600",
    ],
}  # fmt: skip


class Cores(msgspec.Struct, frozen=True):
    """Which cores are for the app and which for all else; `-` is wherever the kernel likes."""

    app: str
    others: str


@contextlib.contextmanager
def pinned() -> Iterator[Cores]:
    """The first core is the app's; this process, and what it starts, goes to the second one."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        yield Cores("-", "-")
        return
    os.sched_setaffinity(0, {allowed[1]})
    try:
        yield Cores(str(allowed[0]), str(allowed[1]))
    finally:
        os.sched_setaffinity(0, allowed)


def polite(pid: int) -> None:
    """A back end lets the load generator go first: on another machine it would not be in its way."""
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, int(task.name), _NICE)


class App:
    """One served app, traced in one way."""

    def __init__(
        self, server: str, setup: Setup, cores: Cores, options: Mapping[str, str] | None = None
    ) -> None:
        """`options` are environment variables besides."""
        self.server = server
        self.tier = setup.tier
        setup = replace(setup, calls_model=server.endswith(_CALLING))
        self.port = free_port()
        environment = {k: v for k, v in os.environ.items() if not k.startswith(_FOREIGN)}
        environment |= {"MLFLOW_DISABLE_TELEMETRY": "true", **(options or {})}
        environment[SETUP] = msgspec.json.encode(setup).decode()
        command = [part.format(port=self.port) for part in _SERVERS[server.removesuffix(_CALLING)]]
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  closed where it leaves
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.serve.pinned", cores.app, sys.executable, "-m", *command],
            cwd=_ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def wait_until_ready(self) -> None:
        """Returns when it answers; ServiceError where it never will."""
        end = time.monotonic() + _START_S
        while time.monotonic() < end and self._process.poll() is None:
            with contextlib.suppress(OSError):
                self.pid = self.account().pid
                return
            time.sleep(0.1)
        self._log.seek(0)
        said = self._log.read()[-4_000:].decode(errors="replace")
        raise ServiceError(f"the {self.server} app traced by {self.tier} did not start\n{said}")

    def account(self) -> Account:
        """What it has done so far."""
        return msgspec.json.decode(self._ask("GET", "/account"), type=Account)

    def flush(self) -> bool:
        """Have what it holds leave; False where that failed."""
        return self._ask("POST", "/flush") == b"true"

    def rest(self) -> None:
        """Wait until no request is in work any more: an overloaded app has some left."""
        end = time.monotonic() + _REST_S
        before = -1
        while time.monotonic() < end and (now := self.account().answered) != before:
            before = now
            time.sleep(0.1)

    def cpu_seconds(self) -> float:
        """User and system time of the serving process, seen from outside."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _ask(self, method: str, path: str) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request(method, path)
            return connection.getresponse().read()
        finally:
            connection.close()


class Load:
    """The load generators: wrk where it is installed and asked for, else our own; always our own
    where requests are due at a rate, which wrk does not do."""

    def __init__(self, folder: Path, *, wrk: bool) -> None:
        bodies = [request_body(world).decode() for world in range(WORLDS)]
        self._bodies, self._lines = folder / "bodies.json", folder / "bodies.txt"
        self._bodies.write_text(json.dumps(bodies))
        self._lines.write_text("\n".join(bodies))
        self._wrk = shutil.which("wrk") if wrk else None
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.serve.load"],
            cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(_STOP_S)
        self._process.stdout.close()

    @property
    def closed_by(self) -> str:
        """What makes closed-loop load."""
        return "wrk" if self._wrk else "benchmarks/serve/load.py"

    def closed(self, app: App, seconds: float, connections: int, *, own: bool = False) -> Answers:
        """As many requests as the app can take; `own` never by wrk."""
        if self._wrk and not own:
            return self._by_wrk(self._wrk, app, seconds, connections)
        return self._order(app, Order(port=0, bodies="", seconds=seconds, connections=connections))

    def open(self, app: App, seconds: float, rate: float, connections: int) -> Answers:
        """Requests due at a rate."""
        order = Order(port=0, bodies="", seconds=seconds, rate=rate, connections=connections)
        return self._order(app, order)

    def _order(self, app: App, order: Order) -> Answers:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order.port, order.bodies = app.port, str(self._bodies)
        self._process.stdin.write(msgspec.json.encode(order) + b"\n")
        self._process.stdin.flush()
        return msgspec.json.decode(self._process.stdout.readline(), type=Answers)

    def _by_wrk(self, wrk: str, app: App, seconds: float, connections: int) -> Answers:
        """wrk takes whole seconds. Where an answer was late it adds latencies of requests that would have
        been sent meanwhile: there are more of them than requests."""
        done = subprocess.run(
            [
                wrk, "--threads=1", f"--connections={connections}",
                f"--duration={max(1, round(seconds))}s", "--timeout=60s", f"--script={_LUA}",
                f"http://127.0.0.1:{app.port}/chat", "--", str(self._lines),
            ],
            capture_output=True, check=True,
        )  # fmt: skip
        found = json.loads(done.stdout.splitlines()[-1])
        return Answers(
            latency_us=[value for value, count in found["latency_us"] for _ in range(count)],
            elapsed_s=found["microseconds"] / 1e6,
            failed=found["failed"],
            requests=found["requests"],
        )
