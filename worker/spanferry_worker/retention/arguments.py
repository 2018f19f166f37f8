"""The command line of `spanferry retention`."""

import argparse
from typing import Final

from spanferry_worker.arguments import add_settings_arguments, moment_ms
from spanferry_worker.stages.retention import STATES, Selection

__all__ = ["add_arguments", "selection_from"]

_BATCH_TRACES: Final = 100
_BATCH_TRACES_MAX: Final = 500
"""What an MLflow server gives in one answer."""
_PAUSE_S: Final = 0.2
"""A writer that waits for SQLite looks every 0.1 s whether it is free."""
_PAUSE_MAX_S: Final = 3600.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See spanferry_worker.cli."""
    parser.description = (
        "Deletes old traces from MLflow, with their spans, tags and assessments, the oldest first and a "
        "few at a time, so that others can write meanwhile. Asks before. What was interrupted is finished "
        "by running it again. Exit codes: 0 all that should go is gone (or --max-traces of it), 1 some of "
        "it stays, 2 wrong usage, 3 MLflow cannot be reached or refuses."
    )
    _add_which(parser)
    _add_filters(parser)
    _add_how(parser)
    going = parser.add_mutually_exclusive_group()
    going.add_argument("--yes", action="store_true", help="do not ask")
    going.add_argument("--dry-run", action="store_true", help="only say what would be deleted")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    add_settings_arguments(parser, ("tracking_uri",))


def _add_which(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("which")
    group.add_argument(
        "--older-than",
        metavar="WHEN",
        type=moment_ms,
        required=True,
        help="started before: 30d, 12h, or 2026-05-01T12:00 (UTC, where it names no zone)",
    )
    where = group.add_mutually_exclusive_group(required=True)
    where.add_argument(
        "--experiment",
        metavar="X",
        dest="of_experiments",
        action="append",
        default=[],
        help="a name or an id; may be repeated",
    )
    where.add_argument(
        "--all-experiments",
        action="store_true",
        help="every experiment (of the workspace) that is not deleted",
    )
    group.add_argument(
        "--except-experiment",
        metavar="X",
        dest="but_experiments",
        action="append",
        default=[],
        help="with --all-experiments: not this one, by name or id; may be repeated",
    )


def _add_filters(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("filters", "a trace must fit all that is given")
    group.add_argument(
        "--state",
        metavar="STATE",
        dest="states",
        action="append",
        default=[],
        choices=STATES,
        help=f"in this state; may be repeated: {', '.join(STATES)}",
    )
    group.add_argument(
        "--tag",
        metavar="KEY=VALUE",
        dest="tags",
        action="append",
        default=[],
        type=_tag,
        help="with this tag; repeated: with all of them",
    )
    group.add_argument(
        "--keep-tag",
        metavar="KEY[=VALUE]",
        dest="keep_tags",
        action="append",
        default=[],
        type=_kept_tag,
        help="not what has this tag; may be repeated",
    )
    group.add_argument(
        "--keep-assessed", action="store_true", help="not what has feedback or expectations"
    )


def _add_how(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how")
    group.add_argument(
        "--artifacts",
        action="store_true",
        help="also their files (images and other attachments), which MLflow itself leaves where they are",
    )
    group.add_argument(
        "--max-traces",
        metavar="N",
        type=_count,
        help="at most so many in all, experiment by experiment, the oldest first",
    )
    group.add_argument(
        "--batch-size",
        metavar="N",
        type=_batch,
        default=_BATCH_TRACES,
        help=f"at most so many in one transaction (default: {_BATCH_TRACES}); fewer where they are large",
    )
    group.add_argument(
        "--pause",
        metavar="S",
        type=_seconds,
        default=_PAUSE_S,
        help="seconds between two batches at least, and at least as long as the batch took "
        f"(default: {_PAUSE_S:g})",
    )
    group.add_argument(
        "--force", action="store_true", help="also traces so young that they may still be written"
    )


def selection_from(args: argparse.Namespace) -> Selection:
    """What the filters say; the experiments are not part of it."""
    return Selection(
        before_ms=args.older_than,
        states=tuple(dict.fromkeys(args.states)),
        tags=tuple(dict.fromkeys(args.tags)),
        keep_tags=tuple(dict.fromkeys(args.keep_tags)),
        keep_assessed=args.keep_assessed,
    )


def _tag(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{text!r}: give it as KEY=VALUE")
    return key, value


def _kept_tag(text: str) -> tuple[str, str | None]:
    key, equals, value = text.partition("=")
    if not key:
        raise argparse.ArgumentTypeError(f"{text!r}: give it as KEY or KEY=VALUE")
    return key, value if equals else None


def _count(text: str) -> int:
    number = int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give a whole number from 1 on")
    return number


def _batch(text: str) -> int:
    number = _count(text)
    if number > _BATCH_TRACES_MAX:
        raise argparse.ArgumentTypeError(f"{text!r}: at most {_BATCH_TRACES_MAX}")
    return number


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= _PAUSE_MAX_S:
        raise argparse.ArgumentTypeError(f"{text!r}: give seconds from 0 to {_PAUSE_MAX_S:g}")
    return seconds
