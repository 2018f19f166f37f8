"""The command line of `spanferry dlq`."""

import argparse
import re
from collections.abc import Callable
from typing import Final

from spanferry_schemas import trace_id_bytes
from spanferry_worker.arguments import add_settings_arguments, moment_ms, parse_since
from spanferry_worker.stages.dead_letter import REASONS, Selection

__all__ = ["add_arguments", "parse_since", "selection_from"]

_SETTINGS: Final = ("bootstrap_servers", "topic")
_OFFSET_MAX: Final = 2**63 - 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See spanferry_worker.cli."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    lister = verbs.add_parser(
        "list",
        help="one line for each, and how many by reason",
        description="Lists dead letters, the oldest first. Nothing is changed or committed. Exit "
        "codes: 0 some match, 1 none, 2 wrong usage, 3 Kafka cannot be reached or refuses.",
    )
    _add_filters(lister)
    lister.add_argument("--pending", action="store_true", help="only those never replayed")
    lister.add_argument("--json", action="store_true", help="a JSON object a line, no summary")
    show = verbs.add_parser(
        "show",
        help="one of them, decoded",
        description="Shows one dead letter: its headers, and what it holds. Exit code 1 where it is "
        "not there.",
    )
    show.add_argument("position", metavar="PARTITION:OFFSET", type=_position, help="as listed")
    show.add_argument(
        "--payload", action="store_true", help="also inputs, outputs, tags and other values"
    )
    replay = verbs.add_parser(
        "replay",
        help="send them back to where they came from",
        description="Sends dead letters back to the topic that they came from, once what killed them "
        "is mended, and notes that in their topic. Asks before. Exit codes: 0 all sent, or nothing "
        "left to send; 1 nothing matches, or not all was sent; 2 wrong usage; 3 Kafka cannot be "
        "reached or refuses.",
    )
    _add_filters(replay)
    replay.add_argument("--to", metavar="TOPIC", help="send all to this topic instead")
    replay.add_argument("--again", action="store_true", help="also what was replayed before")
    sending = replay.add_mutually_exclusive_group()
    sending.add_argument("--yes", action="store_true", help="do not ask")
    sending.add_argument("--dry-run", action="store_true", help="only say what would be sent")
    for verb in (lister, show, replay):
        add_settings_arguments(verb, _SETTINGS)


def _add_filters(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("which", "a letter must fit all that is given")
    group.add_argument(
        "--reason",
        metavar="REASON",
        dest="reasons",
        action="append",
        default=[],
        type=_reason,
        help=f"may be repeated: {', '.join(REASONS)}",
    )
    group.add_argument(
        "--trace-id", metavar="ID", type=_trace_id, help="as MLflow shows it: tr-..."
    )
    group.add_argument(
        "--experiment",
        metavar="X",
        dest="of_experiment",
        help="a name or an id, where the record says it (or the reason no_experiment does)",
    )
    group.add_argument("--origin-topic", metavar="TOPIC", help="the topic they came from")
    group.add_argument(
        "--origin-partition", metavar="N", type=_number(0), help="and the partition of it"
    )
    group.add_argument(
        "--since",
        metavar="WHEN",
        type=moment_ms,
        help="written since: 30m, 2h, 7d, or 2026-05-01T12:00 (UTC, where it names no zone)",
    )
    group.add_argument(
        "--limit", metavar="N", type=_number(1), help="at most so many, oldest first"
    )


def selection_from(args: argparse.Namespace) -> Selection:
    """What the filters say; `since` and `limit` are not part of it."""
    return Selection(
        reasons=frozenset(args.reasons),
        topic=args.origin_topic,
        partition=args.origin_partition,
        trace_id=args.trace_id,
        experiment=args.of_experiment,
    )


def _reason(text: str) -> str:
    if text not in REASONS:
        raise argparse.ArgumentTypeError(f"unknown reason {text!r}: {', '.join(REASONS)}")
    return text


def _trace_id(text: str) -> bytes:
    trace_id = trace_id_bytes(text)
    if trace_id is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no trace id: tr- and 32 hexadecimal digits")
    return trace_id


def _position(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,9}):(\d{1,19})", text, re.ASCII)
    if match is None or int(match[2]) > _OFFSET_MAX:
        raise argparse.ArgumentTypeError(f"{text!r}: give PARTITION:OFFSET, as `dlq list` shows it")
    return int(match[1]), int(match[2])


def _number(smallest: int) -> Callable[[str], int]:
    """The parser of a whole number from `smallest` on."""

    def parse(text: str) -> int:
        given = int(text) if text.isascii() and text.isdecimal() and len(text) <= 19 else -1
        if not smallest <= given <= _OFFSET_MAX:
            raise argparse.ArgumentTypeError(f"{text!r}: give a whole number from {smallest} on")
        return given

    return parse
