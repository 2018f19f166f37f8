"""Several worker processes under one: started, restarted with backoff, stopped together."""

import asyncio
import contextlib
import logging
import random
import signal
import socket
import sys
import time
from collections.abc import Sequence

import orjson
import uvloop

from spanferry_worker.errors import FatalError
from spanferry_worker.runtime.exposition import merge_expositions
from spanferry_worker.runtime.health import Answer, HealthServer, fetch, json_answer
from spanferry_worker.runtime.lifecycle import FATAL_EXIT_CODE, open_health, say_fatal
from spanferry_worker.runtime.wake import wait_for_event
from spanferry_worker.services.metrics import Metrics, SupervisorMetrics
from spanferry_worker.settings import Settings, require_for_worker
from spanferry_worker.stages.write import RetryPolicy
from spanferry_worker.telemetry import LogEvent

__all__ = ["Supervisor", "run_supervisor"]

_log = logging.getLogger("spanferry.supervisor")
_RESTART = RetryPolicy(retry_initial_s=0.5, retry_max_s=30.0)
_STEADY_S = 60.0
"""A child that lived this long starts anew without delay."""
_GRACE_S = 15.0
"""Beyond `process.stop_s`, and beyond the worker's own grace, before a child is killed."""


class _Child:
    """One worker process's place: its port stays, the process may change."""

    def __init__(self, number: int, port: int) -> None:
        self.number = number
        self.port = port
        self.process: asyncio.subprocess.Process | None = None
        self.restarts = 0


class Supervisor:
    """`arguments`: what a single worker is called with; ours are added behind them."""

    def __init__(self, settings: Settings, arguments: Sequence[str], chance: random.Random) -> None:
        self._settings = settings
        self._arguments = arguments
        self._chance = chance
        self._stop = asyncio.Event()
        self._fatal = False
        self._metrics = SupervisorMetrics()
        base = settings.health.port
        self._children = [
            _Child(number, base + 1 + number if base else _free_port(settings.health.host))
            for number in range(settings.process.processes)
        ]
        for child in self._children:
            self._metrics.restarts.labels(str(child.number))  # there from the start, at zero

    def stop(self) -> None:
        """Tell every child to stop."""
        self._stop.set()

    async def run(self) -> int:
        """Keep the children until `stop`, or until one says that it can never start; exit code."""
        pages = {"/healthz": self._healthz, "/readyz": self._readyz, "/metrics": self._exposition}
        health = HealthServer(
            pages, host=self._settings.health.host, port=self._settings.health.port
        )
        await open_health(health, self._settings)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self._pass_on, signal.SIGHUP)
        try:
            async with asyncio.TaskGroup() as group:
                for child in self._children:
                    group.create_task(self._keep(child), name=f"worker-{child.number}")
        finally:
            await health.close()
        return FATAL_EXIT_CODE if self._fatal else 0

    def _pass_on(self, number: signal.Signals) -> None:
        """Give a signal to every child: SIGHUP has the sampling policy read again."""
        for child in self._children:
            if child.process is not None:
                with contextlib.suppress(ProcessLookupError):
                    child.process.send_signal(number)

    async def _keep(self, child: _Child) -> None:
        failures = 0
        while not self._stop.is_set():
            began = time.monotonic()
            code = await self._live(child)
            if self._stop.is_set():
                return
            if code == FATAL_EXIT_CODE:
                self._fatal = True
                self.stop()
                return
            failures = 0 if time.monotonic() - began > _STEADY_S else failures + 1
            delay_s = _RESTART.delay_s(failures, self._chance.random()) if failures else 0.0
            child.restarts += 1
            self._metrics.restarts.labels(str(child.number)).inc()
            _log.error(
                "worker %d ended with code %s, restarted in %.1f s",
                child.number,
                code,
                delay_s,
                extra=LogEvent.SUPERVISOR_ENDED(worker=child.number, exit_code=code),
            )
            await wait_for_event(self._stop, delay_s)

    async def _live(self, child: _Child) -> int:
        """Start the process and wait for its end, which we bring about when told to stop."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "spanferry_worker",
            *self._arguments,
            *self._own_arguments(child),
            stdin=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        child.process = process
        ended = asyncio.ensure_future(process.wait())
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait([ended, stopping], return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                await self._end(process, ended)
            return await ended
        finally:
            stopping.cancel()
            child.process = None

    async def _end(self, process: asyncio.subprocess.Process, ended: "asyncio.Future[int]") -> None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        done, _ = await asyncio.wait([ended], timeout=self._settings.process.stop_s + _GRACE_S)
        if not done:
            _log.error(
                "a worker did not stop in time and is killed; nothing uncommitted is lost",
                extra=LogEvent.SUPERVISOR_KILLED(worker_pid=process.pid),
            )
            with contextlib.suppress(ProcessLookupError):
                process.kill()

    def _own_arguments(self, child: _Child) -> list[str]:
        own = ["--processes", "1", "--health-port", str(child.port), "--supervised"]
        name = self._settings.kafka.group_instance_id
        return own if name is None else [*own, "--group-instance-id", f"{name}-{child.number}"]

    async def _ask(self, path: str) -> list[tuple[_Child, Answer | None]]:
        host = self._settings.health.host
        children = self._children
        answers = await asyncio.gather(*(fetch(host, child.port, path) for child in children))
        return list(zip(children, answers, strict=True))

    async def _healthz(self) -> Answer:
        """A process that does not answer is being replaced: not sick, as long as others are."""
        answers = await self._ask("/healthz")
        sick = {child.number: _problem(a) for child, a in answers if a and a.status != 200}
        restarts = [child.restarts for child in self._children]
        return json_answer(not sick, sick=list(sick), problems=_by_name(sick), restarts=restarts)

    async def _readyz(self) -> Answer:
        answers = await self._ask("/readyz")
        waiting = {
            child.number: _problem(a) for child, a in answers if a is None or a.status != 200
        }
        return json_answer(not waiting, waiting=list(waiting), problems=_by_name(waiting))

    async def _exposition(self) -> Answer:
        texts: list[tuple[str, str]] = []
        for child, answer in await self._ask("/metrics"):
            name = str(child.number)
            self._metrics.up.labels(name).set(answer is not None)
            if answer is not None:
                texts.append((name, answer.body.decode()))
        page = self._metrics.exposition() + merge_expositions(texts).encode()
        return Answer(200, Metrics.content_type, page)


def _problem(answer: Answer | None) -> str:
    """What a process says is wrong."""
    if answer is None:
        return "does not answer"
    try:
        return str(orjson.loads(answer.body)["problem"])
    except (ValueError, KeyError, TypeError):
        return f"answers {answer.status}"


def _by_name(problems: dict[int, str]) -> dict[str, str]:
    return {str(number): problem for number, problem in problems.items()}


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def run_supervisor(settings: Settings, arguments: Sequence[str]) -> int:
    """Run `process.processes` workers until told to stop; the exit code. Logs are set up."""
    try:
        require_for_worker(settings)
        return uvloop.run(_supervise(settings, arguments))
    except FatalError as error:
        say_fatal(settings, error)
        return FATAL_EXIT_CODE


async def _supervise(settings: Settings, arguments: Sequence[str]) -> int:
    return await Supervisor(settings, arguments, random.Random()).run()  # noqa: S311 - jitter
