"""`spanferry ledger`."""

import argparse
import asyncio
import contextlib
import os
import sys
from typing import Final

from spanferry_worker.arguments import add_settings_arguments, operator_settings
from spanferry_worker.errors import FatalError, TransientError
from spanferry_worker.ledger.text import as_json, lines
from spanferry_worker.ports import Partition
from spanferry_worker.services.clock import SystemClock
from spanferry_worker.services.kafka_ledger import read_kept
from spanferry_worker.services.kafka_statement import TraceReader, open_traces
from spanferry_worker.settings import Settings
from spanferry_worker.stages.accounts import Books, Kept
from spanferry_worker.stages.statement import PartitionStatement, Statement, state

__all__ = ["add_arguments", "run"]

_OK: Final = 0
_WRONG: Final = 1
_UNREACHABLE: Final = 3
_RECORDS_MAX: Final = 2_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See spanferry_worker.cli."""
    parser.description = (
        "Says of every producer: produced = stored + sampled + dead-lettered + in flight + dropped, and "
        "which do not add up. Reads the ledger's topic, and what lies in the traces' topic behind it. "
        "Nothing is changed or committed. Exit codes: 0 everything adds up, 1 something does not, "
        "2 wrong usage, 3 Kafka cannot be reached or refuses."
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--all", action="store_true", help="every producer, not the largest alone")
    parser.add_argument(
        "--records-max",
        metavar="N",
        type=int,
        default=_RECORDS_MAX,
        help="refuse to read more records in flight than this",
    )
    add_settings_arguments(parser, ("bootstrap_servers", "topic", "group"))


def run(args: argparse.Namespace) -> int:
    """Print the statement: 0 where all adds up, 1 where something does not.

    3 where Kafka cannot be reached; where it refuses FatalError is raised.
    """
    settings = operator_settings(args, os.environ)
    clock = SystemClock()
    try:
        statement = asyncio.run(_state(settings, args.records_max, clock.now_ms()))
    except TransientError as error:
        sys.stderr.write(f"spanferry ledger: {error}\n")
        return _UNREACHABLE
    except KeyboardInterrupt:
        return _WRONG
    now_ms = clock.now_ms()
    if args.json:
        sys.stdout.write(as_json(statement, now_ms))
    else:
        for line in lines(statement, now_ms, everybody=args.all):
            sys.stdout.write(f"{line}\n")
    return _OK if statement.adds_up else _WRONG


async def _state(settings: Settings, records_max: int, now_ms: int) -> Statement:
    """What is committed, then what is kept, then what lies behind that: workers go on meanwhile.

    Their ledger is ahead of what they commit. What they decide after our look counts as in flight.
    """
    async with open_traces(settings) as before:
        kept, _ = await read_kept(settings, [])
        # Where partitions end is asked once more: what a report says to be acknowledged lies before.
        async with open_traces(settings) as after:
            numbers = sorted(before.extents.keys() & after.extents.keys())
            parts = [_part(settings, kept, before, number, now_ms) for number in numbers]
            waiting = sum(max(0, after.extents[one.partition].end - one.begin) for one in parts)
            if waiting > records_max:
                raise FatalError(
                    f"{waiting:,} records are in flight: so many are read only with --records-max "
                    f"{waiting}"
                )
            for part in parts:
                await _read(part, before, after)
    return state(parts)


def _part(
    settings: Settings, kept: list[Kept], traces: TraceReader, number: int, now_ms: int
) -> PartitionStatement:
    extent = traces.extents[number]
    return PartitionStatement(
        Books(settings.kafka.group, *Partition(settings.kafka.topic, number)),
        kept,
        begin=extent.begin,
        committed=extent.committed,
        now_ms=now_ms,
    )


async def _read(part: PartitionStatement, before: TraceReader, after: TraceReader) -> None:
    end = after.extents[part.partition].end
    reports_below = before.extents[part.partition].end
    async with contextlib.aclosing(after.records(part.partition, part.begin, end)) as batches:
        async for records in batches:
            part.read(records, reports_below=reports_below)
