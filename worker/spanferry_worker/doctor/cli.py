"""`spanferry doctor`: the examination as text or JSON."""

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from typing import Final

import msgspec

from spanferry_schemas.limits import RECORD_BYTES_MAX
from spanferry_worker.arguments import add_settings_arguments, settings_from
from spanferry_worker.doctor.examination import examine
from spanferry_worker.doctor.findings import Finding, Level, healthy

__all__ = ["add_arguments", "as_json", "as_text", "run"]

_MARKS: Final = {Level.GOOD: ("✓", "32"), Level.NOTE: ("!", "33"), Level.PROBLEM: ("✗", "31")}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See spanferry_worker.cli."""
    parser.add_argument("--json", action="store_true", help="findings as JSON")
    parser.add_argument(
        "--connect-timeout", metavar="S", type=float, default=5.0, help="for every connection"
    )
    parser.add_argument(
        "--crossing-timeout", metavar="S", type=float, default=30.0, help="for the synthetic trace"
    )
    parser.add_argument(
        "--record-bytes-max",
        metavar="BYTES",
        type=int,
        default=int(os.environ.get("SPANFERRY_RECORD_BYTES_MAX") or RECORD_BYTES_MAX),
        help="the largest record that the apps send",
    )
    add_settings_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """0 where all is well, 1 where something is wrong."""
    settings = settings_from(args, os.environ)
    # What clients log while they try is said by the findings, in better words.
    logging.disable(logging.CRITICAL)
    found = asyncio.run(
        examine(
            settings,
            record_bytes_max=args.record_bytes_max,
            connect_s=args.connect_timeout,
            crossing_s=args.crossing_timeout,
        )
    )
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    sys.stdout.write(as_json(found) if args.json else as_text(found, colour=colour))
    return 0 if healthy(found) else 1


def as_json(found: Sequence[Finding]) -> str:
    """One object: `healthy` and the findings."""
    content = {"healthy": healthy(found), "findings": found}
    return msgspec.json.format(msgspec.json.encode(content), indent=2).decode() + "\n"


def as_text(found: Sequence[Finding], *, colour: bool) -> str:
    """A line for each finding, its remedy below it, and a last word."""
    width = max((len(finding.area) for finding in found), default=0)
    lines: list[str] = []
    for finding in found:
        mark, code = _MARKS[finding.level]
        mark = f"\x1b[{code}m{mark}\x1b[0m" if colour else mark
        took = "" if finding.ms is None else f" ({finding.ms:.0f} ms)"
        lines.append(f"{mark} {finding.area:<{width}}  {finding.text}{took}")
        if finding.remedy is not None:
            lines.append(f"  {'':<{width}}  → {finding.remedy}")
    wrong = sum(finding.level is Level.PROBLEM for finding in found)
    word = {0: "All is well.", 1: "1 thing is wrong."}.get(wrong, f"{wrong} things are wrong.")
    return "\n".join([*lines, "", word, ""])
