"""A worker process from its settings to its exit code."""

import asyncio
import logging
import random
import signal
import sys
from collections.abc import Coroutine
from typing import Any

import uvloop

from spanferry_worker.errors import FatalError
from spanferry_worker.runtime.allocator import collect_rarely, keep_little
from spanferry_worker.runtime.health import HealthServer
from spanferry_worker.runtime.pages import worker_pages
from spanferry_worker.runtime.parts import Parts
from spanferry_worker.runtime.pipeline import Pipeline
from spanferry_worker.runtime.policy_file import PolicyFile, SettingsSource
from spanferry_worker.services.clock import SystemClock
from spanferry_worker.services.kafka import KafkaLog
from spanferry_worker.services.kafka_dead_letters import KafkaDeadLetters
from spanferry_worker.services.kafka_dropped import KafkaDropped
from spanferry_worker.services.kafka_fleet import KafkaFleet
from spanferry_worker.services.kafka_ledger import KafkaLedger
from spanferry_worker.services.memory import memory_limit_bytes, resident_bytes
from spanferry_worker.services.metrics import Metrics
from spanferry_worker.settings import Settings, require_for_worker
from spanferry_worker.telemetry import LogEvent

__all__ = ["FATAL_EXIT_CODE", "make_parts", "open_health", "run_worker", "say_fatal", "serve"]

FATAL_EXIT_CODE = 3
"""Restarting does not help; the last line on stderr says what does."""
_GRACE_S = 10.0
"""Beyond `process.stop_s`, for closing connections, before the process ends regardless."""

_log = logging.getLogger("spanferry.worker")


def make_parts(settings: Settings) -> Parts:
    """The real services, not yet connected. Raises FatalError for a tracking URI that cannot do."""
    from spanferry_worker.services.mlflow_sink import open_sink  # noqa: PLC0415

    metrics = _metrics(settings)
    return Parts(
        log=KafkaLog(settings.kafka),
        sink=open_sink(
            settings.mlflow.tracking_uri,
            default_experiment=settings.mlflow.experiment,
            artifact_server=settings.mlflow.artifact_server,
            create_experiments=settings.mlflow.create_experiments,
            bulk=settings.mlflow.bulk,
            http=settings.http,
            archive=settings.archive,
            archive_metrics=metrics.archive,
        ),
        letters=KafkaDeadLetters(settings),
        clock=SystemClock(),
        metrics=metrics,
        chance=random.Random(),  # noqa: S311 - spreads retries
        resident_bytes=resident_bytes,
        settled=collect_rarely,
        ledger=KafkaLedger(settings) if settings.ledger.enabled else None,
        fleet=KafkaFleet(settings),
        dropped=KafkaDropped(settings),
    )


def _metrics(settings: Settings) -> Metrics:
    metrics = Metrics()
    metrics.consume_held_limit_bytes.set(settings.consume.held_bytes_max)
    metrics.memory_limit_bytes.set(memory_limit_bytes())
    return metrics


def _run(main: Coroutine[Any, Any, None]) -> None:
    """Run on uvloop. Unlike uvloop.run it does not wait minutes for threads that hang."""
    loop = uvloop.new_event_loop()
    try:
        loop.run_until_complete(main)
    finally:
        rest = asyncio.all_tasks(loop)
        for task in rest:
            task.cancel()
        if rest:
            loop.run_until_complete(asyncio.wait(rest, timeout=_GRACE_S))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def run_worker(
    settings: Settings, *, supervised: bool = False, source: SettingsSource | None = None
) -> int:
    """Run one worker in this process until it is told to stop; its exit code. Logs are set up.

    `source`: where to get the sampling policy again.
    """
    try:
        require_for_worker(settings)
        keep_little()
        parts = make_parts(settings)
        _run(serve(settings, parts, supervised=supervised, source=source))
    except FatalError as error:
        say_fatal(settings, error)
        return FATAL_EXIT_CODE
    except asyncio.CancelledError:
        _log.error(
            "the stop took too long and was cut short; nothing uncommitted is lost",
            extra=LogEvent.WORKER_STOP_CUT(),
        )
        return 1
    return 0


def say_fatal(settings: Settings, error: FatalError) -> None:
    """The last line on stderr, in the format of the logs."""
    if settings.process.log_format == "json":
        _log.critical("%s", error, extra=LogEvent.WORKER_FATAL())
    else:
        sys.stderr.write(f"spanferry worker: {error}\n")


async def serve(
    settings: Settings,
    parts: Parts,
    *,
    supervised: bool = False,
    source: SettingsSource | None = None,
) -> None:
    """Run the pipeline with its health pages until SIGTERM, SIGINT, or the end of a supervisor."""
    pipeline = Pipeline(parts, settings)
    health = HealthServer(
        worker_pages(pipeline, parts.metrics, parts.clock),
        host=settings.health.host,
        port=settings.health.port,
    )
    await open_health(health, settings)
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None

    def stop() -> None:
        _log.info("stopping", extra=LogEvent.WORKER_STOPPING())
        pipeline.stop()
        loop.call_later(settings.process.stop_s + _GRACE_S, task.cancel)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    if supervised:
        await _watch_supervisor(pipeline)
    kept = source or SettingsSource(lambda: settings, None)
    policy = PolicyFile(kept, parts, settings, pipeline.intake.decider.use)
    loop.add_signal_handler(signal.SIGHUP, policy.ask)
    watching = asyncio.ensure_future(policy.run())
    try:
        await pipeline.run()
    finally:
        watching.cancel()
        await health.close()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(number)


async def open_health(health: HealthServer, settings: Settings) -> None:
    """Listen, and log where. Raises FatalError where the port is taken."""
    try:
        port = await health.open()
    except OSError as error:
        raise FatalError(
            f"health.port {settings.health.port} on {settings.health.host} cannot be used "
            f"({error.strerror or error}): give another --health-port, or 0 for any"
        ) from error
    host = settings.health.host
    _log.info(
        "health and metrics at http://%s:%d",
        host,
        port,
        extra=LogEvent.WORKER_LISTENING(host=host, port=port),
    )


async def _watch_supervisor(pipeline: Pipeline) -> None:
    """Stop when the supervisor is gone, however it went: its end of our stdin closes."""

    class _End(asyncio.Protocol):
        def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
            pipeline.stop()

    await asyncio.get_running_loop().connect_read_pipe(_End, sys.stdin)
