"""`spanferry undrop`."""

import argparse
import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncGenerator, Sequence
from typing import Final

from spanferry_schemas import trace_id_text
from spanferry_worker.arguments import is_confirmed, nobody_to_ask, operator_settings
from spanferry_worker.errors import PoisonError, TransientError
from spanferry_worker.sampling.arguments import add_undrop_arguments
from spanferry_worker.sampling.finding import (
    AmbiguousError,
    Found,
    NotFoundError,
    TraceWanted,
    find,
)
from spanferry_worker.sampling.restoring import Plan, Verdict, planned
from spanferry_worker.services.clock import SystemClock
from spanferry_worker.services.mlflow_sink import MlflowSink, open_sink
from spanferry_worker.settings import Settings, require_for_worker
from spanferry_worker.stages.sample import Outcome
from spanferry_worker.text import size_text

__all__ = ["add_arguments", "run"]

_OK: Final = 0
_NOT_ALL: Final = 1
_USAGE: Final = 2
_UNREACHABLE: Final = 3
_BEFORE: Final = {Outcome.DROP: "not stored", Outcome.SKELETON: "stored as a skeleton"}
_REFUSALS: Final = {
    Verdict.OPEN: "not finished: a worker still waits for more of it, and has dropped nothing",
    Verdict.INCOMPLETE: "spans of it are missing in Kafka: give --incomplete to store what is there",
    Verdict.SPANLESS: "Kafka has feedback or tags of it, and its spans not any more",
}

add_arguments = add_undrop_arguments


def run(args: argparse.Namespace) -> int:
    """0 where all are whole in MLflow now, 1 where some are not, 2 wrong usage.

    3 where Kafka or MLflow cannot be reached or refuses; the rest of those raise FatalError.
    """
    settings = operator_settings(args, os.environ)
    require_for_worker(settings)
    asks = not (args.yes or args.dry_run)
    if asks and not sys.stdin.isatty():
        _complain(nobody_to_ask("writes"))
        return _USAGE
    try:
        return _run(settings, args, asks=asks)
    except TransientError as error:
        _complain(str(error))
        return _UNREACHABLE
    except PoisonError as error:
        _complain(f"MLflow refuses: {error}")
        return _UNREACHABLE
    except KeyboardInterrupt:
        _complain("interrupted; what was written stays, and writing it again changes nothing")
        return _NOT_ALL


def _run(settings: Settings, args: argparse.Namespace, *, asks: bool) -> int:
    plans, missing = asyncio.run(_look(settings, args))
    wanted: list[Plan] = []
    for plan in plans:
        _say(_line(plan))
        if plan.verdict is Verdict.RESTORE:
            wanted.append(plan)
    refused = missing + sum(plan.verdict in _REFUSALS for plan in plans)
    code = _NOT_ALL if refused else _OK
    if not wanted or args.dry_run:
        return code
    if asks and not is_confirmed("Store them whole?"):
        _say("nothing was written")
        return _NOT_ALL
    asyncio.run(_write(settings, wanted))
    count = "1 trace is" if len(wanted) == 1 else f"{len(wanted):,} traces are"
    _say(f"{count} whole in MLflow now")
    return code


async def _look(settings: Settings, args: argparse.Namespace) -> tuple[list[Plan], int]:
    """What there is to do for every trace that Kafka has, and how many it has not."""
    found: dict[bytes, Found] = {}
    missing = 0
    for wanted in args.traces:
        one = await _found(settings, wanted, args)
        if one is None:
            missing += 1
        else:
            found[one.trace_id] = one
    if not found:
        return [], missing
    async with _opened(settings) as sink:
        stored = await sink.marks(list(found))
    plans = [
        planned(one, stored.get(trace_id), incomplete=args.incomplete)
        for trace_id, one in found.items()
    ]
    return plans, missing


async def _found(settings: Settings, wanted: TraceWanted, args: argparse.Namespace) -> Found | None:
    """The trace; None, and a complaint, where it is not there or not the only one."""
    try:
        return await find(
            settings, wanted, SystemClock(), since_ms=args.since, everywhere=args.everywhere
        )
    except (NotFoundError, AmbiguousError) as error:
        _complain(str(error))
        return None


async def _write(settings: Settings, plans: Sequence[Plan]) -> None:
    """One by one: one that the store refuses keeps no other back, but those behind it."""
    async with _opened(settings) as sink:
        for plan in plans:
            await sink.write([plan.trace])


@contextlib.asynccontextmanager
async def _opened(settings: Settings) -> AsyncGenerator[MlflowSink]:
    mlflow = settings.mlflow
    sink = open_sink(
        mlflow.tracking_uri,
        default_experiment=mlflow.experiment,
        artifact_server=mlflow.artifact_server,
        create_experiments=mlflow.create_experiments,
        bulk=mlflow.bulk,
        http=settings.http,
        archive=settings.archive,
    )
    try:
        await sink.open()
        yield sink
    finally:
        await sink.close()


def _line(plan: Plan) -> str:
    trace_id = trace_id_text(plan.trace.trace_id or b"")
    if plan.verdict is Verdict.WHOLE:
        return f"{trace_id}: stored whole already, nothing to do"
    refusal = _REFUSALS.get(plan.verdict)
    if refusal is not None:
        return f"{trace_id}: {refusal}"
    spans = len(plan.trace.spans)
    return (
        f"{trace_id}: {_BEFORE[plan.before]}, to be stored whole: {spans:,} "
        f"{'span' if spans == 1 else 'spans'}, {size_text(plan.trace.size)}"
    )


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _complain(text: str) -> None:
    sys.stderr.write(f"spanferry undrop: {text}\n")
