"""The command lines of `spanferry sampling` and `spanferry undrop`."""

import argparse
from pathlib import Path
from typing import Final

from spanferry_worker.arguments import add_settings_arguments, moment_ms
from spanferry_worker.sampling.finding import TraceWanted

__all__ = ["add_sampling_arguments", "add_undrop_arguments"]

_KAFKA: Final = ("bootstrap_servers", "topic")
_STORE: Final = (*_KAFKA, "tracking_uri", "experiment")
_DIGITS_MIN: Final = 6
_WHEN: Final = "30m, 2h, 7d, or 2026-05-01T12:00 (UTC, where it names no zone)"
_ID: Final = (
    f"as MLflow shows it, tr-...; its first {_DIGITS_MIN} digits or more will do, more slowly"
)


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """See spanferry_worker.sampling.cli."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    _add_explain(verbs.add_parser(
        "explain",
        help="why one trace is kept, cut or dropped",
        description="Reads the trace's records from Kafka and shows every rule, every condition, chance "
        "and weights. Nothing is changed or committed. Exit codes: 0 shown, 1 the trace is not in Kafka, "
        "2 wrong usage, 3 Kafka cannot be reached or refuses.",
    ))  # fmt: skip
    _add_simulate(verbs.add_parser(
        "simulate",
        help="what policies would do with the traffic that Kafka retains",
        description="Reads traces from Kafka, lets each policy decide on all of them, and compares: what "
        "is kept, bytes, estimates, budgets. Nothing is changed or committed. Exit codes: 0 shown, 1 "
        "there were no traces, 2 wrong usage, 3 Kafka cannot be reached or refuses.",
    ))  # fmt: skip
    check = verbs.add_parser(
        "check",
        help="read a policy, and say it in words",
        description="Validates the section [sample] of a worker's file. Kafka is not asked. Exit codes: "
        "0 it is good, 3 it is not.",
    )
    check.add_argument("policy", metavar="POLICY.toml", type=Path)
    add_settings_arguments(check, _KAFKA)


def _add_explain(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("trace", metavar="TRACE_ID", type=_trace, help=_ID)
    parser.add_argument(
        "--policy",
        metavar="FILE.toml",
        type=Path,
        help="by its [sample], instead of that of the settings",
    )
    _add_where(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    add_settings_arguments(parser, _KAFKA)


def _add_simulate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "policies",
        metavar="POLICY.toml",
        nargs="+",
        help="files whose [sample] is used, or `current`: that of the settings",
    )
    parser.add_argument("--since", metavar="WHEN", type=moment_ms, help=f"produced since: {_WHEN}")
    parser.add_argument("--until", metavar="WHEN", type=moment_ms, help="... and until")
    parser.add_argument("--traces-max", metavar="N", type=_count, help="stop after so many traces")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--svg", metavar="FILE", type=Path, help="also write it as a picture")
    parser.add_argument("--html", metavar="FILE", type=Path, help="also write it as a page")
    add_settings_arguments(parser, _KAFKA)


def add_undrop_arguments(parser: argparse.ArgumentParser) -> None:
    """See spanferry_worker.sampling.undrop."""
    parser.description = (
        "Writes dropped or cut traces into MLflow, whole, as long as Kafka retains their records. Asks "
        "before. Exit codes: 0 all are whole in MLflow, 1 some are not, 2 wrong usage, 3 Kafka or MLflow "
        "cannot be reached or refuses."
    )
    parser.add_argument("traces", metavar="TRACE_ID", nargs="+", type=_trace, help=_ID)
    _add_where(parser)
    parser.add_argument(
        "--incomplete",
        action="store_true",
        help="also traces of which spans are missing in Kafka",
    )
    writing = parser.add_mutually_exclusive_group()
    writing.add_argument("--yes", action="store_true", help="do not ask")
    writing.add_argument("--dry-run", action="store_true", help="only say what would be written")
    add_settings_arguments(parser, _STORE)


def _add_where(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--since",
        metavar="WHEN",
        type=moment_ms,
        help=f"read records since then only: {_WHEN}; else all that Kafka retains",
    )
    parser.add_argument(
        "--everywhere",
        action="store_true",
        help="look in every partition, where the topic was given more of them since",
    )


def _trace(text: str) -> TraceWanted:
    digits = text.lower().removeprefix("tr-")
    if not _DIGITS_MIN <= len(digits) <= 32 or set(digits) - set("0123456789abcdef"):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no trace id: tr- and 32 hexadecimal digits, or the first {_DIGITS_MIN} or more"
        )
    return TraceWanted(digits)


def _count(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text[:19]) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give a whole number from 1 on")
    return int(text[:19])
