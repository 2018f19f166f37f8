"""`spanferry dlq list | show | replay`."""

import argparse
import asyncio
import contextlib
import os
import shutil
import sys
from collections import Counter
from collections.abc import Mapping
from typing import Final

from spanferry_schemas.limits import PRODUCER_ID_BYTES
from spanferry_worker.arguments import is_confirmed, nobody_to_ask, operator_settings
from spanferry_worker.dlq.arguments import add_arguments, selection_from
from spanferry_worker.dlq.replaying import Account, Order, replay, target_partitions
from spanferry_worker.dlq.showing import shown
from spanferry_worker.dlq.survey import Kind, Survey
from spanferry_worker.dlq.text import HEAD, as_json, as_line, counted, printable
from spanferry_worker.errors import TransientError
from spanferry_worker.services.clock import SystemClock
from spanferry_worker.services.kafka_letters import LetterLog, Window, open_letters
from spanferry_worker.settings import Settings
from spanferry_worker.stages.copies import Copier
from spanferry_worker.stages.dead_letter import Letter, read_letter
from spanferry_worker.stages.receipts import is_receipt

__all__ = ["add_arguments", "run"]

_OK: Final = 0
_NOTHING: Final = 1
_USAGE: Final = 2
_UNREACHABLE: Final = 3


def run(args: argparse.Namespace) -> int:
    """One verb: 0 done, 1 nothing matches or not all was sent, 2 wrong usage.

    3 where Kafka cannot be reached or refuses; the rest of those raise FatalError.
    """
    settings = operator_settings(args, os.environ)
    try:
        if args.verb == "list":
            return asyncio.run(_list(settings, args))
        if args.verb == "show":
            return asyncio.run(_show(settings, args))
        return _replay(settings, args)
    except TransientError as error:
        _complain(args, str(error))
        return _UNREACHABLE
    except KeyboardInterrupt:
        _complain(args, "interrupted; what was sent and not yet noted the next replay sends again")
        return _NOTHING


async def _list(settings: Settings, args: argparse.Namespace) -> int:
    survey = Survey(selection_from(args))
    async with open_letters(settings, since_ms=args.since) as log:
        async for record in log.records():
            survey.see(record)
        shown_count = await _print_lines(log, survey, args)
    counts = survey.counts(again=not args.pending)
    if not args.json:
        _say(_summary(log.topic, survey, counts, shown_count))
    return _OK if counts else _NOTHING


async def _print_lines(log: LetterLog, survey: Survey, args: argparse.Namespace) -> int:
    """Print what the survey has found, the oldest first; how many lines that were."""
    width = shutil.get_terminal_size((160, 24)).columns
    left: int = survey.counts(again=not args.pending).total()
    if args.limit is not None:
        left = min(left, args.limit)
    count = 0
    async with contextlib.aclosing(log.records()) as records:
        # Not read any further than to the last line.
        while count < left:
            record = await anext(records, None)
            if record is None:
                break
            if is_receipt(record):
                continue
            letter = read_letter(record)
            if not survey.wanted(letter, again=not args.pending):
                continue
            topics = survey.receipts.topics(letter.partition, letter.offset)
            if args.json:
                _write(as_json(letter, topics))
            else:
                if not count:
                    _say(HEAD)
                _write(as_line(letter, topics, width))
            count += 1
    return count


def _summary(topic: str, survey: Survey, counts: Counter[Kind], shown_count: int) -> str:
    total = counts.total()
    if not total:
        return f"{topic}: nothing matches, of {survey.letters:,} dead letters"
    pending = survey.counts(again=False).total()
    shown_text = "" if shown_count == total else f" ({shown_count:,} shown)"
    return (
        f"{topic}: {total:,} of {survey.letters:,} dead letters{shown_text}: "
        f"{counted(_by_reason(counts))}; {pending:,} never replayed"
    )


async def _show(settings: Settings, args: argparse.Namespace) -> int:
    partition, offset = args.position
    async with open_letters(settings) as log:
        begin, end = log.window.begin.get(partition), log.window.end.get(partition)
        if begin is None or end is None:
            _complain(args, f"{log.topic} has partitions 0 to {len(log.window.end) - 1}")
            return _NOTHING
        record = await log.one(partition, offset)
        if record is None:
            held = f"offsets {begin} to {end - 1}" if end > begin else "nothing"
            _complain(args, f"{log.topic} has no record at {partition}:{offset}; it holds {held}")
            return _NOTHING
    for line in shown(record, payload=args.payload):
        _say(line)
    return _OK


def _replay(settings: Settings, args: argparse.Namespace) -> int:
    asks = not (args.yes or args.dry_run)
    if asks and not sys.stdin.isatty():
        _complain(args, nobody_to_ask("sends"))
        return _USAGE

    def target_of(letter: Letter) -> str:
        return args.to or letter.origin_topic

    survey = Survey(selection_from(args), target_of)
    window, partitions = asyncio.run(_look(settings, survey, args))
    wanted = survey.counts(again=args.again)
    _say(_plan(settings, survey, wanted, args))
    lost = sum(count for kind, count in wanted.items() if not kind.target)
    if lost:
        _complain(args, f"{lost:,} do not say where they came from: give --to TOPIC")
    if not survey.counts(again=True):
        return _NOTHING
    if not wanted or args.dry_run:
        return _NOTHING if lost else _OK
    if asks and not is_confirmed("Send them?"):
        _say("nothing was sent")
        return _NOTHING
    clock = SystemClock()
    # What a worker remembers of the replay before must not be taken for this one.
    salt = f"{clock.now_ms()}/".encode() if args.again else b""
    copier = Copier(os.urandom(PRODUCER_ID_BYTES), salt)
    order = Order(
        survey=survey,
        window=window,
        partitions=partitions,
        again=args.again,
        limit=args.limit,
    )
    account = asyncio.run(replay(settings, order, copier, clock))
    return _report(account, args, lost=lost)


async def _look(
    settings: Settings, survey: Survey, args: argparse.Namespace
) -> tuple[Window, dict[str, int]]:
    """Feed the survey; the window it saw, and the partitions of where its letters would go."""
    async with open_letters(settings, since_ms=args.since) as log:
        async for record in log.records():
            survey.see(record)
        window = log.window
    return window, await target_partitions(settings, list(survey.counts(again=args.again)))


def _plan(
    settings: Settings, survey: Survey, wanted: Counter[Kind], args: argparse.Namespace
) -> str:
    topic = settings.dead_letter_topic
    matching = survey.counts(again=True).total()
    if not matching:
        return f"{topic}: nothing matches, of {survey.letters:,} dead letters"
    total = wanted.total()
    before = matching - total
    past = f"; {before:,} were replayed before" if before else ""
    if not total:
        return f"{topic}: nothing to replay{past} (--again sends them once more)"
    first = "" if args.limit is None or args.limit >= total else f"the first {args.limit:,} of "
    return f"{topic}: {first}{total:,} to replay: {_by_target(wanted)}{past}"


def _report(account: Account, args: argparse.Namespace, *, lost: int) -> int:
    """Say what came of it; the exit code."""
    sent = account.sent.total()
    _say(f"{sent:,} replayed{': ' if sent else ''}{_by_target(account.sent)}")
    for message, count in account.refused.items():
        _complain(args, f"{count:,} not sent: {message}")
    if account.stopped is not None:
        _complain(
            args, f"stopped, {account.unsent:,} of its last batch not sent: {account.stopped}"
        )
    if account.forgotten:
        _complain(
            args,
            f"{account.forgotten:,} were sent, but that could not be noted: the next replay sends "
            "them again, which changes nothing in MLflow",
        )
    if account.stopped is not None and not sent:
        return _UNREACHABLE
    return _NOTHING if account.stopped or account.refused or lost else _OK


def _by_reason(counts: Mapping[Kind, int]) -> Counter[str]:
    reasons: Counter[str] = Counter()
    for kind, count in counts.items():
        reasons[kind.reason] += count
    return reasons


def _by_target(counts: Mapping[Kind, int]) -> str:
    """`traces (malformed 3, refused 1), other (malformed 1)`."""
    targets = sorted({kind.target for kind in counts})
    return ", ".join(
        f"{printable(target) or 'nowhere'} "
        f"({counted({k.reason: n for k, n in counts.items() if k.target == target})})"
        for target in targets
    )


def _complain(args: argparse.Namespace, text: str) -> None:
    sys.stderr.write(f"spanferry dlq {args.verb}: {text}\n")


def _say(line: str) -> None:
    _write(f"{line}\n")


def _write(text: str) -> None:
    """To stdout, whatever characters its encoding lacks."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
